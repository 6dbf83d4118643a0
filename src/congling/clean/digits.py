"""Which digits are a telephone number, an identity number or the number of a bank card: kernels for ``privacy.py``."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from congling.clean.characters import Bytes

Numbers = NDArray[np.int64]
_WEIGHTS = np.array([7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2], np.int64)  # GB 11643


@njit(nogil=True, cache=True)
def gather(data: Bytes, i: int, end: int, digits: Numbers, groups: Numbers) -> int:
    """The first digits from ``i`` on, in groups with a space or a dash between two; the number of groups."""
    n, count, first = 0, 0, 0
    while i < end and n < len(digits):
        if 48 <= data[i] <= 57:
            digits[n] = data[i] - 48
            n += 1
        elif (data[i] == 32 or data[i] == 45) and n > first and count < 7 and i + 1 < end and 48 <= data[i + 1] <= 57:
            groups[count] = n - first
            count += 1
            first = n
        else:
            break
        i += 1
    groups[count] = n - first
    return count + 1


@njit(nogil=True, cache=True)
def telephone(digits: Numbers, groups: Numbers, count: int) -> int:
    """How many of the groups are a mobile number or a landline with its area code; 0 for none."""
    g, n = 0, 0  # groups and digits of the country code
    first = groups[0]
    if digits[0] == 8 and digits[1] == 6 and (first == 2 or first == 13):
        g, n = (1, 2) if first == 2 else (0, 2)
    elif (
        first >= 4 and digits[0] + digits[1] == 0 and digits[2] == 8 and digits[3] == 6 and (first == 4 or first == 15)
    ):
        g, n = (1, 4) if first == 4 else (0, 4)
    if g >= count:
        return 0
    size = groups[g] - (n if g == 0 else 0)
    if digits[n] == 1 and digits[n + 1] >= 3:
        if size == 11:
            return g + 1
        return g + 3 if size == 3 and count >= g + 3 and groups[g + 1] == 4 and groups[g + 2] == 4 else 0
    if g == 1 and digits[n] != 0 and count > 2 and 2 <= size <= 3 and 7 <= groups[2] <= 8:
        return 3  # +86 10 12345678: no 0 before the area code
    if n > 0 or digits[0] != 0 or count < 2 or not is_area(digits, first):
        return 0
    if digits[first] < 2 or not (7 + (first == 3) <= groups[1] <= 8):
        grouped = count >= 3 and digits[first] >= 2 and groups[2] == 4
        return 3 if grouped and (groups[1] == 4 or (groups[1] == 3 and first == 4)) else 0
    return 3 if count == 3 and groups[2] <= 4 else 2  # with an extension


@njit(nogil=True, cache=True)
def is_area(digits: Numbers, size: int) -> bool:
    """010, 02x and 0311 … 0999."""
    two = digits[1] == 2 or (digits[1] == 1 and digits[2] == 0)
    return digits[0] == 0 and (size == 3 if two else size == 4 and digits[1] >= 3)


@njit(nogil=True, cache=True)
def is_identity(digits: Numbers, size: int, last: int) -> bool:
    """Whether the digits are an identity number: province, date of birth and, of 18, the checksum; ``last`` 10 is X."""
    province = digits[0] * 10 + digits[1]
    k = 8 if size == 15 else 10
    year = 1900 + digits[6] * 10 + digits[7]
    if size == 18:
        year = digits[6] * 1000 + digits[7] * 100 + digits[8] * 10 + digits[9]
    month, day = digits[k] * 10 + digits[k + 1], digits[k + 2] * 10 + digits[k + 3]
    days = 30 if month == 4 or month == 6 or month == 9 or month == 11 else 29 if month == 2 else 31
    region = 1 <= digits[1] <= 7 and 1 <= digits[0] <= 6
    if not (region or province in (71, 81, 82, 83)) or not (1 <= month <= 12 and 1 <= day <= days):
        return False
    if size == 15:
        return True
    total = last
    for j in range(17):
        total += digits[j] * _WEIGHTS[j]
    return 1900 <= year <= 2035 and total % 11 == 1


@njit(nogil=True, cache=True)
def card(digits: Numbers, groups: Numbers, count: int) -> int:
    """How many of the groups are the number of a bank card: 16 to 19 digits in one group, or 4 4 4 4 and a rest."""
    taken, size = 1, groups[0]
    if size == 4 and count >= 4 and groups[1] == 4 and groups[2] == 4 and groups[3] == 4:
        taken, size = (5, 16 + groups[4]) if count == 5 else (4, 16)
    elif size == 6 and count == 2:
        taken, size = 2, 6 + groups[1]
    if not 16 <= size <= 19:
        return 0
    two = digits[0] * 10 + digits[1]
    four = two * 100 + digits[2] * 10 + digits[3]
    mastercard = (51 <= two <= 55 or 2221 <= four <= 2720) and size == 16
    if not (two == 62 or four == 9558 or mastercard or ((digits[0] == 4 or 3528 <= four <= 3589) and size == 16)):
        return 0
    total = 0
    for j in range(size):
        digit = digits[size - 1 - j] * (1 + j % 2)
        total += digit - 9 if digit > 9 else digit
    return taken if total % 10 == 0 else 0
