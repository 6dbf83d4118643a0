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
from functools import cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from congling.clean.characters import compatible, normalise_table
from congling.clean.config import CleanConfig
from congling.clean.markup import strip_markup
from congling.clean.mojibake import repair
from congling.clean.rewrite import HTML, MOJIBAKE, TRADITIONAL, UNICODE, WRAPS, rewrite
from congling.clean.wraps import unwrap
from congling.corpus.documents import from_buffers, text_buffers

# What was changed in a document: bit k of its mask is CHANGES[k].
CHANGES: tuple[str, ...] = ("control", "invisible", "garbled", "newlines", "spaces", "blank_lines", "fullwidth")
CHANGES += ("punctuation", "html", "unicode", "mojibake", "traditional", "wraps")
_ROUNDS = 16  # of mending; text that has not settled then is nested beyond use and counts as garbled

Bits = NDArray[np.uint16]
Step = Callable[[pa.LargeStringArray], tuple[pa.LargeStringArray, NDArray[np.bool_]]]  # (texts, which changed)


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
    mojibake = np.zeros(len(clean), np.int64)
    pending = np.flatnonzero(needs)
    for _ in range(_ROUNDS):
        if not len(pending):
            break
        rows = np.flatnonzero(needs)
        mended, done, mojibake[pending] = _mend(_take(clean, rows), _take(before, rows), needs[rows])
        pending = pending[done != 0]
        before = _take(mended, np.flatnonzero(done))
        clean, more, needs, again = _rewrite(before, config)
        changes[pending] |= more | done[done != 0]
        counts[pending, 0] = np.where(done[done != 0] & MOJIBAKE, again[:, 0], counts[pending, 0])
        newest[pending] = sum(map(len, versions)) + np.arange(len(clean))
        versions.append(clean)
        pending = pending[needs != 0]
    counts[pending, 0] = counts[pending, 1]
    clean = _take(pa.concat_arrays(versions), newest) if len(versions) > 1 else clean
    return Normalised(clean, changes, counts[:, 0], counts[:, 1], mojibake)


def _mend(
    text: pa.LargeStringArray, before: pa.LargeStringArray, needs: Bits
) -> tuple[pa.LargeStringArray, Bits, NDArray[np.int64]]:
    """The documents with what they need done, bits of what changed, and the characters of mojibake left.

    Mojibake is repaired as it was before the kernel dropped the control characters that are part of it.
    """
    done, left = np.zeros(len(text), np.uint16), np.zeros(len(text), np.int64)
    repaired: dict[int, str] = {}
    for i in map(int, np.flatnonzero(needs & MOJIBAKE)):
        for version in (before[i].as_py(), text[i].as_py()):
            again, left[i] = repair(version)
            if again != version:
                repaired[i] = again
                break
    if repaired:
        rows = np.array(list(repaired))
        text = _put(text, rows, pa.array(repaired.values(), pa.large_string()))
        done[rows] = MOJIBAKE
        needs = np.where(done, 0, needs)  # the rest when the kernel has seen the new text
    steps: tuple[tuple[int, Step], ...] = (
        (HTML, strip_markup),
        (UNICODE, _by_text(_compose)),
        (TRADITIONAL, _by_text(_simplify)),
        (WRAPS, unwrap),
    )
    for bit, step in steps:
        rows = np.flatnonzero(needs & bit)
        if len(rows):
            new, changed = step(_take(text, rows))
            if changed.any():
                text = _put(text, rows[changed], _take(new, np.flatnonzero(changed)))
                done[rows[changed]] |= bit
    return text, done, left


def _by_text(function: Callable[[list[str]], list[str]]) -> Step:
    def step(texts: pa.LargeStringArray) -> tuple[pa.LargeStringArray, NDArray[np.bool_]]:
        old = texts.to_pylist()
        new = function(old)
        return pa.array(new, pa.large_string()), np.array([a != b for a, b in zip(old, new, strict=True)], np.bool_)

    return step


def _compose(texts: list[str]) -> list[str]:
    return [unicodedata.normalize("NFC", text.translate(compatible())) for text in texts]


def _simplify(texts: list[str]) -> list[str]:
    return _converter()("\0".join(texts)).split("\0")  # normalised text has no NUL; one call for all is quicker


@cache
def _converter() -> Callable[[str], str]:
    from opencc import OpenCC  # only corpora with traditional characters need it

    convert: Callable[[str], str] = OpenCC("t2s").convert
    return convert


def _take(texts: pa.LargeStringArray, rows: NDArray[np.int64]) -> pa.LargeStringArray:
    return texts if len(rows) == len(texts) and (rows == np.arange(len(rows))).all() else texts.take(pa.array(rows))


def _put(texts: pa.LargeStringArray, rows: NDArray[np.int64], new: pa.LargeStringArray) -> pa.LargeStringArray:
    """The texts with those of ``rows`` replaced."""
    where = np.arange(len(texts))
    where[rows] = len(texts) + np.arange(len(new))
    return _take(pa.concat_arrays([texts, new]), where)


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
