"""Books, words and lines as rows of symbols: what the vocabulary has seen, how the text is split, what is refused."""

import math
import random

import pytest
import torch

from likeli.contract import Knows
from likeli.data import load_data, load_rows, rebuild
from likeli.errors import InputError
from likeli.evaluation.likelihood import bits_per, evaluate
from likeli.models.independent import Independent
from likeli.spaces import Bytes, Characters, ended, extents
from likeli.training import fit

BOOK = "".join(random.Random(0).choices("abcde \n", k=2000))
WORDS = [w * n for n in range(1, 5) for w in ("ab", "ba", "c", "abc", "cc")]


def file(tmp_path, text, name="book.txt"):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(tmp_path / name)


def test_windows_keep_the_order_of_the_text_and_never_cross_its_parts(tmp_path):
    data = load_data(file(tmp_path, BOOK), context=16)
    train, valid, test = ("".join(data.space.decode(data.split(p)[0])) for p in ("train", "valid", "test"))
    assert train == BOOK[:1600]
    assert valid == BOOK[1600:1792]  # 200 characters are 12 windows and a half
    assert test == BOOK[1800:1992]
    assert data.warnings[0].endswith("16 symbols at the ends of the parts do not fill a window and were left out")


def test_training_windows_may_overlap_and_the_others_do_not(tmp_path):
    data = load_data(file(tmp_path, BOOK), context=16, stride=4)
    train = data.space.decode(data.split("train")[0])
    assert train == [BOOK[i : i + 16] for i in range(0, 1600 - 15, 4)]
    assert "".join(data.space.decode(data.split("test")[0])) == BOOK[1800:1992]
    assert rebuild(data.describe()).fingerprint() == data.fingerprint()


def test_the_vocabulary_is_that_of_the_training_part(tmp_path):
    path = file(tmp_path, BOOK[:1900] + "Z\n" + BOOK[:20])
    with pytest.raises(InputError, match=r"book.txt: line \d+, column \d+: character 'Z' is not among the 7"):
        load_data(path, unit="char")
    mapped = load_data(path, unit="char", unknown="?", context=11)
    assert mapped.space.alphabet.symbols == "\n ?abcde"
    assert "".join(mapped.space.decode(mapped.split("test")[0])).count("?") == 1
    assert any("1 characters that the vocabulary does not have are read as '?'" in w for w in mapped.warnings)
    with pytest.warns(UserWarning, match="2 characters that the vocabulary does not have are read as another"):
        load_rows(file(tmp_path, "aZbYa" + "b" * 6, "more.txt"), mapped.space)
    plain = load_data(path)
    assert isinstance(plain.space.alphabet, Bytes)
    assert any("1 characters that the training part lacks, such as 'Z'" in w for w in plain.warnings)
    for data in (mapped, plain):
        again = rebuild(data.describe())
        assert (again.fingerprint(), again.describe()["space"]) == (data.fingerprint(), data.describe()["space"])


def test_bytes_of_any_text_and_back(tmp_path):
    text = "naïve — 猫\n" * 60
    data = load_data(file(tmp_path, text), unit="byte", context=7, fractions=(1.0, 0.0, 0.0))
    assert data.x.numel() == len(text.encode()) // 7 * 7
    assert bytes(data.x.flatten().tolist()) == text.encode()[: data.x.numel()]


def test_words_of_unequal_length_are_rows_that_end(tmp_path):
    from_file = load_data(file(tmp_path, "\n".join(WORDS) + "\n"))
    assert any("every line is one word" in w for w in from_file.warnings)
    in_memory = load_data(WORDS)
    for data in (from_file, in_memory):
        assert data.space.decode(data.x) == WORDS
        assert data.space.length == max(map(len, WORDS))
        assert torch.equal(data.x, ended(data.x, data.space.end))
        assert sorted(torch.cat([data.train, data.valid, data.test]).tolist()) == list(range(len(WORDS)))
    rows = load_rows(file(tmp_path, "ab\n\ncab"), in_memory.space)[0]
    assert torch.equal(rows, load_rows(["ab", "", "cab"], in_memory.space)[0])


def test_lines_longer_than_the_context_are_refused_or_cut(tmp_path):
    path = file(tmp_path, "ab\nabab\nb\nba ab\n")
    with pytest.raises(InputError, match=r"line 2: expected at most 3 symbols .the context., got 4; cut=true .* there are 2"):
        load_data(path, unit="line", context=3)
    data = load_data(path, unit="line", context=3, cut=True, fractions=(1.0, 0.0, 0.0))
    assert data.space.decode(data.x) == ["ab", "aba", "b", "ba "]
    assert rebuild(data.describe()).fingerprint() == data.fingerprint()


def test_merged_bytes_fit_on_the_training_part_alone(tmp_path):
    pytest.importorskip("tokenizers")
    path = file(tmp_path, "the cat sat on the mat " * 80 + "zyzzyva " * 30)
    data = load_data(path, unit="bpe", vocab=280, context=8)
    spelled = {data.space.alphabet.decode([i]) for i in range(256, data.space.vocab)}
    assert "the" in "".join(spelled)
    assert not any("zy" in s for s in spelled)
    assert rebuild(data.describe()).describe() == data.describe()
    model = Independent(data.space)
    fit(model, data)
    found = evaluate(model, data)
    assert found.knows is Knows.LOWER_BOUND
    assert any("lower bound on log p of the text" in note for note in found.notes)
    x = data.split("test")[0]
    size = sum(len(t.encode()) for t in data.space.decode(x))
    assert found.rates["bits_per_byte"][0] == pytest.approx(-found.nats * len(x) / size / math.log(2))


def test_bits_are_per_symbol_that_counts_and_per_byte_of_the_text():
    data = load_data(["né", "n", "", "ée", "en", "een", "neen", "née", "é"] * 9, fractions=(1.0, 0.0, 0.0))
    amounts = extents(data.space, data.x)
    texts = data.space.decode(data.x)
    full = [len(t) == data.space.length for t in texts]
    assert amounts["symbol"].tolist() == [len(t) + (not f) for t, f in zip(texts, full)]
    assert amounts["byte"].tolist() == [len(t.encode()) + (not f) for t, f in zip(texts, full)]
    model = Independent(data.space)
    fit(model, data)
    found, value = evaluate(model, data.x), model.log_likelihood(data.x).value
    assert found.row()["bits_per_symbol"] == pytest.approx(-value.sum().item() / math.log(2) / amounts["symbol"].sum().item())
    assert found.row()["bits_per_byte"] < found.row()["bits_per_symbol"]


def test_the_error_of_a_rate_is_that_of_a_ratio_of_means():
    """Over 2,000 draws of 100 rows the spread of the ratio is its stated error to 5 % (s.e. of a spread: 1.6 %)."""
    generator = torch.Generator().manual_seed(0)
    amount = torch.randint(1, 9, (2000, 100), generator=generator)
    value = -2.0 * amount - torch.randn(2000, 100, generator=generator)
    found = [bits_per(v, a) for v, a in zip(value, amount)]
    rates, errors = torch.tensor(found, dtype=torch.float64).unbind(1)
    assert errors.mean() / rates.std() == pytest.approx(1, abs=0.05)
    assert rates.mean() == pytest.approx(2 / math.log(2), abs=4 * (rates.std() / math.sqrt(2000)).item() + 1e-3)
    assert math.isnan(bits_per(value[0, :1], amount[0, :1])[1])


def test_text_of_another_runs_vocabulary_is_refused(tmp_path):
    one, other = load_data(WORDS), load_data([w.replace("c", "d") for w in WORDS])
    model = Independent(one.space)
    for use in (lambda: evaluate(model, other), lambda: fit(model, other)):
        with pytest.raises(InputError, match=r"in the model's vocabulary; read it with vocab=.*, got another vocabulary"):
            use()
    with pytest.raises(InputError, match="column 1: character 'd' is not among the 3"):
        model.log_likelihood(["d"])
    same = load_data(WORDS[:12], vocab=one.space.alphabet)
    assert same.space.alphabet is one.space.alphabet


@pytest.mark.parametrize(("text", "options", "message"), [
    ("", {}, "expected a file with content, got an empty file"),
    ("\ufeff", {}, "expected a text, got an empty one"),
    ("ab" * 50, {"unit": "word"}, "unit: expected char, byte, bpe, or line"),
    ("ab" * 50, {"context": 0}, "context: expected a whole number from 1"),
    ("ab" * 50, {"context": 90}, "at least 90 symbols .the context. to train on, got 80"),
    ("ab" * 50, {"context": 8, "stride": 9}, "stride: expected a whole number from 1 to 8"),
    ("ab" * 50, {"context": 8, "stride": 2.5}, "stride: expected a whole number"),
    ("ab\n" * 50, {"unit": "line", "stride": 1}, "stride: expected nothing for whole lines"),
    ("ab" * 50, {"cut": True}, "cut: expected nothing for windows"),
    ("ab" * 50, {"unit": "byte", "unknown": "?"}, "unknown: expected nothing with unit=byte"),
    ("ab" * 50, {"unit": "byte", "vocab": 300}, "vocab: expected nothing with unit=byte"),
    ("ab" * 50, {"unit": "char", "unknown": "??"}, "unknown: expected one character"),
    ("abc" * 50, {"unit": "char", "vocab": 2}, "vocab: expected at least 3 characters, or unknown="),
    ("ab" * 50, {"unit": "char", "vocab": 10**6}, "vocab: expected a whole number from 2"),
    ("ab" * 50, {"lenght": 8}, "option: expected one of context, .*got lenght"),
    (b"abc\n" * 20 + "é".encode()[:1], {}, "line 21 is not UTF-8 .byte 0xc3"),
    (b"abc" + "猫".encode()[:2] + b"def\n" * 20, {"unit": "byte"}, "line 1 is not UTF-8"),
], ids=str)  # fmt: skip
def test_what_is_no_text_or_does_not_fit_is_refused(text, options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        load_data(file(tmp_path, text), **options)


def test_rows_that_no_model_of_this_text_can_take(tmp_path):
    space = load_data(file(tmp_path, BOOK), context=16).space
    for text, message in [("", "got an empty file"), ("abc", "at least 16 symbols, one window"), ("xyz" * 9, "'x' is not")]:
        with pytest.raises(InputError, match=message):
            load_rows(file(tmp_path, text, "more.txt"), space)
    with pytest.warns(UserWarning, match="the last 4 symbols do not fill a window"):
        assert len(load_rows(file(tmp_path, "abcde" * 4, "more.txt"), space)[0]) == 1
    words = load_data(WORDS).space
    with pytest.raises(InputError, match=r"more.txt: line 2: expected at most 12 symbols .* got 13"):
        load_rows(file(tmp_path, "ab\n" + "a" * 13, "more.txt"), words)
    with pytest.raises(InputError, match="text, row 1: expected one line"):
        load_data(["ab", "c\nd"])


def test_a_vocabulary_of_the_commonest(tmp_path):
    data = load_data(file(tmp_path, "a" * 600 + "b" * 300 + "c" * 50 + "ab" * 500), unit="char", vocab=3, unknown="?")
    assert data.space.alphabet.symbols == "?ab"
    assert isinstance(data.space.alphabet, Characters)
