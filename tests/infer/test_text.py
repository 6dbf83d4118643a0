"""Streamed text equals the text decoded at once, ends at stop strings, and never holds a broken character."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from congling.infer.strategy import Event
from congling.infer.text import StreamDecoder, TextStream, split_at_stop
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


def stream(text, stops=(), finish="length"):
    """All pieces of an answer of single bytes."""
    made = TextStream(toy.Bytes(), stops)
    data = text if isinstance(text, bytes) else text.encode()
    events = [Event(0, 16 + b, -b / 10) for b in data]
    events[-1].finish = finish
    pieces = []
    for event in events:
        pieces += made.push(event)
        if made.stopped:
            assert made.push(event) == []
            break
    return pieces, made


@given(st.text("从零abc，", max_size=12), st.lists(st.text("abc零", max_size=3), max_size=2), st.booleans())
def test_text_up_to_the_first_stop_string(text, stops, by_itself):
    pieces, made = stream(text + ".", stops, "stop" if by_itself else "length")
    ends = [at for stop in stops if stop and (at := (text + ".").find(stop)) >= 0]
    # Which of several stop strings comes first is known when the first of them is whole.
    whole = min((at + len(stop) for stop in stops if stop and (at := text.find(stop)) >= 0), default=0)
    found = [at for stop in stops if stop and (at := text[:whole].find(stop)) >= 0]
    wanted = text[: min(found)] if found else text + "."
    assert "".join(piece.text for piece in pieces) == wanted
    assert pieces[-1].finish == ("stop" if ends or by_itself else "length")
    assert all(piece.finish is None and piece.text for piece in pieces[:-1])
    data = b"".join(token.data for piece in pieces for token in piece.tokens)
    assert data == wanted.encode()
    assert made.stopped == bool(ends)


def test_tokens_come_with_the_text_that_they_end():
    pieces, made = stream("从a")
    assert [(p.text, [t.data for t in p.tokens]) for p in pieces] == [
        ("从", [b"\xe4", b"\xbb", b"\x8e"]),
        ("a", [b"a"]),
    ]
    assert pieces[1].tokens[0].logprob == -9.7
    assert made.tokens == 4
    pieces, _ = stream(b"a\xe4")
    assert [(p.text, [t.data for t in p.tokens]) for p in pieces] == [("a", [b"a"]), ("\ufffd", [b"\xe4"])]


def test_an_answer_at_once_and_an_end_without_a_token():
    made = TextStream(toy.Bytes(), ["c"])
    (piece,) = made.push(Event(0, ids=[16 + b for b in b"abcd"], score=1.0, finish="stop"))
    assert (piece.text, piece.finish, made.tokens) == ("ab", "stop", 4)
    made = TextStream(toy.Bytes(), ["bc"])
    assert [p.text for p in made.push(Event(0, 16 + 97))] == ["a"]
    assert made.push(Event(0, 16 + 98)) == []
    assert [(p.text, p.finish) for p in made.push(Event(0, finish="stop"))] == [("b", "stop")]


@pytest.mark.parametrize(
    ("text", "stops", "last", "wanted"),
    [
        ("abc", ["b"], False, ("a", "", True)),
        ("ab", ["bc"], False, ("a", "b", False)),
        ("ab", ["bc"], True, ("ab", "", False)),
        ("ab", [""], False, ("ab", "", False)),
    ],
)
def test_split_at_stop(text, stops, last, wanted):
    assert split_at_stop(text, stops, last) == wanted
