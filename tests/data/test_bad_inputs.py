"""Every bad input gives one line that says what, where and what to do; every odd but good one is taken."""

from __future__ import annotations

import os
import re
import resource
import time

import pytest
from bad_inputs import CANARY, REFUSED, TAKEN

from likeli.data import load_data
from likeli.errors import InputError


def arguments(made):
    return made if isinstance(made, tuple) and isinstance(made[-1], dict) else (made, {})


def test_names_are_distinct():
    names = [name for name, *_ in REFUSED + TAKEN]
    assert len(set(names)) == len(names)
    assert len(names) >= 114


@pytest.mark.parametrize("name, maker, pattern", REFUSED, ids=[r[0] for r in REFUSED])
def test_refused_in_one_line(name, maker, pattern, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source, options = arguments(maker(tmp_path))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(InputError, match=pattern) as caught:
        load_data(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert 10 <= len(message) <= 600
    assert not os.path.exists(CANARY)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024
    assert time.process_time() - start < 5


@pytest.mark.parametrize("name, maker, warning", TAKEN, ids=[t[0] for t in TAKEN])
def test_taken(name, maker, warning, tmp_path):
    source, options = arguments(maker(tmp_path))
    data = load_data(source, **options)
    assert len(data) >= 2
    if warning:
        assert any(re.search(warning, w) for w in data.warnings), data.warnings
    else:
        assert data.warnings == []
