"""Every bad input gives one line that says what, where and what to do; every odd but good one is taken."""

from __future__ import annotations

import os
import random
import re
import resource
import time

import numpy as np
import pandas as pd
import pytest
from bad_inputs import CANARY, REFUSED, TAKEN
from PIL import Image

from likeli.data import load_data
from likeli.errors import InputError
from torture import times


def small_files(tmp):
    """A good source of each form: (the file to damage, the source that reads it)."""
    rng = np.random.default_rng(0)
    x, frame = rng.normal(size=(30, 3)), pd.DataFrame({"a": rng.normal(size=30), "b": ["u", "v"] * 15, "c": [1, None] * 15})
    np.save(tmp / "a.npy", x)
    np.savez_compressed(tmp / "a.npz", x=x, y=np.arange(30) % 3)
    frame.to_parquet(tmp / "a.parquet")
    frame.to_csv(tmp / "a.csv", index=False)
    (tmp / "a.txt").write_text("hello world\n" * 30)
    pairs = [(tmp / f"a.{form}", str(tmp / f"a.{form}")) for form in ("npy", "npz", "parquet", "csv", "txt")]
    for form in ("png", "jpg", "webp", "bmp", "gif"):
        (tmp / form).mkdir()
        for k in range(2):
            Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)).save(tmp / form / f"{k}.{form}")
        pairs.append((tmp / form / f"1.{form}", str(tmp / form)))
    return pairs


def damaged(content, rng):
    content = bytearray(content)
    if rng.random() < 0.2:
        return content[: rng.randrange(len(content))]
    for _ in range(rng.choice([1, 1, 2, 8])):
        at = rng.randrange(min(len(content), 400)) if rng.random() < 0.6 else rng.randrange(len(content))
        content[at] = rng.choice([0, 255, rng.randrange(256), content[at] ^ (1 << rng.randrange(8))])
    return content


@pytest.mark.parametrize("mutations", [15, pytest.param(times(1500, 15_000), marks=pytest.mark.slow)])
def test_damaged_bytes_are_read_or_refused_in_one_line(mutations, tmp_path, record_property):
    rng, refused = random.Random(7), 0
    for file, source in small_files(tmp_path):
        good = file.read_bytes()
        for _ in range(mutations):
            file.write_bytes(damaged(good, rng))
            try:
                load_data(source)
            except InputError as error:
                assert "\n" not in str(error)
                assert len(str(error)) <= 600
                refused += 1
        file.write_bytes(good)
        load_data(source)
    record_property("figure", f"{mutations} damaged copies of each kind of file: {refused} refused in one line, others read")


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
