"""The page at ``/`` and what it asks for beyond the public API: its files, and ``POST /inspect``.

The page is plain HTML, CSS and JavaScript in ``web/``; it loads nothing from elsewhere, and the policy that it is sent
with forbids scripts that are not files of this server: text of a model or a user stays text.
"""

import base64
import threading
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

import orjson
from fastapi import APIRouter, Response
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from congling.infer.config import SampleConfig
from congling.infer.inspect import Inspection, decays, inspect
from congling.infer.model import Model
from congling.serve.config import ServeConfig
from congling.serve.errors import ApiError, busy
from congling.serve.schema import Message, Strict
from congling.serve.shapes import Names, finite

MAX_LOOK_TOKENS = 400  # [heads, tokens, tokens] and [tokens, V] float32 are held
DISTANCES = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class Look(Strict):
    """Body of ``POST /inspect``: a text or a conversation, and which head's whole matrix is wanted."""

    text: str | None = None
    messages: list[Message] | None = None
    layer: int = Field(0, ge=0)
    head: int = Field(0, ge=0)


def page_router(model: Model, config: ServeConfig | None = None, defaults: SampleConfig | None = None) -> APIRouter:
    """Routes of the page. Whatever is fetched by GET is open to all; a POST needs the key of the server."""
    router, one = APIRouter(), threading.Lock()
    facts = _facts(model, config or ServeConfig(), defaults or SampleConfig())

    @router.get("/")
    async def page() -> Response:
        return _file("index.html", facts)

    @router.get("/web/{name}")
    async def part(name: str) -> Response:
        if name not in _names():
            raise ApiError(404, f"the page has no file {name!r}")
        return _file(name, facts)

    @router.post("/inspect")
    async def look(body: Look) -> Response:
        if not one.acquire(blocking=False):  # such a pass may take all cores and much memory: one at a time
            raise busy("another text is being looked at: try again in a moment")
        try:
            return Response(await run_in_threadpool(_look, model, body), media_type="application/json")
        except ValueError as error:
            raise ApiError(400, str(error)) from None
        finally:
            one.release()

    return router


@cache
def _names() -> frozenset[str]:
    return frozenset(item.name for item in files("congling.serve").joinpath("web").iterdir())


def _file(name: str, facts: dict[str, Any]) -> Response:
    text = files("congling.serve").joinpath("web", name).read_text(encoding="utf-8")
    if name == "index.html":
        text = text.replace("{{facts}}", escape(orjson.dumps(facts).decode())).replace(
            "{{model}}", escape(facts["model"])
        )
    return Response(text, media_type=_TYPES[name.rpartition(".")[2]] + "; charset=utf-8", headers=_HEADERS)


def _facts(model: Model, config: ServeConfig, defaults: SampleConfig) -> dict[str, Any]:
    """What the page must know before it asks for anything."""
    sampling = defaults.model_dump(exclude={"max_context", "seed"})
    sampling["max_tokens"] = min(defaults.max_tokens, config.max_tokens)
    limits = {"max_tokens": config.max_tokens, "max_prompt_tokens": config.max_prompt_tokens, "look": MAX_LOOK_TOKENS}
    return {"model": config.name or model.name, "chat": model.tuned, "sampling": sampling, "limits": limits}


def _look(model: Model, body: Look) -> bytes:
    """Raises ValueError."""
    if (body.text is None) == (body.messages is None):
        raise ValueError("give either text or messages")
    if body.messages is not None:
        ids = model.chat_prompt([message.plain for message in body.messages])
    else:
        ids = model.text_prompt(body.text or "")
    if len(ids) > MAX_LOOK_TOKENS:
        raise ValueError(f"{len(ids)} tokens, at most {MAX_LOOK_TOKENS} can be looked at: shorten the text")
    transformer = model.transformer
    seen = inspect(transformer, ids, body.layer, body.head)
    bytes_of_shares = (seen.weights * 255).round().byte().numpy().tobytes()
    answer = {
        "tokens": _tokens(Names(model.tokenizer), ids, seen),
        **{name: _rounded(getattr(seen, name)) for name in ("distance", "own", "before", "first")},
        "layer": body.layer,
        "head": body.head,
        "weights": base64.b64encode(bytes_of_shares).decode(),  # [T, T] bytes, 255 is a share of 1
        "position": transformer.architecture.position,
        "distances": DISTANCES,
        "decay": [[_rounded(decay.factor), _rounded(decay.summand)] for decay in decays(transformer, DISTANCES)],
    }
    return orjson.dumps(answer)


def _tokens(names: Names, ids: list[int], seen: Inspection) -> list[dict[str, Any]]:
    """As the chat API tells log-probabilities; a token before which there is nothing has none."""

    def entry(token: int, logprob: float | None) -> dict[str, Any]:
        data = list(names.data(token)) or None
        return {"token": names.text(token), "bytes": data, "logprob": None if logprob is None else finite(logprob)}

    return [
        {**entry(token, logprob), "top_logprobs": [entry(*pair) for pair in top]}
        for token, logprob, top in zip(ids, seen.logprobs, seen.tops, strict=True)
    ]


def _rounded(values: Any) -> Any:
    """A tensor as lists of numbers short enough to send."""
    return None if values is None else [[float(f"{value:.4g}") for value in row] for row in values.tolist()]
