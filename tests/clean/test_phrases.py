"""Letters and the matcher of phrases, against plain Python."""

import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from congling.clean.letters import NEWLINE, STOP, letter_kinds, letters_of, make_filter, may_hold, to_text
from congling.clean.phrases import find, make_matcher

SOME = st.text(alphabet="一二三，。！ \nAb9é😀", max_size=40)


def column(texts):
    return pa.array(texts, pa.large_string())


def plain_letters(text):
    kinds = letter_kinds()
    return "".join(c.lower() if c.isascii() else c for c in text if kinds[ord(c)] == 0)


def matches(phrases, text):
    """{(begin, number of the phrase)}"""
    matcher = make_matcher(phrases)
    begins, found = find(letters_of(column([text]), NEWLINE).letters, matcher)
    assert begins.tolist() == sorted(begins)
    return set(zip(begins.tolist(), matcher.numbers[found].tolist(), strict=True))


@settings(deadline=None)
@given(st.lists(st.tuples(SOME, st.booleans()), max_size=5), st.sampled_from([STOP, NEWLINE]))
def test_letters_are_those_of_all_documents_one_behind_the_other(texts, stop):
    spelled = letters_of(column([t for t, _ in texts]), stop, np.array([here for _, here in texts], np.bool_))
    wanted, ends = "", []
    bounds = [0]
    for text in [t for t, here in texts if here]:
        for part in re.split("[。！\n]" if stop == STOP else "\n", text):
            wanted += plain_letters(part)
            ends += [len(wanted)] if plain_letters(part) else []
        wanted += "\0"
        bounds.append(len(wanted))
    assert to_text(spelled.letters) == wanted
    assert spelled.bounds.tolist() == bounds
    assert spelled.ends.tolist() == ends


def test_a_slice_of_a_column_and_what_is_no_letter():
    letters, bounds, ends = letters_of(column(["xx", "Ab，一 二😀\n三。四!", "yy"]).slice(1, 1), STOP)
    assert to_text(letters) == "ab一二三四\0"
    assert bounds.tolist() == [0, 7]
    assert ends.tolist() == [4, 5, 6]
    assert to_text(letters_of(column(["一" * 4 + "é中"]).slice(0), STOP).letters) == "一一一一é中\0"


@settings(deadline=None)
@given(st.lists(st.text(alphabet="一二Ab", min_size=1, max_size=10), min_size=1, max_size=12), SOME)
def test_at_each_place_the_longest_phrase_is_found(phrases, text):
    letters = plain_letters(text)
    wanted = set()
    for begin in range(len(letters)):
        here = [p.lower() for p in phrases if letters.startswith(p.lower(), begin)]
        if here:
            wanted.add((begin, max(here, key=len)))
    assert {(begin, phrases[p].lower()) for begin, p in matches(phrases, text)} == wanted


@settings(deadline=None)
@given(st.integers(1, 40), st.lists(st.integers(0, 60), max_size=4), st.integers(1, 3))
def test_long_phrases_are_found_wherever_they_begin(size, gaps, kinds):
    phrases = ["".join(chr(0x4E00 + (7 * k + k // kinds) % 29) for k in range(size + more)) for more in (0, 3, 20)]
    text = "".join("甲" * gap + phrases[i % 3] for i, gap in enumerate(gaps))
    wanted = set()
    for begin in range(len(text)):
        here = [p for p in range(3) if text.startswith(phrases[p], begin)]
        if here:
            wanted.add((begin, here[-1]))
    assert matches(phrases, text) == wanted


@pytest.mark.parametrize("size", range(1, 12))
def test_phrases_of_any_length_with_white_space_and_punctuation_between(size):
    phrase = "长按二维码关注公众号领取"[:size]
    assert matches([phrase], f"请{'， '.join(phrase)}！") == {(1, 0)}
    assert matches([phrase, phrase + "红包"], f"请{phrase}红包") == {(1, 1)}
    assert matches([phrase], "请" + phrase[:-1] + "他") == set()


def test_a_phrase_without_letters_is_an_error_and_no_phrases_find_nothing():
    with pytest.raises(ValueError, match="'……' has no letters"):
        make_matcher(["好", "……"])
    assert matches([], "什么都没有") == set()


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), max_size=50), st.integers(0, 2**64 - 1), st.sampled_from([8, 32]))
def test_a_filter_holds_what_was_put_in(hashes, other, bits):
    found = make_filter(np.array(hashes, np.uint64), bits)
    assert all(may_hold(found, np.uint64(h)) for h in hashes)
    if not hashes:
        assert not may_hold(found, np.uint64(other))
