"""Kernels that recognise personal data by its form and by what stands around it; ``privacy.py`` says what counts.

They return (start, stop) or (start, stop, kind) in bytes; stop is where they began to look when there is nothing.
"""

import numpy as np
from numba import njit

from congling.clean.characters import Bytes
from congling.clean.digits import Numbers, card, gather, is_area, is_identity, telephone

PHONE, ID, BANK, EMAIL, IP, QQ, WECHAT, ALIPAY = range(8)


@njit(nogil=True, cache=True, inline="always")
def is_word(b: int) -> bool:
    return 48 <= b <= 57 or 97 <= b | 32 <= 122 or b == 95


_WORD = np.array([is_word(b) for b in range(256)])


@njit(nogil=True, cache=True)
def word_end(data: Bytes, i: int, end: int) -> int:
    while i < end and _WORD[data[np.uintp(i)]]:
        i += 1
    return i


@njit(nogil=True, cache=True)
def _ends_with(data: Bytes, begin: int, k: int, what: bytes) -> bool:
    """Whether ``data[begin:k]`` ends with ``what``, in lower case; letters of either case match."""
    if k - begin < len(what):
        return False
    for j in range(len(what)):
        b = data[k - len(what) + j]
        if (b | 32 if 65 <= b <= 90 else b) != what[j]:
            return False
    return True


@njit(nogil=True, cache=True)
def _is_one_of(data: Bytes, k: int, end: int, characters: bytes) -> bool:
    """Whether one of ``characters``, of 3 bytes each, is at ``k``."""
    if k < 0 or k + 3 > end:
        return False
    for j in range(0, len(characters), 3):
        if data[k] == characters[j] and data[k + 1] == characters[j + 1] and data[k + 2] == characters[j + 2]:
            return True
    return False


@njit(nogil=True, cache=True)
def _stands_alone(data: Bytes, begin: int, start: int, stop: int, end: int) -> bool:
    """Whether nothing around ``data[start:stop]`` makes it part of a longer number, word, price or address."""
    if start > begin:
        b = data[start - 1]
        joined = b == 45 or b == 46 or b == 47 or b == 43
        if is_word(b) or b == 36 or b == 64 or (joined and start - 1 > begin and is_word(data[start - 2])):
            return False
    if stop < end:
        b = data[stop]
        joined = b == 45 or b == 46 or b == 43
        return not (is_word(b) or b == 64 or b == 37 or (joined and stop + 1 < end and is_word(data[stop + 1])))
    return True


@njit(nogil=True, cache=True)
def _labelled(data: Bytes, begin: int, start: int, stop: int, end: int) -> bool:
    """Whether words around a number say that it is another one: 订单号, 编号, ISBN before it, 元, 人 behind it."""
    k = start
    while k > begin and (data[k - 1] == 32 or data[k - 1] == 58 or _is_one_of(data, k - 3, k, _COLON)):
        k -= 3 if data[k - 1] >= 0x80 else 1
    if _is_one_of(data, k - 3, k, _NUMBER_OF) and k - 6 >= begin and _is_one_of(data, k - 6, k, _THINGS):
        return True
    after = stop + 1 if stop < end and data[stop] == 32 else stop
    return _ends_with(data, begin, k, b"isbn") or _is_one_of(data, after, end, _UNITS)


_COLON, _NUMBER_OF, _CLOSE, _ADD = "：".encode(), "号码".encode(), "）".encode(), "加".encode()
_THINGS, _UNITS = "单编序批货文型件票".encode(), "元万亿人次个年块美".encode()


@njit(nogil=True, cache=True)
def may_number(data: Bytes, i: int, after: int, end: int) -> bool:
    """Whether a long number may begin with the word of digits at ``i``: quick, for it is asked of every one."""
    size = after - i
    if size > 4:
        return True
    b = data[after] if after < end else np.uint8(0)
    parted = b == 32 or b == 45 or b == 41 or b == 0xEF
    return (size > 2 or (size == 2 and data[i] == 56 and data[i + 1] == 54)) and parted  # 86


@njit(nogil=True, cache=True)
def number(
    data: Bytes, begin: int, i: int, after: int, end: int, digits: Numbers, groups: Numbers
) -> tuple[int, int, int]:
    """(start, stop, kind) of the number whose first digit is at ``i``; stop is ``i`` when it is none of the kinds."""
    count = gather(data, i, end, digits, groups)
    first = groups[0]
    if i + first < after:  # a word that begins with digits; an identity number may end with X
        is_id = first == 17 and after == i + 18 and data[i + 17] | 32 == 120 and is_identity(digits, 18, 10)
        return i, i + 18 if is_id and _stands_alone(data, begin, i, i + 18, end) else i, ID
    start = i - 1 if i > begin and data[i - 1] == 43 else i
    taken, kind = telephone(digits, groups, count), PHONE
    if taken == 0 and start == i:
        if (first == 18 and is_identity(digits, 18, digits[17])) or (
            first == 15 and is_identity(digits, 15, 0) and (i == begin or data[i - 1] != 61)  # not ?id=311674710320284
        ):
            taken, kind = 1, ID
        else:
            taken, kind = card(digits, groups, count), BANK
    stop = i
    for g in range(taken):
        stop += groups[g] + (g > 0)
    if taken == 0 and 3 <= first <= 4 and digits[0] == 0:
        start, stop = _in_brackets(data, begin, i, end, digits, groups)
        kind = PHONE
    if stop == i or not _stands_alone(data, begin, start, stop, end):
        return i, i, kind
    sure = kind == ID and first == 18
    return start, i if not sure and _labelled(data, begin, start, stop, end) else stop, kind


@njit(nogil=True, cache=True)
def _in_brackets(data: Bytes, begin: int, i: int, end: int, digits: Numbers, groups: Numbers) -> tuple[int, int]:
    """(start, stop) of a landline whose area code, at ``i``, is in brackets: (010) 1234 5678; ``i`` twice for none."""
    first = groups[0]
    k = i + first
    wide = _is_one_of(data, k, end, _CLOSE)
    if not is_area(digits, first) or k >= end or not (data[k] == 41 or wide):
        return i, i
    start = i - 3 if wide else i - 1
    k += 3 if wide else 1
    k += k < end and (data[k] == 32 or data[k] == 45)
    if start < begin or k >= end or not 50 <= data[k] <= 57:
        return i, i
    count = gather(data, k, end, digits, groups)
    if 7 <= groups[0] <= 8:
        return start, k + groups[0]
    return (start, k + groups[0] + 5) if count >= 2 and 3 <= groups[0] <= 4 and groups[1] == 4 else (i, i)


@njit(nogil=True, cache=True)
def email(data: Bytes, begin: int, at: int, end: int) -> tuple[int, int]:
    """(start, stop) of the address around the ``@``; ``at`` twice when there is none."""
    start = at
    while start > begin and (is_word(data[start - 1]) or data[start - 1] in (37, 43, 45, 46)):  # % + - .
        start -= 1
    while start < at and not is_word(data[start]):
        start += 1
    k, label, dots = at + 1, at + 1, 0
    stop = at
    while k < end:  # label: where the part of the domain begins; stop: behind the last that may be its end
        while k < end and (is_word(data[k]) or data[k] == 45) and data[k] != 95:
            k += 1
        letters = k - label >= 2
        for j in range(label, k):
            letters &= data[j] > 57
        if k == label or (
            dots == 0 and k - label == 2 and data[label + 1] == 120 and 48 <= data[label] <= 57
        ):  # @2x.png
            break
        stop = k if dots > 0 and letters else stop
        dots += 1
        if k >= end or data[k] != 46:
            break
        k += 1
        label = k
    if start == at or stop == at or (_ends_with(data, start, at, b"git") and at - start == 3):
        return at, at
    return start, stop


@njit(nogil=True, cache=True)
def address(data: Bytes, begin: int, i: int, after: int, end: int) -> int:
    """The end of the IP address at ``i`` that is to be masked; ``i`` for none."""
    stop = _address4(data, begin, i, end) if data[after] == 46 else _address6(data, i, end)
    if stop > i and (
        (stop < end and data[stop] == 58 and data[after] == 58) or not _stands_alone(data, begin, i, stop, end)
    ):
        return i
    return stop if i == begin or data[i - 1] != 58 or data[after] == 46 else i


@njit(nogil=True, cache=True)
def _address4(data: Bytes, begin: int, i: int, end: int) -> int:
    parts, part, size, k = 0, 0, 0, i
    a, b, tens, hundreds = 0, 0, 0, 0
    while k <= end:
        if k < end and 48 <= data[k] <= 57 and size < 3:
            part = part * 10 + data[k] - 48
            size += 1
            k += 1
            continue
        if size == 0 or part > 255 or (k < end and 48 <= data[k] <= 57):
            return i
        a, b = (part if parts == 0 else a), (part if parts == 1 else b)
        tens, hundreds = tens + (part >= 10), hundreds + (part >= 100)
        parts, part, size = parts + 1, 0, 0
        if parts == 4:
            break
        if k >= end or data[k] != 46:
            return i
        k += 1
    private = a == 0 or a == 10 or a == 127 or a >= 224 or (a == 192 and (b == 168 or b == 0)) or (a == 203 and b == 0)
    private |= (a == 172 and 16 <= b < 32) or (a == 169 and b == 254)
    if private or (tens < 2 and hundreds == 0):  # 1.2.3.4 is a section
        return i
    before = i
    while before > begin and (data[before - 1] in (32, 58, 46) or _is_one_of(data, before - 3, before, _AFTER_VERSION)):
        before -= 3 if data[before - 1] >= 0x80 else 1
    version = _ends_with(data, begin, before, b"version") or _ends_with(data, begin, before, b"ver")
    return i if version or _is_one_of(data, max(before - 3, begin), before, _VERSION) else k


_AFTER_VERSION, _VERSION = "：号为是".encode(), "本版".encode()


@njit(nogil=True, cache=True)
def _address6(data: Bytes, i: int, end: int) -> int:
    parts, gaps, size, k = 0, 0, 0, i
    value, first, second, numbers = 0, 0, 0, 0
    while k <= end:
        b = data[k] if k < end else 0
        digit = b - 48 if 48 <= b <= 57 else (b | 32) - 87 if 97 <= b | 32 <= 102 else -1
        if digit >= 0 and size < 4:
            value = value * 16 + digit
            numbers += digit < 10
            size += 1
            k += 1
            continue
        if size == 0:
            break
        first, second = (value if parts == 0 else first), (value if parts == 1 else second)
        parts, size, value = parts + 1, 0, 0
        if b != 58 or digit >= 0 or parts == 8:
            break
        k += 1
        if k < end and data[k] == 58:
            gaps += 1
            k += 1
    whole = (parts == 8 and gaps == 0) or (gaps == 1 and 3 <= parts <= 7)
    local = first & 0xFFC0 == 0xFE80 or (first == 0x2001 and second == 0xDB8)
    return k if whole and numbers > 0 and not local and data[k - 1] != 58 else i


_BEFORE_NAME = np.array([b >= 0x80 or chr(b) in ":=qQ" for b in range(256)])


@njit(nogil=True, cache=True)
def may_name(data: Bytes, begin: int, i: int) -> bool:
    """Whether a keyword may stand before the word at ``i``: quick, for it is asked of every word."""
    k = i - 1 - int(i - 1 > begin and data[np.uintp(i - 1)] == 32)
    b = data[np.uintp(k)] if k >= begin else np.uint8(0)
    return bool(_BEFORE_NAME[b] | (data[np.uintp(i)] | 32 == 113) | ((b == 32) & (k < i - 1)))


@njit(nogil=True, cache=True)
def account(data: Bytes, begin: int, i: int, end: int) -> tuple[int, int, int]:
    """(start, stop, kind) of the name of an account at ``i``, after a keyword; stop is ``i`` for none."""
    stop, digits = i, 0
    while stop < end and (is_word(data[stop]) or data[stop] == 45):
        digits += 48 <= data[stop] <= 57
        stop += 1
    start, before, marked = i, i, False  # marked: a colon or the like says that a name follows
    if stop - i >= 7 and data[i] | 32 == 113 and data[i + 1] | 32 == 113:
        start, before = i + 2, i + 2  # QQ12345678
    while before > begin:
        b = data[before - 1]
        if b == 32 or b == 58 or b == 61:
            marked |= b != 32
            before -= 1
        elif b >= 0x80 and _is_one_of(data, before - 3, before, _BETWEEN):
            marked |= _is_one_of(data, before - 3, before, _MARKS)
            before -= 3
        else:
            break
    size, named = stop - start, digits > 0
    if _ends_with(data, begin, before, b"qq"):
        alone = before - 2 == begin or not is_word(data[before - 3])
        fits = digits == size and 6 - marked <= size <= 11 and data[start] != 48
        kind = QQ if alone and fits else -1
    elif _ends_with(data, begin, before, _KEY_ALIPAY):
        kind = ALIPAY if marked and 5 <= size <= 30 else -1
    elif _ends_with(data, begin, before, _KEY_WECHAT) or _ends_with(data, begin, before, _KEY_ADD):
        kind = WECHAT if marked and 5 <= size <= 20 else -1
    else:
        kind = WECHAT if marked and named and 5 <= size <= 20 and _is_wechat(data, begin, before) else -1
    return start, stop if kind >= 0 and _stands_alone(data, start, start, stop, end) else i, kind


_BETWEEN, _MARKS = "：号是为码账帐户群名（".encode(), "：号".encode()
_KEY_ALIPAY, _KEY_WECHAT, _KEY_ADD = "支付宝".encode(), "微信".encode(), "加微".encode()


@njit(nogil=True, cache=True)
def _is_wechat(data: Bytes, begin: int, k: int) -> bool:
    """Whether the word that ends at ``k`` is wx, vx, weixin, wechat, or a V after 加 or +."""
    size = 0
    while k - size > begin and is_word(data[k - size - 1]):
        size += 1
    if size == 1:
        plus = _is_one_of(data, k - 4, k, _ADD) if k - 4 >= begin else False
        return data[k - 1] | 32 == 118 and (plus or (k - 2 >= begin and data[k - 2] == 43))
    name = size == 6 and (_ends_with(data, begin, k, b"weixin") or _ends_with(data, begin, k, b"wechat"))
    return name or (size == 2 and (_ends_with(data, begin, k, b"wx") or _ends_with(data, begin, k, b"vx")))
