"""From events to text: whole characters, stop strings, and which token made which text. One stream an answer."""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from congling.infer.strategy import Event, Finish

if TYPE_CHECKING:
    from congling.tokenizer.tokenizer import Tokenizer


@dataclass
class TokenText:
    """A token of the text, for log-probabilities: its bytes may be a part of a character."""

    token: int
    data: bytes
    logprob: float | None
    top: list[tuple[int, float]]


@dataclass
class Piece:
    """Text that is certain, the tokens that end in it, and the end when this is the last piece."""

    text: str
    tokens: list[TokenText] = field(default_factory=list)
    finish: Finish | None = None


class StreamDecoder:
    """Holds back the bytes of an unfinished UTF-8 character; bytes that can never be one become U+FFFD."""

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The text that is certain after ``token``; may be empty."""
        return self._decoder.decode(self._tokenizer.piece(token))

    def finish(self) -> str:
        """What was held back, as U+FFFD, at the end."""
        return self._decoder.decode(b"", final=True)


class TextStream:
    """Text of one answer's events. Never breaks a character; holds back what may become a stop string.

    After a stop string was met ``stopped`` is true: the caller cancels the request, or stops this answer of it
    (``Handle.stop``), and pushes nothing more.
    """

    def __init__(self, tokenizer: "Tokenizer", stops: Sequence[str] = ()) -> None:
        self._decoder, self._tokenizer = StreamDecoder(tokenizer), tokenizer
        self._stops = [stop for stop in stops if stop]
        self._held = ""  # decoded, but a stop string may begin in it
        self._waiting: list[tuple[int, int, TokenText]] = []  # characters of the answer before and after the token
        self._decoded = self._given = 0  # characters of the answer so far: decoded, given out
        self.tokens = 0  # pushed, the stop token not counted
        self.stopped = False

    def push(self, event: Event) -> list[Piece]:
        """The pieces that are certain after ``event``: none or one; with ``finish`` set when it is the last."""
        if self.stopped:
            return []
        for token in event.ids if event.ids is not None else [] if event.token is None else [event.token]:
            self._add(token, event)
        if event.finish is not None:
            self._grow(self._decoder.finish())
        text, self._held, self.stopped = split_at_stop(self._held, self._stops, last=event.finish is not None)
        finish: Finish | None = "stop" if self.stopped else event.finish
        if not text and finish is None:
            return []
        self._given += len(text)
        return [Piece(text, self._certain(finish is not None), finish)]

    def _add(self, token: int, event: Event) -> None:
        self.tokens += 1
        start = self._decoded
        self._grow(self._decoder.push(token))
        entry = TokenText(token, self._tokenizer.piece(token), event.logprob, event.top)
        self._waiting.append((start, self._decoded, entry))

    def _grow(self, text: str) -> None:
        self._held += text
        self._decoded += len(text)

    def _certain(self, last: bool) -> list[TokenText]:
        """Tokens whose text has been given out; at a stop string also one that is cut by it, at another end all."""
        if self.stopped:
            count = sum(start < self._given for start, _, _ in self._waiting)
        else:
            count = len(self._waiting) if last else sum(end <= self._given for _, end, _ in self._waiting)
        done, self._waiting = self._waiting[:count], self._waiting[count:]
        return [entry for _, _, entry in done]


def split_at_stop(text: str, stops: Sequence[str], last: bool = False) -> tuple[str, str, bool]:
    """(text that is certain, text held back because a stop string may begin there, whether a stop string was met)."""
    found = [at for stop in stops if stop and (at := text.find(stop)) >= 0]
    if found:
        return text[: min(found)], "", True
    if last:
        return text, "", False
    longest = max((len(stop) for stop in stops), default=0)
    for size in range(min(longest - 1, len(text)), 0, -1):
        if any(stop.startswith(text[-size:]) for stop in stops):
            return text[:-size], text[-size:], False
    return text, "", False
