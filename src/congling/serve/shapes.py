"""How answers look in JSON: chat and plain completions, whole and as chunks of a stream, with log-probabilities."""

import time
import uuid
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import orjson

from congling.infer.text import Piece, TokenText

if TYPE_CHECKING:
    from congling.tokenizer.tokenizer import Tokenizer

_LEAST = -9999.0  # stands for −∞, which JSON has not


class Names:
    """What ids are called in log-probabilities."""

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self._tokenizer = tokenizer
        self._special = {number: name for name, number in getattr(tokenizer, "special", {}).items()}

    def data(self, token: int) -> bytes:
        """The bytes of an id; of a special one none."""
        return self._tokenizer.piece(token)

    def text(self, token: int) -> str:
        """Its text; a part of a character is U+FFFD here, the bytes tell."""
        return self._special.get(token) or self.data(token).decode("utf-8", "replace")

    def exact(self, token: int) -> str:
        """Its text, or its bytes spelled ``bytes:\\xe4\\xbd`` when they are no text, as OpenAI's older API has them."""
        data = self.data(token)
        try:
            return self._special.get(token) or data.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


class Place:
    """Where an answer's next token begins, in characters of the text."""

    def __init__(self, start: int = 0) -> None:
        self._begun = start

    def step(self, data: bytes) -> int:
        """The place of a token with these bytes; one that begins inside a character has the place of that character."""
        inside = bool(data) and data[0] & 0xC0 == 0x80
        place = max(self._begun - inside, 0)
        self._begun += sum(byte & 0xC0 != 0x80 for byte in data)
        return place


class Shape(ABC):
    """The JSON of one request's answers."""

    prefix: str
    whole_object: str
    chunk_object: str

    def __init__(self, model: str, names: Names, logprobs: bool, usage: bool) -> None:
        self.names, self.logprobs = names, logprobs
        self.id, self.created, self.model = f"{self.prefix}-{uuid.uuid4().hex}", int(time.time()), model
        frame = orjson.dumps({**self._frame(self.chunk_object), "choices": 0})
        self._head = b"data: " + frame[:-2]  # all of a chunk but its choices is made once
        self._tail = b',"usage":null}\n\n' if usage else b"}\n\n"

    def whole(self, choices: list[dict[str, Any]], usage: dict[str, int]) -> bytes:
        """The body of an answer that is not streamed."""
        return orjson.dumps({**self._frame(self.whole_object), "choices": choices, "usage": usage})

    def usage(self, usage: dict[str, int]) -> bytes:
        """The chunk with the usage, at the end of a stream."""
        return self._event({**self._frame(self.chunk_object), "choices": [], "usage": usage})

    @staticmethod
    def error(body: dict[str, Any]) -> bytes:
        """The chunk that says why a stream breaks off."""
        return Shape._event(body)

    def opening(self, index: int) -> bytes:
        """The first chunk of an answer."""
        return b""

    @abstractmethod
    def chunk(self, index: int, piece: Piece, place: Place) -> bytes:
        """The chunk, or chunks, of a piece."""

    @abstractmethod
    def choice(self, index: int, piece: Piece, place: Place) -> dict[str, Any]:
        """A whole answer; ``piece`` has all of it."""

    def _chunk(self, choice: dict[str, Any]) -> bytes:
        return self._head + b"[" + orjson.dumps(choice) + b"]" + self._tail

    @staticmethod
    def _event(data: dict[str, Any]) -> bytes:
        return b"data: " + orjson.dumps(data) + b"\n\n"

    def _frame(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


class ChatShape(Shape):
    """``/v1/chat/completions``."""

    prefix, whole_object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def opening(self, index: int) -> bytes:
        return self._delta(index, {"role": "assistant", "content": ""}, None, None)

    def chunk(self, index: int, piece: Piece, place: Place) -> bytes:
        data = b""
        if piece.text or (piece.tokens and self.logprobs):
            data = self._delta(index, {"content": piece.text}, self._logprobs(piece.tokens), None)
        return data if piece.finish is None else data + self._delta(index, {}, None, piece.finish)

    def choice(self, index: int, piece: Piece, place: Place) -> dict[str, Any]:
        message = {"role": "assistant", "content": piece.text, "refusal": None}
        logprobs = self._logprobs(piece.tokens)
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": piece.finish}

    def _delta(self, index: int, delta: dict[str, Any], logprobs: Any, finish: str | None) -> bytes:
        return self._chunk({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish})

    def _logprobs(self, tokens: list[TokenText]) -> dict[str, Any] | None:
        if not self.logprobs:
            return None
        content = []
        for entry in tokens:
            top = [self._entry(token, logprob) for token, logprob in entry.top]
            content.append({**self._entry(entry.token, entry.logprob), "top_logprobs": top})
        return {"content": content, "refusal": None}

    def _entry(self, token: int, logprob: float | None) -> dict[str, Any]:
        data = list(self.names.data(token)) or None
        return {"token": self.names.text(token), "logprob": finite(logprob), "bytes": data}


class TextShape(Shape):
    """``/v1/completions``."""

    prefix, whole_object, chunk_object = "cmpl", "text_completion", "text_completion"

    def chunk(self, index: int, piece: Piece, place: Place) -> bytes:
        return self._chunk(self.choice(index, piece, place))

    def choice(self, index: int, piece: Piece, place: Place) -> dict[str, Any]:
        logprobs = self._logprobs(piece.tokens, place) if self.logprobs else None
        return {"index": index, "text": piece.text, "logprobs": logprobs, "finish_reason": piece.finish}

    def _logprobs(self, tokens: list[TokenText], place: Place) -> dict[str, Any]:
        exact = self.names.exact
        top = [{exact(token): finite(logprob) for token, logprob in entry.top} or None for entry in tokens]
        return {
            "tokens": [exact(entry.token) for entry in tokens],
            "token_logprobs": [None if entry.logprob is None else finite(entry.logprob) for entry in tokens],
            "top_logprobs": top if any(top) else None,
            "text_offset": [place.step(entry.data) for entry in tokens],
        }


def finite(logprob: float | None) -> float:
    """A log-probability as JSON can say it."""
    return _LEAST if logprob is None or not logprob > _LEAST else logprob
