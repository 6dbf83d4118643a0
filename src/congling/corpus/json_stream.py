"""Finds the objects of a huge JSON array in blocks of bytes, without parsing them or holding the file.

A state machine (one numba loop) follows strings, escapes and nesting, and reports where every item begins and ends.
Inside a string a raw line break is not allowed in JSON; that rule confines damage: after an error, the scanner takes
up again at the next line that begins with ``{``, and what lies between is reported as one damaged item.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from congling.corpus.streams import MAX_RECORD_BYTES

# The scanner's modes: where the next byte stands.
_BEFORE, _FIRST, _NEXT, _AFTER, _END = 0, 1, 2, 3, 4  # the "[", the first item, an item after ",", a "," or "]", all
_ITEM, _STRING, _ESCAPE = 5, 6, 7  # in an item: outside of a string, inside, after a backslash
_LOST, _LINE_START = 8, 9  # after an error: in a line, at the beginning of one
_MODE, _DEPTH, _START, _LINE, _ITEM_LINE, _FAULT = range(6)  # fields of the state

# What is wrong with an item (0: nothing the scanner sees).
FAULTS = (
    "",
    "a line break inside a string (a missing quote?)",
    "expected ',' or ']' between items",
    "an item that is not an object",
    "text after the end of the array",
    "the array is cut off in the middle: it has no closing ']'",
    f"more than {MAX_RECORD_BYTES >> 20} MiB without an end (a missing quote, brace or line break?)",
    "not a JSON array",
)
_NEWLINE, _SEPARATOR, _NO_OBJECT, _TRAILING, _CUT_OFF, TOO_LONG, _NO_ARRAY = range(1, 8)
_UNEXPECTED = (_NO_ARRAY, _NO_OBJECT, _NO_OBJECT, _SEPARATOR, _TRAILING)  # byte, by mode


class Item(NamedTuple):
    """One item of the array: its bytes, the line it begins at, and an index into FAULTS."""

    raw: memoryview
    line: int
    fault: int


@njit(nogil=True, cache=True)
def _skip_text(data: NDArray[np.uint8], at: int) -> int:
    """The next quote, backslash or line break from ``at`` on, or the end of ``data``."""
    while at < len(data) and data[at] != 0x22 and data[at] != 0x5C and data[at] != 0x0A:
        at += 1
    return at


@njit(nogil=True, cache=True)
def _scan(data: NDArray[np.uint8], at: int, state: NDArray[np.int64], items: NDArray[np.int64]) -> int:
    """Goes on from byte ``at``; writes (start, end, line, fault) of every finished item into ``items`` [M, 4].

    Returns their number. ``state`` carries over to the next block, whose data begin at the unfinished item.
    """
    mode, depth, start, line, item_line, fault = state
    count = 0
    while at < len(data):
        byte = data[at]
        if mode == _STRING:
            at = _skip_text(data, at)
            if at == len(data):
                break
            byte = data[at]
            if byte == 0x22:
                mode = _ITEM
            elif byte == 0x5C:
                mode = _ESCAPE
            else:
                mode, fault = _LINE_START, _NEWLINE
        elif mode == _ITEM:
            if byte == 0x22:
                mode = _STRING
            elif byte == 0x7B or byte == 0x5B:
                depth += 1
            elif byte == 0x7D or byte == 0x5D:
                depth -= 1
                if depth == 0:
                    items[count, 0], items[count, 1], items[count, 2], items[count, 3] = start, at + 1, item_line, 0
                    count += 1
                    mode, start = _AFTER, -1
        elif mode == _ESCAPE:
            mode, fault = (_LINE_START, _NEWLINE) if byte == 0x0A else (_STRING, fault)
        elif byte == 0x0A:
            mode = _LINE_START if mode == _LOST else mode
        elif byte == 0x20 or byte == 0x09 or byte == 0x0D:
            pass
        elif byte == 0x7B and mode in (_FIRST, _NEXT, _LINE_START):
            if mode == _LINE_START:  # what was skipped since the error
                items[count, 0], items[count, 1], items[count, 2], items[count, 3] = start, at, item_line, fault
                count += 1
            mode, depth, start, item_line, fault = _ITEM, 1, at, line, 0
        elif byte == 0x5B and mode == _BEFORE:
            mode = _FIRST
        elif byte == 0x5D and mode in (_FIRST, _AFTER):
            mode = _END
        elif byte == 0x2C and mode == _AFTER:
            mode = _NEXT
        elif mode in (_LOST, _LINE_START):
            mode = _LOST
        else:
            fault = _UNEXPECTED[mode]
            mode, start, item_line = _LOST, at, line
        if byte == 0x0A:
            line += 1
        at += 1
    state[:] = mode, depth, start, line, item_line, fault
    return count


def array_items(blocks: Iterator[bytes]) -> Iterator[list[Item]]:
    """The items of the JSON array in ``blocks`` (UTF-8), those that end in a block together.

    Never raises: what is not an object, or cannot be told apart, comes as an item with a fault.
    """
    state = np.array([_BEFORE, 0, -1, 1, 1, 0], np.int64)
    rest = b""  # the unfinished item
    for block in blocks:
        data = rest + block if rest else block
        table = np.empty((len(data) // 3 + 2, 4), np.int64)  # an item and its comma: at least three bytes
        count = _scan(np.frombuffer(data, np.uint8), len(rest), state, table)
        view = memoryview(data)
        items = [Item(view[start:end], line, fault) for start, end, line, fault in table[:count].tolist()]
        start = int(state[_START])
        rest = data[start:] if start >= 0 else b""
        if len(rest) > MAX_RECORD_BYTES:
            items.append(Item(memoryview(rest), int(state[_ITEM_LINE]), int(state[_FAULT]) or TOO_LONG))
            state[_MODE], state[_FAULT], state[_ITEM_LINE], rest = _LOST, TOO_LONG, state[_LINE], b""
        if start >= 0:
            state[_START] = 0
        yield items
    if rest or state[_MODE] not in (_BEFORE, _END):
        fault = int(state[_FAULT]) or _CUT_OFF
        yield [Item(memoryview(rest), int(state[_ITEM_LINE] if rest else state[_LINE]), fault)]
