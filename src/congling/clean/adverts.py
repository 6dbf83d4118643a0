"""Cuts what is not a document's own: lines that stand in many documents, and phrases that do.

A line, or a sentence of a longer line, goes when most of its letters belong to such a line or phrase; white space and
punctuation play no part. Sentences that only contain a phrase stay, and so does all text without a find, untouched.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from congling.artifact import atomic_open, atomic_write
from congling.clean.characters import Bytes, decode
from congling.clean.letters import (
    CLOSING,
    LETTER,
    NEWLINE,
    STOP,
    Letters,
    Spelled,
    letter_kinds,
    letters_of,
    make_filter,
    may_hold,
)
from congling.clean.lines import count_han, hash_line
from congling.clean.phrases import Matcher, find, make_matcher
from congling.clean.repeats import MOSTLY, Phrases
from congling.corpus.documents import from_buffers, text_buffers

_NO_TEXT = "(a line that stands in {} documents)"


@dataclass(frozen=True)
class Cut:
    """A batch of N documents without their boilerplate."""

    text: pa.Array  # [N]; the very array that was given where nothing was found
    cut_characters: NDArray[np.int64]  # [N], white space included
    hits: NDArray[np.int64]  # [N], different phrases and lines found
    first_hit: NDArray[np.int64]  # [N], the first of them, for ``Boilerplate.name``; −1: none
    changed: NDArray[np.bool_]  # [N]


@dataclass(frozen=True)
class Boilerplate:
    """What to look for: P phrases and L lines."""

    phrases: Phrases
    lines: NDArray[np.uint64]  # [L], sorted hashes
    line_documents: NDArray[np.int64]  # [L], how many they stand in
    line_letters: int  # fewest Chinese letters of a line
    line_texts: dict[int, str]  # of some lines, by their place

    def save(self, path: Path) -> None:
        """Writes everything to ``path`` (.npz)."""
        places = sorted(self.line_texts)
        with atomic_open(path) as file:
            np.savez(
                file,
                phrases="\n".join(self.phrases.texts),
                documents=self.phrases.documents,
                lines=self.lines,
                line_documents=self.line_documents,
                line_letters=self.line_letters,
                places=np.array(places, np.int64),
                texts="\n".join(self.line_texts[place] for place in places),
            )

    @classmethod
    def load(cls, path: Path) -> "Boilerplate":
        """Of a file that ``save`` wrote."""
        with np.load(path) as file:
            texts = zip(file["places"].tolist(), _split(file["texts"]), strict=True)
            phrases = Phrases(_split(file["phrases"]), file["documents"])
            return cls(phrases, file["lines"], file["line_documents"], int(file["line_letters"]), dict(texts))

    def save_list(self, path: Path) -> None:
        """Writes ``adverts.tsv`` for people: kind, documents, letters of harm, text; the worst first."""
        rows = [("phrase", int(n), text) for text, n in zip(self.phrases.texts, self.phrases.documents, strict=True)]
        rows += [("line", int(self.line_documents[k]), text.replace("\t", " ")) for k, text in self.line_texts.items()]
        rows.sort(key=lambda row: (-row[1] * len(row[2]), row[2]))
        table = [f"{kind}\t{n}\t{n * len(text)}\t{text}\n" for kind, n, text in rows]
        atomic_write(path, "".join(["kind\tdocuments\tharm\ttext\n", *table]).encode())

    def name(self, place: int) -> str:
        """The text of phrase ``place``, or of line ``place`` − P."""
        line = place - len(self.phrases.texts)
        if line < 0:
            return self.phrases.texts[place]
        return self.line_texts.get(line, _NO_TEXT.format(self.line_documents[line]))

    def describe(self, text: pa.Array) -> str:
        """What is found in one document."""
        _, seen = self._apply(text, letters_of(text, NEWLINE))
        return "; ".join(self.name(int(place)) for place in np.flatnonzero(seen))

    def apply(self, text: pa.Array, spelled: Spelled) -> Cut:
        """Looks for everything in a batch; spelled: its letters and lines."""
        return self._apply(text, spelled)[0]

    @cached_property
    def _matcher(self) -> Matcher:
        return make_matcher(self.phrases.texts)

    @cached_property
    def _line_filter(self) -> NDArray[np.uint64]:
        return make_filter(self.lines, 32)

    def _apply(self, text: pa.Array, spelled: Spelled) -> tuple[Cut, NDArray[np.uint32]]:
        data, offsets = text_buffers(text)
        count = len(text)
        hits, first, cut = np.zeros(count, np.int64), np.full(count, -1, np.int64), np.zeros(count, np.int64)
        seen = np.zeros(len(self.phrases.texts) + len(self.lines), np.uint32)
        covered = np.zeros(len(spelled.letters), np.bool_)
        begins, found = find(spelled.letters, self._matcher)
        _cover_phrases(spelled.bounds, begins, found, self._matcher, covered, seen, hits, first)
        if len(self.lines):
            _cover_lines(*spelled, self.lines, self._line_filter, self.line_letters, covered, seen, hits, first)
        if hits.any():
            out, ends = np.empty(int(offsets[-1] - offsets[0]), np.uint8), np.zeros(count + 1, np.int64)
            _cut_all(data, offsets, letter_kinds(), spelled.bounds, covered, hits, cut, out, ends)
        changed = cut > 0
        return Cut(from_buffers(out[: ends[-1]], ends) if changed.any() else text, cut, hits, first, changed), seen


def _split(joined: NDArray[np.str_]) -> list[str]:
    return str(joined).split("\n") if str(joined) else []


def read_list(path: Path) -> Phrases:
    """Adverts that people give: one a line, or the table that ``save_list`` wrote, edited. Raises ValueError."""
    try:
        rows = [line.split("\t") for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
        rows = rows[1:] if rows and rows[0][0] == "kind" else rows
        texts = {row[-1].strip(): int(row[1]) if len(row) > 3 and row[1].isdecimal() else 0 for row in rows}
        make_matcher(list(texts))
    except (OSError, ValueError) as error:
        raise ValueError(f"advert_list = {str(path)!r}: {error}") from None
    return Phrases(list(texts), np.array(list(texts.values()), np.int64))


@njit(nogil=True, cache=True)
def _cover_phrases(
    bounds: NDArray[np.int64],
    begins: NDArray[np.int64],
    found: NDArray[np.int64],
    matcher: Matcher,
    covered: NDArray[np.bool_],
    seen: NDArray[np.uint32],
    hits: NDArray[np.int64],
    first: NDArray[np.int64],
) -> None:
    """Marks the letters [T] of the phrases found; fills hits, first [N] and ``seen`` [P + L] with the last document
    (from 1) that has it."""
    d = done = 0
    for k in range(len(begins)):
        begin, p = begins[k], found[k]
        to = begin + matcher.ends[p + 1] - matcher.ends[p]
        if to > done:  # else it stands in the one before
            while bounds[d + 1] <= begin:
                d += 1
            covered[begin:to] = True
            done = to
            _note(matcher.numbers[p], d, seen, hits, first)


@njit(nogil=True, cache=True)
def _note(place: int, d: int, seen: NDArray[np.uint32], hits: NDArray[np.int64], first: NDArray[np.int64]) -> None:
    if seen[place] != d + 1:
        seen[place] = d + 1
        hits[d] += 1
        first[d] = place if hits[d] == 1 else first[d]


@njit(nogil=True, cache=True)
def _cover_lines(
    letters: Letters,
    bounds: NDArray[np.int64],
    ends: NDArray[np.int64],
    lines: NDArray[np.uint64],
    filter: NDArray[np.uint64],
    least: int,
    covered: NDArray[np.bool_],
    seen: NDArray[np.uint32],
    hits: NDArray[np.int64],
    first: NDArray[np.int64],
) -> None:
    """The same for the lines of documents that are in ``lines``."""
    d = begin = 0
    for end in ends:
        while bounds[d + 1] <= end:
            d += 1
            begin = bounds[d]
        if count_han(letters, begin, end, least) == least:
            h = hash_line(letters, begin, end)
            if may_hold(filter, h):
                place = np.searchsorted(lines, h)
                if place < len(lines) and lines[place] == h:
                    covered[begin:end] = True
                    _note(len(seen) - len(lines) + place, d, seen, hits, first)
        begin = end


@njit(nogil=True, cache=True)
def _cut_all(
    data: Bytes,
    offsets: NDArray[np.int64],
    kinds: Bytes,
    bounds: NDArray[np.int64],
    covered: NDArray[np.bool_],
    hits: NDArray[np.int64],
    cut: NDArray[np.int64],
    out: Bytes,
    ends: NDArray[np.int64],
) -> None:
    """Fills ``cut`` [N], and ``out[:ends[-1]]`` and ``ends`` [N + 1] with what is left."""
    o = 0
    for d in range(len(hits)):
        begin, end = offsets[d], offsets[d + 1]
        if hits[d]:
            o, cut[d] = _cut(data, begin, end, kinds, covered[bounds[d] :], out, o)
        else:
            o = _copy(data, begin, end, out, o)
        ends[d + 1] = o


@njit(nogil=True, cache=True)
def _cut(
    data: Bytes, i: int, end: int, kinds: Bytes, covered: NDArray[np.bool_], out: Bytes, o: int
) -> tuple[int, int]:
    """Writes to ``out[o:]`` what is left of a document; returns the end of it, and the characters cut."""
    start, letter, before, dropped = o, 0, i, False
    while i < end:
        after, letters, hit = _piece(data, i, end, kinds, NEWLINE, covered, letter)
        if hit > 0 and hit >= MOSTLY * letters:
            dropped = True
        elif hit > 0:
            o = _cut_sentences(data, i, after, kinds, covered, letter, out, o)
        elif not (dropped and _is_blank(data, i, after) and _is_blank(out, max(start, o - 2), o)):
            o = _copy(data, i, after, out, o)
            dropped = False
        i, letter = after, letter + letters
    if end - before > o - start:
        while o > start and out[o - 1] <= 32:
            o -= 1
    return o, _characters(data, before, end) - _characters(out, start, o)


@njit(nogil=True, cache=True)
def _cut_sentences(
    data: Bytes, i: int, end: int, kinds: Bytes, covered: NDArray[np.bool_], letter: int, out: Bytes, o: int
) -> int:
    """Writes to ``out[o:]`` what is left of a line of which a part is boilerplate; returns the end of it."""
    text_end = end - 1 if data[end - 1] == 10 else end
    while i < text_end:
        after, letters, hit = _piece(data, i, text_end, kinds, STOP, covered, letter)
        if hit == 0 or hit < MOSTLY * letters:
            o = _copy(data, i, after, out, o)
        i, letter = after, letter + letters
    return _copy(data, text_end, end, out, o)


@njit(nogil=True, cache=True)
def _piece(
    data: Bytes, i: int, end: int, kinds: Bytes, stop: int, covered: NDArray[np.bool_], letter: int
) -> tuple[int, int, int]:
    """The line (stop = NEWLINE) or sentence (STOP) that begins at byte i: its end, with what closes it; its letters;
    those of them, from number ``letter`` on, that are covered."""
    letters, hit, stopped = 0, 0, False
    while i < end:
        a = data[i]
        if not stopped and (0xE4 <= a <= 0xE9 or 97 <= a <= 122):  # a letter, most often
            hit += covered[letter + letters]
            letters += 1
            i += 3 if a > 127 else 1
            continue
        code, size = (np.int64(a), 1) if a < 0x80 else decode(data, i, end)
        kind = kinds[code]
        if stopped and (stop == NEWLINE or not (CLOSING <= kind <= STOP)):
            break
        i += size
        stopped |= kind >= stop
        if kind == LETTER:
            hit += covered[letter + letters]
            letters += 1
    return i, letters, hit


@njit(nogil=True, cache=True)
def _is_blank(data: Bytes, i: int, end: int) -> bool:
    while i < end and data[i] <= 32:
        i += 1
    return i == end


@njit(nogil=True, cache=True)
def _copy(data: Bytes, i: int, end: int, out: Bytes, o: int) -> int:
    out[o : o + end - i] = data[i:end]
    return o + end - i


@njit(nogil=True, cache=True)
def _characters(data: Bytes, i: int, end: int) -> int:
    count = 0
    for k in range(i, end):
        count += data[k] & 0xC0 != 0x80
    return count
