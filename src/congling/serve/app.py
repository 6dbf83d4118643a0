"""The HTTP side: OpenAI-compatible chat completions, and a page to chat at ``/``.

A request waits for one of ``max_concurrent`` slots, is generated token by token in a worker thread, and gives its slot
back within a token when the client goes away. The model is shared and read-only; all state is in ``Completion``.
"""

import asyncio
import hmac
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import ExitStack, aclosing
from html import escape
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from congling.infer.config import SampleConfig
from congling.infer.model import Model
from congling.serve.completion import ChatRequest, Completion
from congling.serve.config import ServeConfig

_END = object()


class Slots:
    """At most ``running`` answers at once and ``waiting`` requests behind them."""

    def __init__(self, running: int, waiting: int) -> None:
        self.running = asyncio.Semaphore(running)
        self._room = running + waiting

    def enter(self) -> bool:
        """Takes a place in the queue; False when it is full. Look and step are one: nobody comes in between."""
        if self._room <= 0:
            return False
        self._room -= 1
        return True

    def leave(self) -> None:
        self._room += 1


class EventStream(StreamingResponse):
    """Server-sent events; ``done`` is called when they end, however they end."""

    def __init__(self, events: AsyncIterator[str], done: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._done = done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._done()


class Guard:
    """Turns requests away before their body is read. Plain ASGI: behind an ``http`` middleware of Starlette's, a
    request no longer learns that its client has gone."""

    def __init__(self, app: ASGIApp, config: ServeConfig) -> None:
        self._app, self._config = app, config

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = _refusal(Request(scope), self._config) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)


def create_app(model: Model, config: ServeConfig, defaults: SampleConfig | None = None) -> FastAPI:
    """The application for one model."""
    app = FastAPI(title="congling", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, config=config)
    slots = Slots(config.max_concurrent, config.max_waiting)
    sampling = defaults or SampleConfig()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        unknown = first["type"] == "extra_forbidden"
        message = f"{where}: not supported by this server" if unknown else f"{where}: {first['msg']}"
        return problem(400, message, where)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        return problem(error.status_code, f"{request.method} {request.url.path}: {error.detail}", None)

    @app.get("/", response_class=HTMLResponse)
    async def page() -> str:
        text = files("congling.serve").joinpath("page.html").read_text(encoding="utf-8")
        return text.replace("{{model}}", escape(model.name))

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": model.name, "object": "model", "created": 0, "owned_by": "congling"}]}

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(body: ChatRequest, request: Request) -> Response:
        if not slots.enter():
            return problem(429, "the server is busy: try again in a moment", None)
        with ExitStack() as stack:
            stack.callback(slots.leave)
            try:
                completion = await run_in_threadpool(Completion, model, body, config, sampling)
            except ValueError as error:
                return problem(400, str(error), "messages")
            pieces = _pieces(completion, slots, request)
            if body.stream:
                usage = bool(body.stream_options and body.stream_options.include_usage)
                return EventStream(_events(pieces, completion, model.name, usage), stack.pop_all().close)
            return JSONResponse(await _whole(pieces, completion, model.name))

    return app


async def _whole(pieces: AsyncIterator[str], completion: Completion, name: str) -> dict[str, Any]:
    text = "".join([piece async for piece in pieces])
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": completion.finish_reason}
    return {**_frame(completion, name, "chat.completion", [choice]), "usage": completion.usage}


async def _pieces(completion: Completion, slots: Slots, request: Request) -> AsyncGenerator[str]:
    """The answer's pieces; ends early when the client has gone. A thread makes one token at a time."""
    async with slots.running:
        iterator = iter(completion)
        while not await request.is_disconnected():
            piece = await run_in_threadpool(next, iterator, _END)
            if not isinstance(piece, str):
                return
            if piece:
                yield piece


async def _events(pieces: AsyncGenerator[str], completion: Completion, name: str, usage: bool) -> AsyncIterator[str]:
    """Server-sent events as OpenAI's clients read them."""

    def event(delta: dict[str, str], finish: str | None = None) -> str:
        choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
        frame = _frame(completion, name, "chat.completion.chunk", choices)
        return f"data: {json.dumps(frame, ensure_ascii=False)}\n\n"

    yield event({"role": "assistant", "content": ""})
    async with aclosing(pieces):  # the slot is given back at once, not when the garbage is collected
        async for piece in pieces:
            yield event({"content": piece})
    yield event({}, completion.finish_reason)
    if usage:
        frame = _frame(completion, name, "chat.completion.chunk", [])
        yield f"data: {json.dumps({**frame, 'usage': completion.usage})}\n\n"
    yield "data: [DONE]\n\n"


def _frame(completion: Completion, name: str, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": completion.id, "object": kind, "created": completion.created, "model": name, "choices": choices}


def _refusal(request: Request, config: ServeConfig) -> JSONResponse | None:
    """401 without the key, 411 or 413 for a body of unknown or too great length; None when the request may pass."""
    if config.api_key and request.url.path.startswith("/v1/"):
        given = (
            request.headers.get("authorization", "").removeprefix("Bearer ").encode("latin-1")
        )  # its bytes as they came
        if not hmac.compare_digest(given, config.api_key.encode()):
            return problem(401, "send the key of this server as 'Authorization: Bearer KEY'", None)
    if request.method == "POST":
        length = request.headers.get("content-length", "")
        if not length.isdigit():
            return problem(411, "a Content-Length header is needed", None)
        if int(length) > config.max_body_bytes:
            return problem(413, f"the body has {length} bytes, at most {config.max_body_bytes} are taken", None)
    return None


def problem(status: int, message: str, parameter: str | None) -> JSONResponse:
    """An error in the shape of OpenAI's API."""
    kind = "invalid_request_error" if status < 500 and status != 429 else "server_error"
    sayable = message.encode("utf-8", "replace").decode()  # JSON can smuggle in halves of characters
    error = {"message": sayable, "type": kind, "param": parameter, "code": None}
    return JSONResponse({"error": error}, status_code=status)
