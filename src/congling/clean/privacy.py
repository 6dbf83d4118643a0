"""Privacy: personal data of the mainland's kinds become typed placeholders, such as [手机号].

A kernel walks over the bytes of a batch; digits, ``@`` and the first letters of keywords make it look closer, and only
in documents with a find is anything copied. What counts (K is the kind it counts for):

* ``phone``: mobile numbers (1, 3–9, nine digits; +86, 0086 or 86 before it; spaces or dashes as 3-4-4), landlines
  with an area code set apart (010-12345678, (0571) 8765 4321). Not 400 and 800 hot lines, 12315 and so on;
* ``id``: identity numbers, 18 digits (the last may be X) with a province, a plausible date and the checksum of
  GB 11643 (ISO 7064, MOD 11-2); the old 15 digits with a province and a plausible date;
* ``bank``: 16 to 19 digits that begin as cards do (62, 4, 51–55, 2221–2720, 34, 37, 35, 9558), pass Luhn's test, and
  stand alone or in groups of four;
* ``email``;
* ``ip``: IPv4 with four numbers up to 255, and IPv6 of 8 groups or with ``::`` and at least 3. Not after a word for
  version (v1.2.3.4, 版本 1.2.3.4), nor what names no one's machine: loopback, 0.0.0.0, masks (255.…), private and
  documentation networks (10., 172.16–31., 192.168., 169.254., 192.0.2., fe80:, ::1);
* ``account``: what follows QQ, 微信, vx, 支付宝 and their like (also QQ群, 加V) and a colon, 号 or the like.

A number is taken only whole: digits, letters, ``_`` or ``.`` with digits right before or behind it (an order number, an
ISBN, a fraction, a part of a longer number) forbid it. Not followed: names, addresses, plates, passports.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from congling.clean.characters import Bytes
from congling.clean.digits import Numbers
from congling.clean.personal import (
    EMAIL,
    IP,
    QQ,
    account,
    address,
    email,
    is_word,
    may_name,
    may_number,
    number,
    word_end,
)
from congling.corpus.documents import from_buffers, text_buffers

KINDS: tuple[str, ...] = ("phone", "id", "bank", "email", "ip", "account")
PLACEHOLDERS = (
    "[手机号]",
    "[身份证号]",
    "[银行卡号]",
    "[邮箱]",
    "[IP]",
    "[QQ号]",
    "[微信号]",
    "[支付宝]",
)  # of KINDS; account has three

_LEAST = 5  # bytes of the shortest find
_BEGINS = np.array([b < 0x80 and (is_word(b) or b == 64) for b in range(256)])  # bytes a find has to do with


def mask(text: pa.Array, kinds: Sequence[str]) -> tuple[pa.LargeStringArray, NDArray[np.int64]]:
    """The documents [N] with placeholders for the ``kinds`` (of KINDS) of data, and how many of each of KINDS [N, K].

    Masking again changes nothing. Without a find, the text is returned as it is, not copied.
    """
    wanted = np.array([k in kinds for k in (*KINDS, "account", "account")])
    counts = np.zeros((len(text), len(KINDS)), np.int64)
    blobs = [p.encode() for p in PLACEHOLDERS]
    bounds = np.cumsum([0, *map(len, blobs)])
    rows = np.arange(len(text))
    versions, newest = [text], rows.copy()
    while len(rows):  # what stood between two finds may look different when they are gone
        data, offsets = text_buffers(versions[-1])
        finds = np.empty((int(offsets[-1] - offsets[0]) // _LEAST + 1, 3), np.int64)
        per_document = np.zeros((len(rows), len(PLACEHOLDERS)), np.int64)
        finds = finds[: _find(data, offsets, wanted, finds, per_document)]
        if not len(finds):
            break
        account = per_document[:, QQ:].sum(1, keepdims=True)
        counts[rows] += np.concatenate([per_document[:, :QQ], account], axis=1)
        hit = np.flatnonzero(per_document.any(1))
        out = np.empty(
            int(offsets[-1] - offsets[0] + (np.diff(bounds)[finds[:, 2]] - finds[:, 1] + finds[:, 0]).sum()), np.uint8
        )
        ends = np.zeros(len(offsets), np.int64)
        _replace(data, offsets, finds, np.frombuffer(b"".join(blobs), np.uint8), bounds, out, ends)
        versions.append(from_buffers(out, ends).take(pa.array(hit)))
        rows = rows[hit]
        newest[rows] = sum(map(len, versions[:-1])) + np.arange(len(rows))
    if len(versions) == 1:
        return text, counts
    return pa.concat_arrays([v.cast(pa.large_string()) for v in versions]).take(pa.array(newest)), counts


@njit(nogil=True, cache=True)
def _replace(
    data: Bytes, offsets: Numbers, finds: Numbers, blob: Bytes, bounds: Numbers, out: Bytes, ends: Numbers
) -> None:
    i, o, f = offsets[0], 0, 0
    for d in range(len(offsets) - 1):
        while i < offsets[d + 1]:
            stop = finds[f, 0] if f < len(finds) and finds[f, 0] < offsets[d + 1] else offsets[d + 1]
            for k in range(i, stop):
                out[o] = data[k]
                o += 1
            i = stop
            if i < offsets[d + 1]:
                for k in range(bounds[finds[f, 2]], bounds[finds[f, 2] + 1]):
                    out[o] = blob[k]
                    o += 1
                i = finds[f, 1]
                f += 1
        ends[d + 1] = o


@njit(nogil=True, cache=True)
def _find(data: Bytes, offsets: Numbers, wanted: NDArray[np.bool_], finds: Numbers, counts: Numbers) -> int:
    """Fills ``finds`` with (begin, end, number of the placeholder) in order; returns their number."""
    found = 0
    digits, groups = np.empty(24, np.int64), np.empty(8, np.int64)
    for d in range(len(counts)):
        begin, end = offsets[d], offsets[d + 1]
        i = begin
        while i < end:
            while i < end and not _BEGINS[data[np.uintp(i)]]:
                i += 1
            if i == end:
                break
            b = data[i]
            start, stop, kind = i, i, -1
            if b == 64:
                start, stop = email(data, begin, i, end)
                kind = EMAIL
            else:
                after = word_end(data, i, end)
                size, is_digit = after - i, 48 <= b <= 57
                follows = data[after] if after + 1 < end else np.uint8(0)
                may_be_address = (size <= 4) & ((follows == 58) | (follows == 46))
                may_be_named = (size >= 5) & may_name(data, begin, i)
                if not (may_be_address | may_be_named | is_digit):  # most words: one branch is quicker than three
                    i = after
                    continue
                if is_digit and may_number(data, i, after, end):
                    start, stop, kind = number(data, begin, i, after, end, digits, groups)
                if stop == i and may_be_address:
                    start, stop, kind = i, address(data, begin, i, after, end), IP
                if may_be_named and (stop == i or not wanted[kind]):
                    start, stop, kind = account(data, begin, i, end)
            if stop > i and wanted[kind]:
                finds[found, 0], finds[found, 1], finds[found, 2] = start, stop, kind
                found += 1
                counts[d, kind] += 1
                begin = stop  # what was replaced is no context for what follows
                i = stop
            else:
                i = i + 1 if b == 64 else after
    return found
