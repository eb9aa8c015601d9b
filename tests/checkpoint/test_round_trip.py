"""What is saved is what is loaded, to the bit."""

import json
import math
import os
import random
import re
import struct
import warnings

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import Part, TinyFlow, fill, same

from likeli import checkpoint as ck
from likeli.checkpoint import strict_json as strict
from likeli.checkpoint import tensors
from likeli.config import describe
from likeli.errors import CheckpointError, InputError, LikeliError
from likeli.models.independent import Independent
from likeli.spaces import Column, Labels, Pixels, Real, Table, Tokens

SPACES = [Real((2,), mean=(0.1, 1 / 3), scale=(1e-20, 7.0)), Pixels((2, 3), 16), Tokens(3, 4, "ab\\\u20ac"), Real(())]


@pytest.mark.parametrize("space", SPACES, ids=lambda s: s.kind())
@pytest.mark.parametrize("flat", [False, True])
def test_model_comes_back_to_the_bit(tmp_path, space, flat):
    model = fill(TinyFlow(space, (4, 2), 1 / 3, "b", Part(1e-300, ("NaN", "\\x", "é")), 2, Labels(3, ("a", "b", "c"))), 5)
    (ck.save_pretrained if flat else ck.save)(model, tmp_path / "x")
    before = torch.random.get_rng_state()
    loaded = ck.load(tmp_path / "x")
    assert torch.equal(before, torch.random.get_rng_state())
    assert describe(loaded) == describe(model)
    assert same(loaded.state_dict(), model.state_dict())
    assert torch.equal(loaded.table, model.table)
    assert not loaded.training


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtype_of_the_whole_model_comes_back(tmp_path, model, dtype):
    model = fill(model.to(dtype))
    ck.save(model, tmp_path / "x")
    assert same(ck.from_pretrained(tmp_path / "x").state_dict(), model.state_dict())


def test_state_comes_back_to_the_bit(tmp_path, model):
    state = {
        "step": 7, "best": math.inf, "losses": [0.1 + 0.2, -0.0, 5e-324, math.nan, -math.inf, 1e308],
        "text": ["NaN", "\\", "Infinity"],
        "nested": {"big": 2**200, "none": None, "yes": True, "numpy": torch.tensor(1 / 3, dtype=torch.float64)},
    }  # fmt: skip
    held = {f"t/{d}".replace("torch.", ""): torch.arange(6).reshape(2, 3).to(d) for d in tensors.DTYPES.values()}
    held |= {"nan": torch.tensor([math.nan, math.inf]), "none": torch.zeros(0, 2), "turned": torch.arange(6.0).reshape(2, 3).T}
    ck.save(
        model, tmp_path / "x", info={"data": {"name": "digits"}, "metrics": {"nats": -1 / 3}}, state=state, state_tensors=held
    )
    got = ck.read(tmp_path / "x")
    assert got.step == 7
    assert got.info == {"data": {"name": "digits"}, "metrics": {"nats": -1 / 3}}
    assert [struct.pack("d", v) for v in got.state["losses"]] == [struct.pack("d", v) for v in state["losses"]]
    assert got.state["best"] == math.inf
    assert got.state["text"] == state["text"]
    assert got.state["nested"] == state["nested"] | {"numpy": 1 / 3}
    assert same({k: got.state_tensors[k] for k in held}, held)


def test_the_safetensors_package_reads_ours_and_ours_reads_its(tmp_path, model):
    folder = ck.save(model, tmp_path / "x")
    theirs = safetensors.torch.load_file(folder / "model.safetensors")
    assert same({k: theirs[k] for k in model.state_dict()}, model.state_dict())
    (tmp_path / "b").write_bytes(safetensors.torch.save({k: v.clone() for k, v in theirs.items()}))
    with open(tmp_path / "b", "rb") as f:
        data = (tmp_path / "b").read_bytes()
        read = tensors.TensorFile(f.fileno(), len(data), "b").tensors(__import__("hashlib").sha256(data).hexdigest())
    assert same({k: read[k] for k in theirs}, theirs)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(plain)
def test_plain_values_come_back_equal(value):
    assert strict.loads(strict.dumps(value, "value", 1 << 24), "value") == value


@pytest.mark.parametrize(
    "text, fault",
    [
        (b'{"a":1,"a":2}', "duplicate key"), (b'{"a":NaN}', "NaN"), (b"[1e999]", "overflows"), (b"[Infinity]", "Infinity"),
        (b"[" * 50_000 + b"]" * 50_000, "levels"), (b'{"a":' * 33 + b"1" + b"}" * 33, "levels"), (b'{"a": 1', "line 1 column"),
        (b"", "line 1 column"), (b"\xff\xfe{}", "utf-8"), (b'["\\ud800"]', "surrogates"), (b'{"\\ud800":1}', "surrogates"),
        (b"1" * 5000, "digits"), (b'"' + b'\\"' * 400_000, "Unterminated"), (b'{"a":1}x', "Extra data"), (b'"\x00"', "control"),
    ],
    ids=range(15),
)  # fmt: skip
def test_json_that_is_not_strict_is_refused_in_one_line(text, fault):
    with pytest.raises(CheckpointError, match=fault) as error:
        strict.loads(text, "f")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_brackets_in_texts_are_not_depth():
    assert strict.loads(strict.dumps(["[" * 100 + '"\\{'], "v", 1000), "v") == ["[" * 100 + '"\\{']


@pytest.mark.parametrize("state", [{1: 2}, {"a": object()}, {"a": {2}}, {"a": torch.zeros(2)}, {"step": -1}, {"step": True}])
def test_values_that_are_not_plain_are_refused_before_the_disk_is_touched(tmp_path, model, state):
    with pytest.raises(InputError):
        ck.save(model, tmp_path / "x", state=state)
    assert not (tmp_path / "x").exists()


def test_weights_that_are_not_finite_are_not_saved(tmp_path, model):
    ck.save(model, tmp_path / "x")
    with torch.no_grad():
        model.net[0].bias[1] = math.nan
    with ck.lock(tmp_path / "x"), pytest.raises(InputError, match=r"net\.0\.bias"):
        ck.save(model, tmp_path / "x")
    assert same(ck.load(tmp_path / "x").state_dict(), fill(model).state_dict())


def test_two_generations_are_kept(tmp_path, model):
    with ck.lock(tmp_path / "x"):
        for step in range(5):
            ck.save(fill(model, step), tmp_path / "x", state={"step": step})
    assert [p.name for p in sorted((tmp_path / "x/checkpoints").iterdir())] == ["00000004", "00000005"]
    assert ck.read(tmp_path / "x").step == 4
    assert ck.read(tmp_path / "x/checkpoints/00000004").step == 3


def test_damaged_newest_falls_back_with_a_warning(tmp_path, model):
    with ck.lock(tmp_path / "x"):
        old = ck.save(fill(model, 1), tmp_path / "x")
        new = ck.save(fill(model, 2), tmp_path / "x")
    expected = fill(model, 1).state_dict()
    whole = {p.name: p.read_bytes() for p in new.iterdir() if p.name != "README.md"}
    cuts = random.Random(0)
    for name, data in whole.items():
        for cut in [0, 1, 7, 8, 9, len(data) - 1, *cuts.sample(range(len(data)), 5)]:
            (new / name).write_bytes(data[:cut])
            with pytest.warns(UserWarning, match=f"{new.name}.*loading .*{old.name}"):
                assert same(ck.load(tmp_path / "x").state_dict(), expected)
        (new / name).write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(ck.load(tmp_path / "x").state_dict(), fill(model, 2).state_dict())
    (new / "config.json").write_text("tampered")
    for file in old.iterdir():
        file.unlink()
    with pytest.raises(CheckpointError, match=r"00000002.*config"):
        ck.load(tmp_path / "x")


@pytest.mark.parametrize("edit", ["written", "removed", "a link"])
def test_a_card_is_there_to_be_edited(tmp_path, model, edit):
    flat, run = tmp_path / "flat", tmp_path / "run"
    ck.save_pretrained(model, flat)
    with ck.lock(run):
        ck.save(fill(model, 1), run)
        newest = ck.save(fill(model, 2), run)
    for folder in (flat, newest):
        (folder / "README.md").unlink() if edit != "written" else (folder / "README.md").write_text("ours")
        if edit == "a link":
            (folder / "README.md").symlink_to("/dev/zero")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no falling back to older weights
        assert same(ck.load(run).state_dict(), fill(model, 2).state_dict())
        ck.load(flat)
        ck.inspect(run)


def test_names_that_are_no_utf8_are_escaped_and_read_back(tmp_path, model):
    name = os.fsdecode(b"caf\xe9.csv")
    ck.save(model, tmp_path / "x", info={"data": {"source": name, name: 1}})
    assert ck.read(tmp_path / "x").info["data"] == {"source": r"caf\udce9.csv", r"caf\udce9.csv": 1}


def test_a_table_of_twenty_thousand_names_is_saved(tmp_path):
    names = tuple(f"ENSG{i:011d}" for i in range(20_000))
    space = Real((20_000,), mean=tuple(map(float, range(20_000))), scale=0.1, names=names)
    ck.save_pretrained(fill(TinyFlow(space)), tmp_path / "x")
    assert describe(ck.load(tmp_path / "x").space) == describe(space)


@pytest.mark.parametrize("told,info,names", [
    ("most of them of model.space.columns: fewer columns (--types NAME=drop), or kind real or counts", {}, 20),
    ("most of them of info.note: make that shorter", {"note": "x" * (1 << 24)}, 2),
])  # fmt: skip
def test_what_makes_a_config_too_long_is_named_with_a_remedy(tmp_path, told, info, names):
    model = Independent(Table([Column("c" * (1 << 20) * (names > 2) + str(i)) for i in range(names)]))
    with pytest.raises(InputError, match=f"^config.json: expected at most 16777216 bytes, got .* bytes, {re.escape(told)}"):
        ck.save(model, tmp_path / "run", info=info)
    assert not (tmp_path / "run").exists()


def test_inspect_tells_all(tmp_path, model):
    ck.save(model, tmp_path / "x", info={"metrics": {"nats": -1.5}}, state={"step": 3})
    facts = ck.inspect(tmp_path / "x")
    json.dumps(facts, allow_nan=False)
    assert (facts["class"], facts["knows"], facts["measure"], facts["step"]) == ("tiny_flow", "exact", "density", 3)
    assert facts["parameters"] == 2 * 3 + 3
    assert facts["metrics"] == {"nats": -1.5}
    assert set(facts["files"]) == {"config.json", "model.safetensors", "README.md", "train_state.json"}
    assert facts["space"]["names"] == ["a|b", "<script>"]
    assert facts["resumable"]
    assert not facts["warnings"]


def test_the_card_says_what_the_number_is_and_holds_no_markup(tmp_path, model):
    info = {"data": {"name": "<img src=x>\n# evil|", "rows": 5}, "metrics": {"nats": -1.5}}
    text = (ck.save(model, tmp_path / "x", info=info) / "README.md").read_text()
    for part in ("# tiny_flow", "exact: log p(x) itself", "density, in nats", "shape (2,)", "-1.5", "likeli.load"):
        assert part in text
    assert "\\<img src=x\\> \\# evil\\|" in text
    assert "\n# evil" not in text


@pytest.mark.parametrize("device", ["nowhere", "cuda:99", "meta:x"])
def test_a_device_that_is_not_there_is_refused(tmp_path, model, device):
    ck.save(model, tmp_path / "x")
    with pytest.raises(LikeliError, match="device"):
        ck.load(tmp_path / "x", device=device)
