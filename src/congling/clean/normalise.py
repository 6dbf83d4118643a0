"""Normalisation: one way to write what looks or means the same, so that rules and duplicates see text, not noise.

A kernel rewrites every document in one walk over its bytes; in the order of precedence, a character is

* dropped when it is a control character (C0 but tab and newline, DEL, C1), invisible (zero-width, byte order mark, soft
  hyphen, direction marks, U+FFFC) or garbled (U+FFFD, private use, noncharacters; counted for the rule ``garbled``);
* a newline: ``\\r\\n``, ``\\r``, ``\\v``, ``\\f``, U+0085, U+2028, U+2029. White space at the end of a line is dropped,
  runs of blank lines become one, those at both ends of the document none;
* white space: exotic spaces (U+3000, U+00A0, U+2000 …) become a space; a run inside a line becomes one space, or one
  tab when a tab is in it. At the start of a line it is dropped before non-ASCII text (the indent of a Chinese
  paragraph) and kept, up to 32 characters, before ASCII (the indent of code or of a list);
* ASCII, when it is a full-width letter or digit. Full-width punctuation stays;
* dropped as a repetition: at most 3 of ``！？。，~`` and the like in a row, 2 of ``…``, 8 of ``.-=*_#—`` and the like.

Only documents in which the kernel saw ``&…;``, ``<…>`` or a character that NFC may change go through Python
(``_mend``), and through the kernel again, until nothing changes: ``normalise`` of the result is the result.

Not followed: NFKC (it would turn ，：！ into ASCII and ① into 1); page structure in HTML (tags go, boilerplate stays; a
``>`` within an attribute ends its tag; escaped tags go as well); joiners that emoji sequences, Arabic and Indic scripts
need are dropped; mending mojibake; spaces between Chinese characters; traditional to simplified characters.
"""

import re
import unicodedata
from dataclasses import dataclass
from html import unescape
from html.entities import html5

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from congling.clean.characters import normalise_table
from congling.clean.rewrite import HTML, NFC, rewrite
from congling.corpus.documents import from_buffers, text_buffers

# What was changed in a document: bit k of its mask is CHANGES[k].
CHANGES: tuple[str, ...] = ("control", "invisible", "garbled", "newlines", "spaces", "blank_lines", "fullwidth")
CHANGES += ("punctuation", "html", "unicode")
_ROUNDS = 8  # of mending; text that has not settled then is nested beyond use and counts as garbled

_ENTITY = re.compile(r"&(#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_TAG = re.compile(r"<(!--|/?([A-Za-z][A-Za-z0-9]*)(?:[\s/][^<>]*)?>|![A-Za-z][^<>]*>)")
_BREAKING = "address article aside blockquote br center dd div dl dt fieldset figure footer form h1 h2 h3 h4 h5 h6"
_BREAKING += " head header hr html li main nav ol option p pre section table tbody thead title tr ul"
_INLINE = "a abbr acronym b base big body button cite code col colgroup del em embed figcaption font i iframe img input"
_INLINE += " ins label link map area mark meta noscript object param q s samp script select small source span strike"
_INLINE += " strong style sub sup svg td textarea th tt u var video audio wbr"
_HIDDEN = ("script", "style")  # elements whose content is no text
_TAGS = dict.fromkeys(_INLINE.split(), "") | dict.fromkeys(_BREAKING.split(), "\n") | {"td": " ", "th": " "}


@dataclass(frozen=True)
class Normalised:
    """A normalised batch of N documents."""

    text: pa.LargeStringArray  # [N]
    changes: NDArray[np.uint16]  # [N], bits of CHANGES
    garbled: NDArray[np.int64]  # [N], characters dropped as garbled
    characters: NDArray[np.int64]  # [N], characters of the text as read, white space not counted


def normalise(text: pa.Array, *, html: bool = True, fullwidth: bool = True) -> Normalised:
    """Normalises a batch of strings; see the module for what is done."""
    clean, changes, needs, counts = _rewrite(text, fullwidth)
    allowed = np.uint16(NFC | (HTML if html else 0))
    needs &= allowed
    dirty = np.flatnonzero(needs)
    texts = {int(i): clean[int(i)].as_py() for i in dirty}
    pending = list(texts)
    for _ in range(_ROUNDS):
        pending = [i for i in pending if _mend_in_place(texts, changes, i, int(needs[i]))]
        if not pending:
            break
        again, more, need, _counts = _rewrite(pa.array([texts[i] for i in pending], pa.large_string()), fullwidth)
        texts.update(zip(pending, again.to_pylist(), strict=True))
        changes[pending] |= more
        needs[pending] = need & allowed
    counts[pending, 0] = counts[pending, 1]
    if texts:
        where = np.arange(len(clean))
        where[dirty] = len(clean) + np.arange(len(texts))
        clean = pa.concat_arrays([clean, pa.array(texts.values(), pa.large_string())]).take(pa.array(where))
    return Normalised(clean, changes, counts[:, 0], counts[:, 1])


def _mend_in_place(texts: dict[int, str], changes: NDArray[np.uint16], i: int, needs: int) -> bool:
    """Mends document ``i``; False when that changed nothing, and it is done."""
    texts[i], done = _mend(texts[i], needs)
    changes[i] |= done
    return done != 0


def _mend(text: str, needs: int) -> tuple[str, int]:
    """HTML remains and NFC, as far as ``needs`` asks for them; (text, bits of CHANGES)."""
    done = 0
    if needs & HTML:
        plain = _ENTITY.sub(_decode_entity, _remove_tags(text))
        done, text = (HTML, plain) if plain != text else (0, text)
    if needs & NFC:
        composed = unicodedata.normalize("NFC", text)
        done, text = (done | NFC, composed) if composed != text else (done, text)
    return text, done


def _decode_entity(match: re.Match[str]) -> str:
    name = match[1]
    return unescape(match[0]) if name[0] == "#" else html5.get(name + ";", match[0])


def _remove_tags(text: str) -> str:
    """Drops comments, scripts, styles and known tags in one walk; unknown tags (``<T>``, ``<篇名>``) are text."""
    pieces: list[str] = []
    start, unclosed = 0, set[str]()
    for match in _TAG.finditer(text):
        name = (match[2] or "").lower()
        if match.start() < start or (match[1][0] != "!" and name not in _TAGS):
            continue
        closing = "-->" if match[1] == "!--" else f"</{match[2]}" if match[1].lower().startswith(_HIDDEN) else ""
        end = text.find(closing, match.end()) if closing and closing not in unclosed else -1
        if closing and end < 0:
            unclosed.add(closing)
            if closing == "-->":
                continue
        pieces += (text[start : match.start()], _TAGS.get(name, ""))
        start = match.end() if end < 0 else end + 3 if closing == "-->" else end
    return "".join([*pieces, text[start:]])


def _rewrite(
    text: pa.Array, fullwidth: bool
) -> tuple[pa.LargeStringArray, NDArray[np.uint16], NDArray[np.uint16], NDArray[np.int64]]:
    data, offsets = text_buffers(text)
    out = np.empty(int(offsets[-1] - offsets[0]), np.uint8)
    ends = np.zeros(len(offsets), np.int64)
    changes, needs = np.zeros((2, len(text)), np.uint16)
    counts = np.zeros((len(text), 2), np.int64)
    rewrite(data, offsets, normalise_table(), fullwidth, out, ends, changes, needs, counts)
    return from_buffers(out[: ends[-1]], ends), changes, needs, counts
