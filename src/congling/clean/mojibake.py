"""Mojibake: text that was decoded with a wrong encoding is decoded again, where that is certain.

Three misreadings are undone: UTF-8 read as Windows-1252 or Latin-1 (ä½ å¥½), GBK read as those (ÄãºÃ), UTF-8 read as
GBK (浣犲ソ). A repair is certain when the characters give bytes in the wrong encoding and these bytes text in the right
one, both strictly, and when that text is Chinese: Han characters (two at least) and their punctuation, at least 0.8 of
them among the 3,755 or 5,401 common ones of GB2312 or Big5. In GBK, where nearly any bytes mean something, a quarter
must be among the most frequent 300 too. It is done line by line, for Latin letters run by run, as parts of a page may
have been read rightly.

What looks like mojibake but lost bytes on its way (浣犲ソ锛?) is left as it is and counted, as are the remains 锟斤拷
of U+FFFD, and 烫烫烫烫 and 屯屯屯屯 of unwritten memory. Not followed: other languages, and two misreadings on
top of each other (compare ftfy).
"""

import re
from functools import cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

from congling.clean.characters import CODE_POINTS, encoded, is_suspect

# The 300 commonest characters of `../shared/data`, books, news, statutes and technical pages alike.
_FREQUENT = frozenset(
    "的一不是有了人在个以我中和用为这大上来可到时行下要之会道出年他子能也生如得作你其们就说好国自后方于发地定对多本家理法数成过者日分"
    "十文当去应二公事小都第面所三业同天间还工而前务点里很等开部使进实看么新将主设经建入月没心市相水关高内合通条此现动与机学知服全安"
    "民然明只管着何重意政太常加因度并那位门或些程最次外性回问正果件起见区元化表代又规已名平及更比王制两体提无但员情房从便量书保单酒四"
    "信目产接物五山处计样电长据解向儿金任想式力由给系种做结路题今被手老城先西非什需场原它品至少资南取网立未统交头住口把求送期才气收容"
)
_HAN = re.compile("[\u3400-\u9fff]")
_CHINESE = re.compile("[\u3000-\u9fff\uff00-\uffef“”‘’—…·\x20-\x7e\t\r\n\xa0]")
_WINDOWS = {ord(bytes([b]).decode("cp1252", "ignore") or "\0"): b for b in range(0x80, 0xA0)}
_WINDOWS.pop(0)
_LATIN_RUN = re.compile(f"[\0-\xff{''.join(map(chr, _WINDOWS))}]+")
_LATIN = re.compile("[\x80-\xff]")
_REMAINS = re.compile("[锟斤拷]{3,}|烫{4,}|屯{4,}")


def repair(text: str) -> tuple[str, int]:
    """The text with what can be repaired for certain, and the number of characters of mojibake left in it."""
    rows = np.empty(len(text) // 3 + 1, np.int64)
    rows = rows[: _odd_lines(np.frombuffer(text.encode("utf-32-le"), np.uint32), _suspects(), rows)]
    if not len(rows):
        return text, 0
    lines, left = text.split("\n"), 0
    for i in map(int, rows):
        lines[i], lost = _repair_line(lines[i])
        left += lost
    return "\n".join(lines), left


def _repair_line(line: str) -> tuple[str, int]:
    left = sum(map(len, _REMAINS.findall(line)))
    if len(_LATIN.findall(line)) >= 2:
        runs = [_repair_run(run) for run in _LATIN_RUN.findall(line)]
        pieces = iter([run for run, _ in runs])
        line, left = _LATIN_RUN.sub(lambda _: next(pieces), line), left + sum(lost for _, lost in runs)
    again, certain = _decode(line, "gb18030", "utf-8")
    return (again, left) if certain else (line, left + (len(line) if again else 0))


def _repair_run(run: str) -> tuple[str, int]:
    """The same of a run of characters of Windows-1252 or Latin-1."""
    if len(_LATIN.findall(run)) < 2:
        return run, 0
    as_bytes = run.translate(_WINDOWS)
    for encoding in ("utf-8", "gb18030"):
        again, certain = _decode(as_bytes, "latin-1", encoding)
        if certain:
            return again, 0
        if again and encoding == "utf-8":
            return run, len(run)
    return run, 0


def _decode(text: str, wrong: str, right: str) -> tuple[str, bool]:
    """(the text meant, whether it is certain); ("", False) when it does not look as if it was misread."""
    whole, text = "\ufffd" not in text, text.replace("\ufffd", "?")  # GB18030 has bytes for U+FFFD
    try:
        again, certain = _encode(text, wrong, "strict").decode(right), whole
    except UnicodeError:
        again, certain = _encode(text, wrong, "replace").decode(right, "replace"), False
    broken = again.count("\ufffd")
    again = again if certain else again.replace("\ufffd", "").replace("?", "")
    han = _HAN.findall(again)
    plausible = len(han) >= 2 and len(_CHINESE.findall(again)) >= (0.95 if certain else 0.8) * len(again)
    plausible &= sum(map(_common, han)) >= 0.8 * len(han) and (
        certain or (6 * len(han) >= len(text) and broken <= len(han))
    )
    if right == "gb18030" or not certain:
        plausible &= 4 * sum(c in _FREQUENT for c in han) >= len(han)
    return (again, certain) if plausible else ("", False)


def _encode(text: str, encoding: str, errors: str) -> bytes:
    if encoding == "latin-1":
        return text.encode(encoding, errors)
    return b"\x80".join(piece.encode(encoding, errors) for piece in text.split("€"))  # as Windows reads it in GBK


@njit(nogil=True, cache=True)
def _odd_lines(codes: NDArray[np.uint32], suspects: NDArray[np.bool_], rows: NDArray[np.int64]) -> int:
    """Fills ``rows`` with the numbers of the lines that have two suspects or more; returns how many."""
    found, line, odd = 0, 0, 0
    for k in range(len(codes)):
        odd += suspects[codes[k]]
        if codes[k] == 10 or k + 1 == len(codes):
            if odd >= 2:
                rows[found] = line
                found += 1
            line, odd = line + 1, 0
    return found


@cache
def _suspects() -> NDArray[np.bool_]:
    """What all mojibake has at least two of in a line, bool [0x110000]."""
    table = np.zeros(CODE_POINTS, np.bool_)
    table[[*range(0x80, 0x100), *filter(is_suspect, range(0x4E00, 0xA000)), *map(ord, "烫屯锟斤拷")]] = True
    return table


@cache
def _common(char: str) -> bool:
    simplified, traditional = encoded(char, "gb2312") or b"\0", encoded(char, "big5") or b"\0"
    return 0xB0 <= simplified[0] <= 0xD7 or 0xA4 <= traditional[0] <= 0xC6
