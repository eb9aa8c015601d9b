"""Captions by a text encoder that was trained elsewhere."""

import json
import sys

import pytest
import torch

import likeli
from likeli.errors import InputError, MissingExtra

WORDS = ["[PAD]", "[UNK]", "two", "red", "bricks", "a", "green", "cross"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp("encoder")
    (path / "vocab.txt").write_text("\n".join(["[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")
    torch.manual_seed(0)
    size = {"vocab_size": len(WORDS) + 3, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    net = transformers.BertModel(transformers.BertConfig(**size, intermediate_size=32, max_position_embeddings=8))
    net.save_pretrained(path)
    transformers.BertTokenizer(vocab=str(path / "vocab.txt")).save_pretrained(path)
    return path


def test_a_text_is_the_mean_of_its_tokens_whatever_it_is_read_with(folder):
    encoder = likeli.FrozenEncoder(folder)
    texts = ["two red bricks", "a green cross a green cross a green cross", "a cross"]
    found = encoder(texts)
    assert found.shape == (3, 16) and not found.requires_grad
    for row, text in zip(found, texts):
        ids = torch.tensor([encoder.tokenizer(text, truncation=True, max_length=8)["input_ids"]])
        torch.testing.assert_close(row, encoder.net(input_ids=ids).last_hidden_state[0].mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(encoder(texts * 50), found.repeat(50, 1), rtol=1e-5, atol=1e-6)


def test_its_vectors_are_a_condition(folder):
    encoder = likeli.FrozenEncoder(folder)
    pictures = likeli.load_data(torch.randint(0, 256, (20, 8, 8)), labels=encoder(["two red bricks", "a green cross"] * 10))
    model = likeli.FlowMatching(pictures.space, hidden=(4, 4), network="mlp", condition=pictures.condition)
    assert model.sample(2, encoder(["a red cross"]), steps=2).shape == (2, 8, 8)


def test_what_it_refuses(folder, tmp_path):
    encoder = likeli.FrozenEncoder(folder)
    for texts in ("a red cross", [], [3]):
        with pytest.raises(InputError, match="texts: expected a list of one or more texts"):
            encoder(texts)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no such"}))
    with pytest.raises(InputError, match="encoder: expected a text encoder of transformers in"):
        likeli.FrozenEncoder(tmp_path)


def test_no_folder_and_no_transformers(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="encoder: expected the folder of a text encoder"):
        likeli.FrozenEncoder("sentence-transformers/all-MiniLM-L6-v2")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"likeli\[captions\]"):
        likeli.FrozenEncoder(tmp_path)
