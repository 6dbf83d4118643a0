import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from congling.corpus import json_stream
from congling.corpus.json_stream import FAULTS, array_items

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='a从"\\{}[],:\n\t/ é', max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
ARRAYS = st.lists(st.dictionaries(st.text(max_size=4), VALUES, max_size=3), max_size=6)


def split(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


def scan(data: bytes, size: int = 7) -> list[tuple[bytes, int, str]]:
    return [(bytes(i.raw), i.line, FAULTS[i.fault]) for items in array_items(iter(split(data, size))) for i in items]


@settings(deadline=None, max_examples=60)
@given(ARRAYS, st.integers(1, 40), st.sampled_from([None, 1, 4]), st.booleans())
def test_items_are_those_of_json_loads_wherever_the_blocks_end(rows, size, indent, ascii_only):
    data = json.dumps(rows, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "surrogatepass")
    found = scan(data, size)
    assert [json.loads(raw) for raw, _, _ in found] == rows
    assert all(fault == "" for _, _, fault in found)
    lines = data.split(b"\n")
    for raw, line, _ in found:
        assert raw.split(b"\n")[0] in lines[line - 1]


@settings(deadline=None, max_examples=60)
@given(ARRAYS, st.integers(1, 40), st.data())
def test_damage_is_never_silent(rows, size, data):
    """One byte removed or changed: either it still is an array of objects, or some item shows it."""
    whole = bytearray(json.dumps(rows, ensure_ascii=False, indent=1).encode("utf-8", "surrogatepass"))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at : at + 1] = data.draw(st.sampled_from([b"", b'"', b"{", b"}", b",", b"\n", b"x", b"\\"]))
    found = scan(bytes(whole), size)
    try:
        expected = json.loads(whole.decode("utf-8", "surrogatepass"))
        assert isinstance(expected, list)
        assert all(isinstance(row, dict) for row in expected)
    except (AssertionError, ValueError):
        shown = any(fault for _, _, fault in found) or not all(parses(raw) for raw, _, _ in found)
        assert shown or not bytes(whole).strip()
    else:
        assert [json.loads(raw) for raw, _, _ in found] == expected


def parses(raw: bytes) -> bool:
    try:
        json.loads(raw.decode("utf-8", "surrogatepass"))
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_damage_is_confined_to_its_line(size):
    data = b'[\n{"text": "a"},\n{"text": "b},\n{"text": "c"},\n{"text": "d"}\n]\n'
    found = scan(data, size)
    assert [raw for raw, _, fault in found if not fault] == [b'{"text": "a"}', b'{"text": "c"}', b'{"text": "d"}']
    [(raw, line, fault)] = [item for item in found if item[2]]
    assert (raw, line) == (b'{"text": "b},\n', 3)
    assert "line break inside a string" in fault


@pytest.mark.parametrize(
    ("data", "fault", "line"),
    [
        (b'[{"a": 1} {"a": 2}]', "expected ','", 1),
        (b'[{"a": 1},\n]', "not an object", 2),
        (b'[{"a": 1},\n 7]', "not an object", 2),
        (b'[{"a": 1}]\nmore', "after the end", 2),
        (b'[{"a": 1},\n{"a"', "cut off", 2),
        (b'[{"a": 1}\n', "cut off", 2),
        (b"[", "cut off", 1),
        (b"7", "not a JSON array", 1),
    ],
)
def test_each_fault_has_its_line(data, fault, line):
    last = scan(data)[-1]
    assert fault in last[2]
    assert last[1] == line


def test_an_item_without_end_is_not_collected_forever(monkeypatch):
    monkeypatch.setattr(json_stream, "MAX_RECORD_BYTES", 1000)
    blocks = iter([b'[{"text": "'] + [b"x" * 400] * 20 + [b'"},\n{"text": "b"}\n]'])
    found = [item for items in array_items(blocks) for item in items]
    assert all(len(item.raw) <= 1400 for item in found)
    assert found[0].fault
    assert bytes(found[-1].raw) == b'{"text": "b"}'
    assert not found[-1].fault


def test_memory_is_that_of_a_block():
    """Items come as the blocks do: nothing but the unfinished item is held back."""
    row = json.dumps({"text": "从零" * 200}, ensure_ascii=False).encode()
    data = b"[" + b",".join([row] * 300) + b"]"
    fed = 0

    def blocks():
        nonlocal fed
        for block in split(data, 4096):
            fed += len(block)
            yield block

    seen = 0
    for items in array_items(blocks()):
        seen += sum(len(item.raw) + 1 for item in items)
        assert fed - seen <= len(row) + 2
