"""Streamed text equals the text decoded at once, and never holds a broken character."""

from hypothesis import given
from hypothesis import strategies as st

from congling.infer.stream import StreamDecoder
from infer import toy


@given(st.binary(max_size=30) | st.text(max_size=10).map(str.encode))
def test_pieces_join_to_what_python_decodes(data):
    decoder = StreamDecoder(toy.Bytes())
    pieces = [decoder.push(16 + b) for b in data] + [decoder.finish()]
    assert "".join(pieces) == data.decode("utf-8", errors="replace")


def test_a_character_comes_whole():
    decoder = StreamDecoder(toy.Bytes())
    assert [decoder.push(16 + b) for b in "从a".encode()] == ["", "", "从", "a"]
    assert decoder.push(16 + 0xE4) == ""
    assert decoder.push(2) == ""  # a marker has no bytes
    assert decoder.finish() == "\ufffd"
