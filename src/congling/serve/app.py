"""The HTTP side: OpenAI's API, ``/health``, ``/metrics``, and the page.

An answer's way: ``guard.py`` (keys, limits, the body) → ``schema.py`` (what it may say) → ``prepare.py`` (requests of
the engine) → ``bridge.py`` (to the engine's thread, events back) → ``completion.py`` (events to JSON) → ``respond.py``.
The model is shared and read-only; all state of a request is in its ``Answer``.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from congling.infer.config import SampleConfig
from congling.infer.model import Model
from congling.serve.bridge import Bridge
from congling.serve.completion import Answer
from congling.serve.config import ServeConfig
from congling.serve.errors import ApiError
from congling.serve.guard import Gate, Guard
from congling.serve.metrics import Metrics
from congling.serve.page import page_router
from congling.serve.prepare import Plan, Planner, is_quick
from congling.serve.respond import AnswerResponse, Closing
from congling.serve.schema import ChatRequest, Common, CompletionRequest, parse
from congling.serve.shapes import ChatShape, Names, Shape, TextShape


class Service:
    """What the routes share: the model, the way to its engine, the limits."""

    def __init__(self, model: Model, config: ServeConfig, defaults: SampleConfig) -> None:
        self.model, self.config = model, config
        self.name = config.name or model.name
        self.gate, self.bridge = Gate(config), Bridge(model.engine)
        self.metrics = Metrics(model.engine, self.gate)
        self._threads = CapacityLimiter(2)  # for plans that take long: a wild regex must not take all cores
        self._planner, self._names = Planner(model, config, defaults), Names(model.tokenizer)

    async def answer(self, kind: type[Common], shape: type[Shape], request: Request) -> Response:
        """The response to a request for text. Raises ApiError."""
        raw = await request.body()
        body = parse(kind, raw)
        if body.model not in ("", self.name):
            message = f"model: {body.model!r} is not here; this server has {self.name!r}"
            raise ApiError(404, message, "model", "model_not_found")
        plan = await self._plan(body, len(raw), request.scope["client_name"])
        stream = bool(body.stream)
        made = shape(self.name, self._names, body.top is not None, stream and body.usage_wanted)
        answer = Answer(plan, self.model, self.bridge, made)
        answer.start()
        closing = Closing(self.metrics, request.url.path, self.config.timeout)
        return AnswerResponse(answer, closing, stream, body.usage_wanted)

    async def _plan(self, body: Common, size: int, client: str) -> Plan:
        try:
            if is_quick(body, size):
                return self._planner.plan(body, client)
            return await to_thread.run_sync(self._planner.plan, body, client, limiter=self._threads)
        except ValueError as error:
            raise ApiError(400, str(error)) from None

    def card(self) -> dict[str, Any]:
        """The model as ``/v1/models`` lists it."""
        card = {"id": self.name, "object": "model", "created": 0, "owned_by": "congling"}
        limits = {"max_prompt_tokens": self.config.max_prompt_tokens, "max_tokens": self.config.max_tokens}
        return {**card, "chat": self.model.tuned, **limits}


def create_app(model: Model, config: ServeConfig, defaults: SampleConfig | None = None) -> FastAPI:
    """The application for one model; ``app.state.service`` is its ``Service``. It steps while its lifespan lasts."""
    service = Service(model, config, defaults or SampleConfig())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.bridge.start()
        yield
        await service.bridge.stop()

    app = FastAPI(title="congling", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.state.service = service
    app.add_middleware(Guard, config=config, gate=service.gate)
    _add_errors(app, service)
    _add_routes(app, service)
    app.include_router(page_router(model, config, defaults))
    return app


def _add_routes(app: FastAPI, service: Service) -> None:
    @app.get("/health")
    async def health() -> Response:
        if service.gate.draining or not service.bridge.alive:
            raise ApiError(503, "the server is shutting down" if service.gate.draining else "the engine has stopped")
        return Response(b'{"status":"ok"}', media_type="application/json")

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [service.card()]}

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        if name != service.name:
            raise ApiError(404, f"model {name!r} is not here", "model", "model_not_found")
        return service.card()

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(request: Request) -> Response:
        return await service.answer(ChatRequest, ChatShape, request)

    @app.post("/v1/completions", response_model=None)
    async def complete(request: Request) -> Response:
        return await service.answer(CompletionRequest, TextShape, request)


def _add_errors(app: FastAPI, service: Service) -> None:
    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        if request.method == "POST":
            service.metrics.requests.labels(request.url.path, error.status).inc()
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return ApiError(400, f"{where or 'body'}: {first['msg']}", where or None).response()

    @app.exception_handler(HTTPException)
    async def missing(request: Request, error: HTTPException) -> Response:
        return ApiError(error.status_code, f"{request.method} {request.url.path}: {error.detail}").response()

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        return ApiError(500, "the server has made a mistake: see its log").response()
