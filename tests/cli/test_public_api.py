"""Importing likeli costs nothing and its public names are all there."""

import subprocess
import sys

import pytest

import likeli

PUBLIC = sorted(set(dir(likeli)) - {"annotations", "import_module", "Any"})


@pytest.mark.parametrize("name", [n for n in PUBLIC if not n.startswith("_")])
def test_every_public_name_is_there(name):
    assert getattr(likeli, name) is not None


def test_what_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'VEA'"):
        likeli.VEA


def test_importing_imports_nothing_and_changes_nothing():
    code = (
        "import random, sys, logging, threading; before = random.getstate();"
        "import likeli;"
        "assert not {'torch', 'numpy', 'pandas'} & set(sys.modules);"
        "assert likeli.InputError and 'torch' not in sys.modules;"
        "import torch; state, threads = torch.get_rng_state(), torch.get_num_threads();"
        "likeli.VAE;"
        "assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads;"
        "assert random.getstate() == before and not logging.getLogger().handlers and threading.active_count() == 1"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
