"""HTML remains: a kernel that drops tags, comments, scripts, styles, drawings, and decodes entities. No document grows.

Known tags go (a block leaves a newline, a cell a space), unknown ones (``<T>``, ``<篇名>``) are text. Not followed of
HTML: a ``>`` within an attribute ends its tag; entities need their semicolon; a comment without an end is text.
"""

from functools import cache
from html.entities import html5

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from congling.clean.characters import Bytes, copy, encode
from congling.corpus.documents import from_buffers, text_buffers

_BLOCK = "address article aside blockquote br center dd div dl dt fieldset figure footer form h1 h2 h3 h4 h5 h6 head"
_BLOCK += " header hr html li main nav ol option p pre section table tbody thead title tr ul"
_INLINE = "a abbr acronym b base big body button cite code col colgroup del em embed figcaption font i iframe img input"
_INLINE += " ins label link map area mark meta noscript object param q s samp select small source span strike"
_INLINE += " strong sub sup textarea tt u var video audio wbr"
_NOTHING, _HIDDEN = 1, 2  # what a tag leaves; other values are the character it leaves. Hidden: nor does what is in it
_TAGS = dict.fromkeys(_INLINE.split(), _NOTHING) | dict.fromkeys(_BLOCK.split(), 10) | {"td": 32, "th": 32}
_TAGS |= {"script": _HIDDEN, "style": _HIDDEN, "svg": _HIDDEN}
_WINDOWS = np.array([ord(bytes([b]).decode("cp1252", "replace")) for b in range(0x80, 0xA0)], np.int64)  # &#150; is –
_SLOTS = 8192  # of the hash table of names
_ENTITY_SEED, _TAG_SEED = np.uint64(0xCBF29CE484222325), np.uint64(0x84222325CBF29CE4)
_PRIME = np.uint64(0x100000001B3)
_COMMENT, _SCRIPT, _STYLE, _SVG = 1, 2, 4, 8  # what was found to have no end


def strip_markup(
    text: pa.LargeStringArray, wanted: NDArray[np.uint16] | None = None
) -> tuple[pa.LargeStringArray, NDArray[np.bool_]]:
    """The documents without HTML remains, and which of them changed [N].

    With ``wanted`` [N], those of 0 are left alone and only the documents that changed are returned.
    """
    data, offsets = text_buffers(text)
    changed = np.zeros(len(text), np.bool_)
    if _plain(data, int(offsets[0]), int(offsets[-1])) == offsets[-1]:
        return text, changed
    out = np.empty(int(offsets[-1] - offsets[0]), np.uint8)
    ends = np.zeros(len(offsets), np.int64)
    everything = np.ones(len(text), np.uint16)
    _strip(
        data, offsets, everything if wanted is None else wanted, *_names(), _WINDOWS, wanted is None, out, ends, changed
    )
    if not changed.any():
        return text, changed
    ends = ends if wanted is None else ends[np.flatnonzero([True, *changed])]
    return from_buffers(out[: ends[-1]], ends), changed


@cache
def _names() -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Hashes of the names of entities and tags [_SLOTS], 0: free; their code points or action [_SLOTS, 2]."""
    keys, values = np.zeros(_SLOTS, np.uint64), np.zeros((_SLOTS, 2), np.int64)
    rows: list[tuple[np.uint64, str, tuple[int, ...]]] = [(_TAG_SEED, name, (act,)) for name, act in _TAGS.items()]
    for name, value in html5.items():
        if name[-1] == ";" and len(value.encode()) <= len(name) + 1:
            rows.append((_ENTITY_SEED, name[:-1], tuple(map(ord, value))))
    for seed, name, value_codes in rows:
        key = np.uint64(_hash(np.frombuffer(name.encode(), np.uint8), 0, len(name), seed))
        slot = _find_slot(keys, key)
        keys[slot], values[slot, : len(value_codes)] = key, value_codes
    return keys, values


@njit(nogil=True, cache=True)
def _hash(data: Bytes, begin: int, end: int, seed: np.uint64) -> np.uint64:
    """FNV-1a. For tags, letters count as lower case."""
    h = seed
    for k in range(begin, end):
        b = data[k]
        b = b | 32 if seed == _TAG_SEED and 65 <= b <= 90 else b
        h = (h ^ np.uint64(b)) * _PRIME
    return h


@njit(nogil=True, cache=True)
def _find_slot(keys: NDArray[np.uint64], key: np.uint64) -> int:
    slot = np.int64(key >> np.uint64(40)) % len(keys)
    while keys[slot] != 0 and keys[slot] != key:
        slot = (slot + 1) % len(keys)
    return int(slot)


@njit(nogil=True, cache=True)
def _plain(data: Bytes, i: int, end: int) -> int:
    """Where the next ``&`` or ``<`` is; ``end`` for none."""
    while i < end:  # many bytes at once, until there is one among them
        stop, found = min(i + 128, end), 0
        for k in range(stop - i):
            b = data[np.uintp(i + k)]
            found += (b == 38) | (b == 60)
        if found > 0:
            break
        i = stop
    while i < end and data[np.uintp(i)] != 38 and data[np.uintp(i)] != 60:
        i += 1
    return i


@njit(nogil=True, cache=True)
def _strip(
    data: Bytes,
    offsets: NDArray[np.int64],
    wanted: NDArray[np.uint16],
    keys: NDArray[np.uint64],
    values: NDArray[np.int64],
    windows: NDArray[np.int64],
    all_stay: bool,
    out: Bytes,
    ends: NDArray[np.int64],
    changed: NDArray[np.bool_],
) -> None:
    """Writes the documents to ``out``; unless all stay, those alone that changed."""
    o = 0
    for d in range(len(changed)):
        i, end, endless = offsets[d], offsets[d + 1] if wanted[d] else offsets[d], 0
        while i < end:
            stop = _plain(data, i, end)
            o = copy(data, i, stop, out, o)
            i = stop
            if i == end:
                break
            b = data[i]
            if b == 60:
                stop, endless, leaves = _tag(data, i, end, keys, values, endless)
                if stop > i and leaves > _HIDDEN:
                    out[o] = leaves
                    o += 1
            else:
                stop, o = _entity(data, i, end, keys, values, windows, out, o)
            if stop == i:
                out[o] = b
                o += 1
                i += 1
            else:
                changed[d] = True
                i = stop
        o = o if changed[d] or all_stay else ends[d]
        ends[d + 1] = o


@njit(nogil=True, cache=True)
def _tag(
    data: Bytes, i: int, end: int, keys: NDArray[np.uint64], values: NDArray[np.int64], endless: int
) -> tuple[int, int, int]:
    """What stands at the ``<`` at ``i``: (end of what is dropped, ``i`` for none; endless; what it leaves)."""
    k = i + 1
    if k + 1 < end and data[k] == 33:
        if data[k + 1] == 45 and k + 2 < end and data[k + 2] == 45:
            stop = -1 if endless & _COMMENT else _find(data, k + 3, end, b"-->")
            return (i, endless | _COMMENT, 0) if stop < 0 else (stop + 3, endless, _NOTHING)
        return (_close(data, k + 2, end, i) if _is_letter(data[k + 1]) else i), endless, _NOTHING
    closing = k < end and data[k] == 47
    k += closing
    begin = k
    while k < end and k - begin < 16 and (_is_letter(data[k]) or (k > begin and 48 <= data[k] <= 57)):
        k += 1
    if k == begin or k >= end or not (data[k] == 62 or data[k] == 47 or data[k] == 32 or 9 <= data[k] <= 13):
        return i, endless, 0
    leaves = values[_find_slot(keys, _hash(data, begin, k, _TAG_SEED)), 0]
    stop = _close(data, k, end, i) if leaves > 0 else i
    if stop > i and leaves == _HIDDEN and not closing:
        kind = _STYLE if k - begin == 5 else _SVG if k - begin == 3 else _SCRIPT
        close = b"</style" if kind == _STYLE else b"</svg" if kind == _SVG else b"</script"
        inside = -1 if endless & kind else _find(data, stop, end, close)
        stop, endless = (inside, endless) if inside >= 0 else (stop, endless | kind)
    return stop, endless, leaves


@njit(nogil=True, cache=True)
def _close(data: Bytes, k: int, end: int, none: int) -> int:
    """Behind the next ``>``; ``none`` when a ``<`` or the end comes before it."""
    while k < end and data[k] != 62 and data[k] != 60:
        k += 1
    return k + 1 if k < end and data[k] == 62 else none


@njit(nogil=True, cache=True)
def _find(data: Bytes, begin: int, end: int, what: bytes) -> int:
    """Where ``what`` (in lower case) is in ``data[begin:end]``, letters of either case; -1 when it is not."""
    for i in range(begin, end - len(what) + 1):
        k = 0
        while k < len(what) and (data[i + k] == what[k] or (_is_letter(data[i + k]) and data[i + k] | 32 == what[k])):
            k += 1
        if k == len(what):
            return i
    return -1


@njit(nogil=True, cache=True, inline="always")
def _is_letter(b: int) -> bool:
    return 97 <= b | 32 <= 122


@njit(nogil=True, cache=True)
def _entity(
    data: Bytes,
    i: int,
    end: int,
    keys: NDArray[np.uint64],
    values: NDArray[np.int64],
    windows: NDArray[np.int64],
    out: Bytes,
    o: int,
) -> tuple[int, int]:
    """Writes what the entity at the ``&`` at ``i`` means; (its end, ``i`` for none; end of out)."""
    k = i + 1
    number = k < end and data[k] == 35
    k += number
    base = 16 if number and k < end and data[k] | 32 == 120 else 10
    k += base == 16
    begin, code, digits = k, 0, True
    while k < end and k - begin < 32 and (_is_letter(data[k]) or 48 <= data[k] <= 57):
        digit = data[k] - 48 if data[k] <= 57 else (data[k] | 32) - 87
        digits &= digit < base
        code = min(code * base + digit, 0x110000)
        k += 1
    if k == begin or k >= end or data[k] != 59 or (number and (not digits or k - begin > (6 if base == 16 else 7))):
        return i, o
    if number:
        code = windows[code - 128] if 128 <= code < 160 else code
        return k + 1, encode(out, o, 0xFFFD if code == 0 or code > 0x10FFFF or 0xD800 <= code < 0xE000 else code)
    slot = _find_slot(keys, _hash(data, begin, k, _ENTITY_SEED))
    if keys[slot] == 0:
        return i, o
    o = encode(out, o, values[slot, 0])
    return k + 1, encode(out, o, values[slot, 1]) if values[slot, 1] else o
