"""Texts that repeat across many documents, found in a sample of the corpus: no list of words is needed.

The idea is that of the seed (SEED §1.5), generalised: the n-grams of a text that is copied come equally often, for it
is always copied whole; those of living language do not. Of a sample, so that time and memory have a bound:

1. All grams of 8 letters are counted in a small table by a hash: an upper bound of the documents they stand in.
2. Runs of letters whose grams may stand in enough documents are looked at again: their grams are counted exactly, by
   documents. These are a few percent of all.
3. A run is divided where the counts of neighbouring grams differ. What is long enough is a phrase. A phrase that stands
   in a longer one, nearly as often, is left out.

Counts add up over documents in any order, so nothing depends on how the sample was divided into files.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from congling.artifact import atomic_open
from congling.clean.characters import Bytes
from congling.clean.letters import NEWLINE, PRIME, Letters, Spelled, hash_gram, letters_of, push, to_text
from congling.clean.lines import count_han
from congling.clean.phrases import find, make_matcher

GRAM = 8  # letters
_LOAD = 6  # grams a byte of the first table at most, which fits in a cache; chance makes no run of many frequent grams
_TOLERANCE, _NOISE = 1.25, 2  # counts of grams of a phrase: most ≤ _TOLERANCE · least + _NOISE
MOSTLY = 0.7  # a sentence or line of which this share repeats is boilerplate
_ALONE = 0.5  # letters of a phrase in such sentences, on average; formulas of law stand within others
_COVERED = 0.4  # largest share of their documents that repeats, on average; else these are made from one mould
_CONTAINED = 0.7  # a phrase within one that stands in this share of its documents says nothing new


@dataclass(frozen=True)
class Phrases:
    """P texts, letters only, sorted by harm: documents · letters."""

    texts: list[str]
    documents: NDArray[np.int64]  # [P], of the sample, that they stand in


def save_sample(path: Path, parts: Sequence[Spelled]) -> None:
    """Writes the letters of documents and where their sentences end, for ``find_repeats``."""
    first = np.cumsum([0, *(len(part.letters) for part in parts)])
    letters = np.concatenate([np.empty(0, np.uint16), *(part.letters for part in parts)])
    ends = np.concatenate([np.empty(0, np.int64), *(f + part.ends for f, part in zip(first, parts, strict=False))])
    with atomic_open(path) as file:
        np.save(file, letters)
        np.save(file, ends)


def _load_sample(path: Path) -> tuple[Letters, NDArray[np.int64]]:
    with open(path, "rb") as file:
        return np.load(file), np.load(file)


def find_repeats(files: Sequence[Path], documents: int, letters: int, han: int) -> Phrases:
    """Phrases of at least ``letters`` (≥ 9) letters, ``han`` of them Chinese, that stand in ``documents`` documents.

    files: of ``save_sample``, in any order.
    """
    sample = [_load_sample(file) for file in files]
    table = np.zeros(1 << max(sum(len(part) for part, _ in sample) // _LOAD, 1 << 12).bit_length(), np.uint8)
    for part, _ in sample:
        _count(part, table)
    runs = [_frequent_runs(part, table, min(documents, 255), letters) for part, _ in sample]
    counts = _count_exactly([part for part, _ in sample], runs)
    places = [
        _stretches(part, of_part, *counts, documents, letters) for (part, _), of_part in zip(sample, runs, strict=True)
    ]
    measured = [_measure(*part, of_part) for part, of_part in zip(sample, places, strict=True)]
    kinds = _kinds_of_text(np.concatenate(places), np.concatenate(measured), documents)
    file_of = np.repeat(np.arange(len(places)), [len(of_part) for of_part in places])
    found: dict[str, int] = {}
    for place, row in zip(kinds.tolist(), np.concatenate(places)[kinds].tolist(), strict=True):
        stretch = sample[file_of[place]][0][row[0] : row[1]]
        if count_han(stretch, 0, len(stretch), han) == han:
            found[to_text(stretch)] = row[2]
    texts = sorted(found, key=lambda text: (-found[text] * len(text), text))
    return _without_contained(Phrases(texts, np.array([found[text] for text in texts], np.int64)))


def _kinds_of_text(places: NDArray[np.int64], measured: NDArray[np.int64], documents: int) -> NDArray[np.int64]:
    """A place of each text that stands alone, in documents that say something else, [K] of the places [P, 5]."""
    _, first, text, times = np.unique(places[:, 4], return_index=True, return_inverse=True, return_counts=True)
    alone, covered = (np.bincount(text, column, len(first)) / times for column in measured.T)
    size = places[first, 1] - places[first, 0]
    return first[(2 * times >= documents) & (alone >= _ALONE * size) & (covered <= _COVERED * 1000)]


def _measure(letters: Letters, ends: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of each place: its letters in sentences that repeat for the most part; ‰ of its document that repeat, [P, 2]."""
    measured = np.empty((len(places), 2), np.int64)
    measured[:, 0] = _alone(places, ends)
    bounds = np.flatnonzero(letters == 0)
    sizes = np.maximum(np.diff(bounds, prepend=-1) - 1, 1)
    repeated = np.bincount(places[:, 3], places[:, 1] - places[:, 0], len(sizes))
    measured[:, 1] = (1000 * repeated / sizes)[places[:, 3]]
    return measured


@njit(nogil=True, cache=True)
def _alone(places: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    repeated, done = np.zeros(len(ends) + 1, np.int64), 0  # letters of each sentence in places; letters looked at
    alone = np.zeros(len(places), np.int64)
    for again in range(2):
        for p in range(len(places)):
            i, end = places[p, 0] if again else max(places[p, 0], done), places[p, 1]
            sentence = np.searchsorted(ends, i, "right")
            while i < end:
                upto = min(end, ends[sentence])
                if not again:
                    repeated[sentence] += upto - i
                elif repeated[sentence] >= MOSTLY * (ends[sentence] - (ends[sentence - 1] if sentence else 0)):
                    alone[p] += upto - i
                i, sentence = upto, sentence + 1
            done = max(done, end)
    return alone


@njit(nogil=True, cache=True)
def _shift(slots: int) -> np.uint64:
    """What leaves of a hash the number of a slot; slots: a power of two."""
    bits = 0
    while 1 << bits < slots:
        bits += 1
    return np.uint64(64 - bits)


@njit(nogil=True, cache=True)
def _count(letters: Letters, table: Bytes) -> None:
    """Counts every gram; a count stops at 255."""
    old, new, since, shift = np.uint64(0), np.uint64(0), 0, _shift(len(table))
    for i in range(np.uint64(len(letters))):
        old, new = push(old, new, letters[i])
        since = since + 1 if letters[i] else 0
        if since >= GRAM:
            slot = hash_gram(old, new) >> shift
            table[slot] += table[slot] < 255


@njit(nogil=True, cache=True)
def _frequent_runs(letters: Letters, table: Bytes, least: int, size: int) -> NDArray[np.int64]:
    """(begin, end, document) of runs of ``size`` letters or more whose grams all have a count of ``least``, [R, 3]."""
    runs = np.empty((len(letters) // (size - GRAM + 1) + 1, 3), np.int64)
    old, new, shift = np.uint64(0), np.uint64(0), _shift(len(table))
    found, since, run, document = 0, 0, 0, 0  # run: grams of the run under way
    for i in range(len(letters)):
        old, new = push(old, new, letters[i])
        since = since + 1 if letters[i] else 0
        if since >= GRAM and table[hash_gram(old, new) >> shift] >= least:
            run += 1
            continue
        if run > size - GRAM:
            runs[found] = i - run - GRAM + 1, i, document
            found += 1
        run = 0
        document += letters[i] == 0
    return runs[:found].copy()


def _count_exactly(
    sample: Sequence[Letters], runs: Sequence[NDArray[np.int64]]
) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
    """Hashes of the grams of all runs [S] (0: a free slot), and the documents they stand in [S]."""
    slots = 1 << 12
    while True:
        keys, counts = np.zeros(slots, np.uint64), np.zeros(slots, np.int32)
        last = np.full(slots, -1, np.int64)
        room, first = slots * 2 // 3, 0
        for letters, of_part in zip(sample, runs, strict=True):
            room = _count_runs(letters, of_part, first, keys, counts, last, room)
            first += 1 << 32  # no document has the number of another's
        if room >= 0:
            return keys, counts
        slots *= 4


@njit(nogil=True, cache=True)
def _count_runs(
    letters: Letters,
    runs: NDArray[np.int64],
    first: int,
    keys: NDArray[np.uint64],
    counts: NDArray[np.int32],
    last: NDArray[np.int64],
    room: int,
) -> int:
    """Counts the grams of runs by documents; returns how many more grams there is room for, −1 if there was none."""
    shift, mask = _shift(len(keys)), np.uint64(len(keys) - 1)
    old, new = np.uint64(0), np.uint64(0)
    for r in range(len(runs)):
        begin, end, document = runs[r]
        for i in range(begin, end):
            old, new = push(old, new, letters[i])
            if i < begin + GRAM - 1:
                continue
            h = hash_gram(old, new)
            slot = h >> shift
            while keys[slot] != h and keys[slot] != 0:
                slot = (slot + np.uint64(1)) & mask
            if keys[slot] == 0:
                room -= 1
                if room < 0:
                    return -1
                keys[slot] = h
            counts[slot] += last[slot] != first + document
            last[slot] = first + document
    return room


@njit(nogil=True, cache=True)
def _stretches(
    letters: Letters,
    runs: NDArray[np.int64],
    keys: NDArray[np.uint64],
    counts: NDArray[np.int32],
    least: int,
    size: int,
) -> NDArray[np.int64]:
    """(begin, end, documents of the rarest gram, document, hash of the text) of the stretches of at least ``size``
    letters whose grams stand in nearly equally many documents, and in ``least`` at least, [P, 5]."""
    shift, mask = _shift(len(keys)), np.uint64(len(keys) - 1)
    grams = 1
    for r in range(len(runs)):
        grams += runs[r, 1] - runs[r, 0]
    found, phrases = 0, np.empty((grams // (size - GRAM + 1) + 1, 5), np.int64)
    old, new = np.uint64(0), np.uint64(0)
    for r in range(len(runs)):
        begin, end = runs[r, 0], runs[r, 1]
        start, few, many, text = begin, 0, 0, np.uint64(0)  # first letter, least and largest count, hash
        for i in range(begin, end + 1):
            count = 0
            if i < end:
                old, new = push(old, new, letters[i])
                if i < begin + GRAM - 1:
                    continue
                h = hash_gram(old, new)
                slot = h >> shift
                while keys[slot] != h:
                    slot = (slot + np.uint64(1)) & mask
                count = counts[slot]
            if few and count >= least and max(many, count) <= _TOLERANCE * min(few, count) + _NOISE:
                few, many = min(few, count), max(many, count)
                text = (text ^ h) * PRIME
                continue
            if few and i - start >= size:
                phrases[found] = start, i, few, runs[r, 2], np.int64(text)
                found += 1
            start, text = i - GRAM + 1, h
            few = many = count if count >= least else 0
    return phrases[:found].copy()


def _without_contained(phrases: Phrases) -> Phrases:
    """Without the phrases that stand in a longer one which says nearly as much."""
    texts, documents = phrases.texts, phrases.documents
    letters, bounds, _ = letters_of(pa.array(texts, pa.large_string()), NEWLINE)
    matcher = make_matcher(texts)
    begins, found = find(letters, matcher)
    inner, outer = matcher.numbers[found], np.searchsorted(bounds, begins, "right") - 1
    by_text = np.array(sorted(range(len(texts)), key=lambda p: texts[p]), np.int64)
    begins_next = [texts[b].startswith(texts[a]) for a, b in itertools.pairwise(by_text)]
    inner = np.concatenate([inner, by_text[:-1][begins_next]])
    outer = np.concatenate([outer, by_text[1:][begins_next]])
    keep = np.ones(len(texts), np.bool_)
    for k in sorted(range(len(inner)), key=lambda k: -len(texts[outer[k]])):
        idle = inner[k] != outer[k] and documents[outer[k]] >= _CONTAINED * documents[inner[k]]
        keep[inner[k]] &= not (idle and keep[outer[k]])
    return Phrases([text for text, stays in zip(texts, keep, strict=True) if stays], documents[keep])
