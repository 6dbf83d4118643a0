"""Normalisation: one way to write what looks or means the same, so that rules and duplicates see text, not noise.

HTML remains go first (``markup.py``). A kernel then rewrites every document in one walk over its bytes; in the order of
precedence, a character is

* dropped when it is a control character (C0 but tab and newline, DEL, C1), invisible (zero-width, byte order mark, soft
  hyphen, direction marks, U+FFFC) or garbled (U+FFFD, private use, noncharacters; counted for the rule ``garbled``);
* a newline: ``\\r\\n``, ``\\r``, ``\\v``, ``\\f``, U+0085, U+2028, U+2029. White space at the end of a line is dropped,
  runs of blank lines become one, those at both ends of the document none;
* white space: exotic spaces (U+3000, U+00A0, U+2000 …) become a space; a run inside a line becomes one space, or one
  tab when a tab is in it. At the start of a line it is dropped before non-ASCII text (the indent of a Chinese
  paragraph) and kept, up to 32 characters, before ASCII (the indent of code or of a list);
* ASCII, when it is a full-width letter or digit. Full-width punctuation stays;
* dropped as a repetition: at most 3 of ``！？。，~`` and the like in a row, 2 of ``…``, 8 of ``.-=*_#—`` and the like.

On its way the kernel marks the few documents that need more. It is done to those alone, and the kernel run again, until
nothing changes any more, so that ``normalise`` of the result is the result: HTML that came out of entities, mojibake
(``mojibake.py``), NFC and, of NFKC, what is safe (``characters.compatible``), broken line wraps (``wraps.py``) and, in
documents of which 4 % are traditional characters (in Big5, not in GB2312), OpenCC's conversion t2s, which knows words;
traditional quotations within a simplified text stay.

Not followed: the rest of NFKC (it would turn ，：！ into ASCII and ① into 1); joiners that emoji sequences, Arabic and
Indic scripts need are dropped; spaces between Chinese characters.
"""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from congling.clean.characters import Bytes, compatible, copy, normalise_table
from congling.clean.config import CleanConfig
from congling.clean.markup import strip_markup
from congling.clean.mojibake import repair
from congling.clean.rewrite import HTML, MOJIBAKE, TRADITIONAL, UNICODE, WRAPS, rewrite
from congling.clean.traditional import simplify
from congling.clean.wraps import unwrap
from congling.corpus.documents import from_buffers, text_buffers

# What was changed in a document: bit k of its mask is CHANGES[k].
CHANGES: tuple[str, ...] = ("control", "invisible", "garbled", "newlines", "spaces", "blank_lines", "fullwidth")
CHANGES += ("punctuation", "html", "unicode", "mojibake", "traditional", "wraps")
_ROUNDS = 16  # of mending; text that has not settled then is nested beyond use and counts as garbled

Bits = NDArray[np.uint16]
# The texts, and which need the step; returns the texts that changed, and which those are.
Step = Callable[[pa.LargeStringArray, Bits], tuple[pa.LargeStringArray, NDArray[np.bool_]]]


@dataclass(frozen=True)
class Normalised:
    """A normalised batch of N documents."""

    text: pa.LargeStringArray  # [N]
    changes: Bits  # [N], bits of CHANGES
    garbled: NDArray[np.int64]  # [N], characters dropped as garbled
    characters: NDArray[np.int64]  # [N], characters of the text as read; white space, tags and entities not counted
    mojibake: NDArray[np.int64]  # [N], characters of mojibake that could not be repaired


def normalise(text: pa.Array, config: CleanConfig) -> Normalised:
    """Normalises a batch of strings; see the module for what is done."""
    before, tags = strip_markup(text) if config.html else (text, np.zeros(len(text), np.bool_))
    clean, changes, needs, counts = _rewrite(before, config)
    changes[tags] |= HTML
    versions, newest = [clean], np.arange(len(clean))  # newest: where the newest text of a document is in versions
    mojibake, rows = np.zeros(len(clean), np.int64), np.arange(len(clean))
    for _ in range(_ROUNDS):  # rows: which documents clean has
        if not needs.any():
            break
        before, done, left = _mend(clean, before, needs)
        mojibake[rows[needs != 0]] = left[needs != 0]
        rows, done = rows[done != 0], done[done != 0]
        clean, more, needs, again = _rewrite(before, config)
        changes[rows] |= more | done
        counts[rows, 0] = np.where(done & MOJIBAKE, again[:, 0], counts[rows, 0])
        newest[rows] = sum(map(len, versions)) + np.arange(len(rows))
        versions.append(clean)
    unsettled = rows[needs != 0]
    counts[unsettled, 0] = counts[unsettled, 1]
    return Normalised(_gather(versions, newest), changes, counts[:, 0], counts[:, 1], mojibake)


def _mend(
    text: pa.LargeStringArray, before: pa.LargeStringArray, needs: Bits
) -> tuple[pa.LargeStringArray, Bits, NDArray[np.int64]]:
    """The documents that change when what they need [N] is done, bits of what was done [N], characters of mojibake [N].

    Mojibake is repaired as it was before the kernel dropped the control characters that are part of it; such a document
    has the rest done when the kernel has seen the new text.
    """
    done, left = np.zeros(len(text), np.uint16), np.zeros(len(text), np.int64)
    repaired: dict[int, str] = {}
    for i in map(int, np.flatnonzero(needs & MOJIBAKE)):
        for version in dict.fromkeys((before[i].as_py(), text[i].as_py())):
            again, left[i] = repair(version)
            if again != version:
                repaired[i] = again
                break
    mended, newest = [pa.array(repaired.values(), pa.large_string())], np.zeros(len(text), np.int64)
    rows = np.array(list(repaired), np.int64)
    done[rows], newest[rows] = MOJIBAKE, np.arange(len(rows))
    todo = [(np.arange(len(text)), text, np.where(done, 0, needs).astype(np.uint16))]
    steps: tuple[tuple[int, Step], ...] = (
        (HTML, strip_markup),
        (UNICODE, _by_text(_compose)),
        (TRADITIONAL, simplify),
        (WRAPS, unwrap),
    )
    for bit, step in steps:
        for rows, texts, wanted in list(todo):  # what a step changed is for the next ones in place of the old text
            if (wanted & bit).any():
                new, changed = step(texts, wanted & np.uint16(bit))
                if changed.any():
                    todo.append((rows[changed], new, wanted[changed]))
                    wanted[changed] = 0
                    done[rows[changed]] |= bit
                    newest[rows[changed]] = sum(map(len, mended)) + np.arange(len(new))
                    mended.append(new)
    return _gather(mended, newest[done != 0]), done, left


def _by_text(function: Callable[[list[str]], list[str]]) -> Step:
    def step(texts: pa.LargeStringArray, wanted: Bits) -> tuple[pa.LargeStringArray, NDArray[np.bool_]]:
        rows = np.flatnonzero(wanted)
        old = texts.take(pa.array(rows)).to_pylist()
        changed, new = np.zeros(len(wanted), np.bool_), function(old)
        changed[rows] = [a != b for a, b in zip(old, new, strict=True)]
        return pa.array([b for a, b in zip(old, new, strict=True) if a != b], pa.large_string()), changed

    return step


def _compose(texts: list[str]) -> list[str]:
    return [unicodedata.normalize("NFC", text.translate(compatible())) for text in texts]


def _gather(versions: list[pa.LargeStringArray], rows: NDArray[np.int64]) -> pa.LargeStringArray:
    """The texts ``rows`` of the versions, one after another."""
    if len(versions) == 1 and len(rows) == len(versions[0]):
        return versions[0]
    buffers = [text_buffers(version) for version in versions]
    ends = np.concatenate([[0], np.concatenate([np.diff(offsets) for _, offsets in buffers])[rows]]).cumsum()
    out, first = np.empty(int(ends[-1]), np.uint8), 0
    for data, offsets in buffers:
        _place(data, offsets, rows - first, ends, out)
        first += len(offsets) - 1
    return from_buffers(out, ends)


@njit(nogil=True, cache=True)
def _place(
    data: Bytes, offsets: NDArray[np.int64], rows: NDArray[np.int64], ends: NDArray[np.int64], out: Bytes
) -> None:
    """Copies the documents ``rows`` to ``out[ends[k]:]``; those out of range are elsewhere."""
    for k in range(len(rows)):
        if 0 <= rows[k] < len(offsets) - 1:
            copy(data, offsets[rows[k]], offsets[rows[k] + 1], out, ends[k])


def _rewrite(text: pa.Array, config: CleanConfig) -> tuple[pa.LargeStringArray, Bits, Bits, NDArray[np.int64]]:
    """(texts, changes, what ``config`` allows of the needs, counts) of the kernel ``rewrite``."""
    data, offsets = text_buffers(text)
    out = np.empty(int(offsets[-1] - offsets[0]), np.uint8)
    ends = np.zeros(len(offsets), np.int64)
    changes, needs = np.zeros((2, len(text)), np.uint16)
    counts = np.zeros((len(text), 2), np.int64)
    rewrite(data, offsets, normalise_table(), config.fullwidth, out, ends, changes, needs, counts)
    options: tuple[tuple[int, bool], ...] = ((HTML, config.html), (MOJIBAKE, config.mojibake), (WRAPS, config.unwrap))
    options += ((UNICODE, True), (TRADITIONAL, config.traditional == "simplify"))
    needs &= np.uint16(sum(bit for bit, wanted in options if wanted))
    return from_buffers(out[: ends[-1]], ends), changes, needs, counts
