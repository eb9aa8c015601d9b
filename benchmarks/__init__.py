"""Ours beside a named peer, one run: `python -m benchmarks [names] [--json]`.

An entry is one file here with a docstring and three functions; it imports nothing beyond the standard library and numpy at
module level, because its two sides run in two virtual environments:

    prepare(folder, data)        writes the shared data and initial values into `folder`; `data` is the --data folder
    ours(folder, **variant)      a dict of numbers, run by .venv
    peer(folder, **variant)      the same keys, run by .venv-peers

`METRIC` names the key whose ratio is reported ("seconds", where less is better, if not given; `HIGHER = True` where more is),
and `VARIANTS` may list the keyword arguments of several rows, among them `seconds`, a fit's budget, which `--seconds` sets.
With `OWN_PEER = True` the peer needs no environment of its own, and both sides are run by the interpreter of the command.
"""
