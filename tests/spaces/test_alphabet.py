"""Texts as symbols and back: characters, bytes, merged bytes; rows that end; masses that sum to one over them."""

import itertools
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from likeli.config import build, describe
from likeli.contract import Knows
from likeli.errors import InputError
from likeli.models.categorical_mixture import CategoricalMixture
from likeli.models.independent import Independent
from likeli.models.vae import VAE
from likeli.models.vdm import VDM
from likeli.random import seeded
from likeli.spaces import BytePairs, Bytes, Categorical, Characters, Space, Tokens, counted, ended

TEXT = "the cat sat on the mat; the rat sat on the cat, naïve — 猫\n"
ENDED = Tokens(3, 4, "abc", ends=True)


def canonical(space):
    """Every row of a space with an end, once: what follows an end is its end."""
    every = torch.tensor(list(itertools.product(range(space.vocab), repeat=space.length)))
    return every[(ended(every, space.end) == every).all(1)]


def pairs(text, size):
    """Byte-pair encoding by the package, which the plain environment of the library does not have."""
    pytest.importorskip("tokenizers")
    return BytePairs.of(text, size)


def test_what_counts_is_up_to_and_with_the_first_end():
    x = torch.tensor([[0, 1, 2], [3, 1, 3], [0, 3, 3], [0, 1, 3]])
    assert counted(x, 3).tolist() == [[True] * 3, [True, False, False], [True, True, False], [True] * 3]
    assert ended(x, 3).tolist() == [[0, 1, 2], [3, 3, 3], [0, 3, 3], [0, 1, 3]]
    assert counted(x, None).all()
    assert ended(x, None) is x
    assert Space.end is None
    assert (ENDED.end, Tokens(3, 4).end) == (3, None)


def test_texts_of_unequal_length_are_rows_that_end():
    x = ENDED.check(["ab", "", "cab"])
    assert x.tolist() == [[0, 1, 3], [3, 3, 3], [2, 0, 1]]
    assert ENDED.decode(x) == ["ab", "", "cab"]
    assert torch.equal(ENDED.check([[0, 1, 3], [3, 0, 1], [2, 0, 1]]), x)
    assert ENDED.check("ab").tolist() == [[0, 1, 3]]
    assert torch.equal(ENDED.from_model(ENDED.to_model(x)), x)
    assert Tokens(3, 4, ends=True).decode(x) == ["0 1", "", "2 0 1"]


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_bytes_spell_every_text(text):
    assert Bytes().decode(Bytes().encode(text)) == text
    assert len(Bytes().encode(text)) == len(text.encode())


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_merged_bytes_spell_every_text(text):
    alphabet = pairs(TEXT * 5, 300)
    codes = alphabet.encode(text)
    assert alphabet.decode(codes) == text
    assert sum(alphabet.widths[i] for i in codes) == len(text.encode())


def test_merged_bytes_are_stored_as_plain_numbers_and_need_no_package_to_read():
    alphabet = pairs(TEXT * 5, 300)
    assert 256 < alphabet.size <= 300
    again = build(json.loads(json.dumps(describe(alphabet))), BytePairs)
    codes = alphabet.encode(TEXT)
    assert (again.encode(TEXT), again.decode(codes), again.size) == (codes, TEXT, alphabet.size)
    assert len(codes) < len(TEXT.encode()) * 0.6
    assert pairs(TEXT * 5, 300).merges == alphabet.merges


def test_merges_apply_by_hand():
    alphabet = BytePairs(((97, 98), (256, 99), (98, 99), (97, 258)))  # ab, abc, bc, and a+bc, which is abc again
    assert alphabet.size == 259
    assert alphabet.decode([257, 258, 100]) == "abcbcd"
    assert alphabet.widths[255:] == [1, 2, 3, 2]
    assert alphabet.decode([0xC3]) == "\ufffd"
    for wrong in (((97, 256),), ((-1, 3),)):
        with pytest.raises(InputError, match="pairs of earlier symbols"):
            BytePairs(wrong)


def test_a_vocabulary_of_characters():
    assert Characters.of("banana").symbols == "abn"
    assert Characters.of("banana", unknown="?").symbols == "?abn"
    few = Characters.of("banana", most=2, unknown="?")
    assert (few.symbols, few.replaced("banana")) == ("?a", 3)
    assert few.decode(few.encode("banana")) == "?a?a?a"
    assert Characters("aé猫").widths == [1, 2, 3]
    with pytest.raises(InputError, match="vocab: expected at least 3 characters"):
        Characters.of("banana", most=2)


@pytest.mark.parametrize("alphabet", [Characters("ab\n"), Bytes()])
def test_half_a_character_is_refused_by_line_and_column(alphabet):
    with pytest.raises(InputError, match="prompt: line 2, column 2: expected UTF-8, got half a character"):
        alphabet.encode("a\nb\udcc3", "prompt")


@pytest.mark.parametrize(("call", "message"), [
    (lambda: Characters("ab\n").encode("ab\nbz"), "text: line 2, column 2: character 'z' is not among the 3"),
    (lambda: Characters("aa"), "symbols: expected characters that differ"),
    (lambda: Characters("ab", "?"), "unknown: expected one of the symbols"),
    (lambda: ENDED.check(["abca"]), "x, row 0: expected at most 3 symbols .the context., got 4: 'abca'"),
    (lambda: Tokens(3, 3, "abc").check(["abc", "ab"]), "x, row 1: expected 3 symbols"),
    (lambda: ENDED.check([[0, 1, 4]]), "symbols from 0 to 3, got 4"),
    (lambda: Tokens(3, 4).check(["abc"]), "expected rows of symbols"),
    (lambda: Tokens(3, 3, "abc", ends=True), "alphabet: expected 2 symbols, got 3"),
    (lambda: Tokens(3, 1, ends=True), "vocab: expected at least 2"),
])
def test_what_does_not_fit_is_refused_in_one_line(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize(("cls", "options"), [(Independent, {}), (CategoricalMixture, {"components": 2})])
@pytest.mark.parametrize("space", [ENDED, Tokens(2, 11, ends=True)], ids=["few symbols", "many"])
def test_the_mass_of_rows_that_end_sums_to_one(cls, options, space):
    """Over every row once; and the coder's pmfs are the conditionals: Σ_i log P(x_i | x_<i) = log P(x)."""
    every, model = canonical(space), cls(space, **options)
    with seeded(0):
        rows = space.check(torch.randint(space.vocab, (200, space.length)))
    if cls is Independent:
        model.fit_closed_form(rows)
    else:
        list(model.em(rows))
    value = model.log_likelihood(every).value
    assert value.exp().sum().item() == pytest.approx(1, abs=1e-12)
    pmfs = [model.next_log_pmf(every, i).gather(1, every[:, i : i + 1])[:, 0] for i in range(space.length)]
    assert (sum(pmfs) - value).abs().max() < 1e-12
    drawn = model.sample(20_000, seed=1)
    assert torch.equal(drawn, ended(drawn, space.end))
    counts = (drawn[:, None] == every).all(2).sum(0)
    expected = 20_000 * value.exp()
    # Σ (o−e)²/e has mean k−1 and, for cells of e ≥ 1, variance of about 2(k−1) + Σ 1/e: six standard deviations
    seen = expected > 1
    excess = ((counts - expected).square() / expected)[seen].sum() - seen.sum()
    assert excess < 6 * (2 * seen.sum() + (1 / expected[seen]).sum()).sqrt()


def test_a_head_gives_rows_that_end_their_whole_mass():
    with seeded(0):
        out = torch.randn(1, 4, 3, dtype=torch.float64)
    every = canonical(ENDED)
    p = Categorical().on(ENDED)(out.expand(len(every), -1, -1))
    assert p.log_prob(every).exp().sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("cls", [VAE, VDM])
def test_families_of_today_take_rows_that_end(cls):
    with seeded(0):
        model = cls(ENDED)
    texts = ["ab", "", "cab"]
    value = model.log_likelihood(texts)
    assert value.knows is Knows.LOWER_BOUND
    assert torch.equal(value.value, model.log_likelihood([[0, 1, 3], [3, 2, 2], [2, 0, 1]]).value)
    assert ENDED.check(model.sample(5)).shape == (5, 3)
