"""The answers to one HTTP request under way: events become text, text becomes JSON. Nothing of it is shared."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial

from congling.infer.model import Model
from congling.infer.request import QueueFull
from congling.infer.strategy import Event, Finish
from congling.infer.text import Piece, TextStream, TokenText
from congling.serve.bridge import Bridge, Stopped
from congling.serve.errors import ApiError, busy
from congling.serve.prepare import Plan
from congling.serve.shapes import Place, Shape


class Gone(Exception):
    """The client has left: nobody wants the answer any more."""


@dataclass
class Line:
    """One of the answers."""

    index: int
    stream: TextStream
    place: Place = field(default_factory=Place)
    finish: Finish | None = None
    texts: list[str] = field(default_factory=list)
    tokens: list[TokenText] = field(default_factory=list)

    @property
    def whole(self) -> Piece:
        """All of it in one."""
        return Piece("".join(self.texts), self.tokens, self.finish)


class Answer:
    """Begins at ``start``; then either ``whole`` or ``chunks``; ``close`` at any time frees what the engine holds."""

    def __init__(self, plan: Plan, model: Model, bridge: Bridge, shape: Shape) -> None:
        self._plan, self._bridge, self._shape = plan, bridge, shape
        count = max(len(plan.requests), len(plan.echoes)) * plan.n
        self._lines = [Line(index, TextStream(model.tokenizer, plan.stops)) for index in range(count)]
        self._numbers: list[int] = []  # of our requests at the bridge
        self._new: list[tuple[Line, Piece]] = []  # not yet read
        self._wake = asyncio.Event()
        self._error: ApiError | Gone | None = None
        self._begun = time.monotonic()
        self.first_token: float | None = None  # seconds until the first token came

    def start(self) -> None:
        """Puts the requests in the engine's line. Raises ApiError, with nothing left behind."""
        for index, line in enumerate(self._lines if self._plan.echoes else ()):
            self._tell(line, self._plan.echoes[index // self._plan.n])
        if not self._plan.requests:
            for line in self._lines:
                self._tell(line, Piece("", finish="length"))
        try:
            for number, request in enumerate(self._plan.requests):
                self._numbers.append(self._bridge.submit(request, partial(self._receive, number)))
        except QueueFull as error:
            self.close()
            raise busy(str(error)) from None
        except (ValueError, Stopped) as error:
            self.close()
            raise ApiError(503 if isinstance(error, Stopped) else 400, str(error)) from None

    def close(self) -> None:
        """Cancels what has not ended; nothing more comes."""
        numbers, self._numbers = self._numbers, []
        for number in numbers:
            self._bridge.forget(number)

    def leave(self) -> None:
        """The client has gone."""
        self._break_off(Gone())

    def expire(self, seconds: float) -> None:
        """The time is over."""
        self._break_off(ApiError(504, f"the answer took more than {seconds:g} s", code="timeout"))

    @property
    def usage(self) -> dict[str, int]:
        """Tokens of prompts and answers."""
        prompt, answer = self._plan.prompt_tokens, sum(line.stream.tokens for line in self._lines)
        return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}

    async def whole(self) -> bytes:
        """The body of the response, once all answers have ended."""
        async for new in self._read():
            for line, piece in new:
                line.texts.append(piece.text)
                line.tokens += piece.tokens
        choices = [self._shape.choice(line.index, line.whole, line.place) for line in self._lines]
        return self._shape.whole(choices, self.usage)

    async def chunks(self, usage: bool) -> AsyncIterator[bytes]:
        """Server-sent events as OpenAI's clients read them: all that is new, each time something is."""
        shape = self._shape
        if opening := b"".join(shape.opening(line.index) for line in self._lines):
            yield opening
        async for new in self._read():
            if data := b"".join(shape.chunk(line.index, piece, line.place) for line, piece in new):
                yield data
        yield (shape.usage(self.usage) if usage else b"") + b"data: [DONE]\n\n"

    def told(self, error: ApiError) -> bytes:
        """The event with which a stream breaks off."""
        return self._shape.error(error.body)

    async def _read(self) -> AsyncIterator[list[tuple[Line, Piece]]]:
        """What is new, until all answers have ended. Raises ApiError when they cannot."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            new, self._new = self._new, []
            if new:
                yield new
            if self._error is not None:
                raise self._error
            if not self._new and all(line.finish for line in self._lines):
                return

    # -- called by the bridge ----------------------------------------------------------------------------------------

    def _receive(self, number: int, events: list[Event]) -> None:
        if self.first_token is None:
            self.first_token = time.monotonic() - self._begun
        n = self._plan.n
        lines = self._lines[number * n : number * n + n]
        for event in events:
            if event.index < 0:
                if not all(line.finish for line in lines):
                    self._fail(event)
                continue
            line = lines[event.index]
            for piece in line.stream.push(event) if line.finish is None else ():
                self._tell(line, piece)
            if line.stream.stopped and event.finish is None:
                self._stop(number, event.index, lines)

    def _stop(self, number: int, index: int, lines: list[Line]) -> None:
        """A stop string was met: the engine need not go on with this answer."""
        if self._numbers:
            self._bridge.stop_answer(self._numbers[number], index, all(line.finish for line in lines))

    def _fail(self, event: Event) -> None:
        if event.finish == "cancelled":
            self._break_off(ApiError(503, "the server is shutting down", code="shutting_down", retry=5))
        elif event.error.startswith(("regex", "JSON schema")):  # a form that turns out to be too much on the way
            self._break_off(ApiError(400, event.error))
        else:
            self._break_off(ApiError(500, f"the answer could not be made: {event.error}", code="engine_error"))

    def _break_off(self, error: ApiError | Gone) -> None:
        self._error = self._error or error
        self.close()
        self._wake.set()

    def _tell(self, line: Line, piece: Piece) -> None:
        line.finish = piece.finish
        self._new.append((line, piece))
        self._wake.set()
