"""Sends an answer, whole or as a stream; ends it when its client leaves or its time is over."""

import asyncio
import time

from fastapi import Response
from starlette.types import Receive, Scope, Send

from congling.serve.completion import Answer, Gone
from congling.serve.errors import ApiError
from congling.serve.metrics import Metrics

_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
_UNBUFFERED = (b"x-accel-buffering", b"no")  # nginx would else hold the stream back


class Closing:
    """What is done when an answer ends, however it ends."""

    def __init__(self, metrics: Metrics, path: str, timeout: float) -> None:
        self.timeout = timeout
        self._metrics, self._path, self._begun = metrics, path, time.monotonic()

    def count(self, status: int | None, first_token: float | None) -> None:
        """Into the metrics; status None: the client has left."""
        if status is None:
            self._metrics.left.inc()
            return
        self._metrics.requests.labels(self._path, status).inc()
        self._metrics.seconds.labels(self._path).observe(time.monotonic() - self._begun)
        if first_token is not None:
            self._metrics.first.labels(self._path).observe(first_token)


class AnswerResponse(Response):
    """Plain ASGI: prebuilt bytes go straight to the server, one send for all that is new."""

    def __init__(self, answer: Answer, closing: Closing, stream: bool, usage: bool) -> None:
        super().__init__()
        self._answer, self._closing, self._stream, self._usage = answer, closing, stream, usage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer, closing, status = self._answer, self._closing, None
        watch = asyncio.create_task(_watch(receive, answer))
        clock = asyncio.get_running_loop().call_later(closing.timeout, answer.expire, closing.timeout)
        try:
            status = await (self._send_stream(send) if self._stream else self._send_whole(scope, receive, send))
        except Gone:
            pass
        finally:
            clock.cancel()
            watch.cancel()
            answer.close()
            closing.count(status, answer.first_token)

    async def _send_whole(self, scope: Scope, receive: Receive, send: Send) -> int:
        try:
            response = Response(await self._answer.whole(), media_type="application/json")
        except ApiError as error:
            response = error.response()
        await response(scope, receive, send)
        return response.status_code

    async def _send_stream(self, send: Send) -> int:
        status = 200
        await send({"type": "http.response.start", "status": status, "headers": [*_HEADERS, _UNBUFFERED]})
        try:
            async for data in self._answer.chunks(self._usage):
                await send({"type": "http.response.body", "body": data, "more_body": True})
        except ApiError as error:
            status = error.status  # too late for the status line: the stream says it
            await send({"type": "http.response.body", "body": self._answer.told(error), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return status


async def _watch(receive: Receive, answer: Answer) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    answer.leave()
