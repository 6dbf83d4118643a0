"""What every request passes before it reaches a route: keys, limits, and the whole of its body in time.

Plain ASGI: behind an ``http`` middleware of Starlette's, a request no longer learns that its client has gone.
"""

import asyncio
import hmac
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from math import ceil

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from congling.serve.config import ServeConfig
from congling.serve.errors import ApiError, busy

_DISCARD = 16  # times max_body_bytes: what is read and thrown away so that the client gets to read its refusal
_DISCARD_SECONDS = 5.0
_MANY_CLIENTS = 10_000


class Rate:
    """A bucket of requests for each client, which fills at an even pace (token bucket)."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._capacity, self._clock = per_minute, clock
        self._buckets: dict[str, tuple[float, float]] = {}  # client: (requests left, at that time)

    def take(self, client: str) -> float:
        """0 when the client may ask now, else the seconds until it may."""
        if not self._capacity:
            return 0.0
        now, pace = self._clock(), self._capacity / 60
        left, then = self._buckets.get(client, (float(self._capacity), now))
        left = min(self._capacity, left + (now - then) * pace)
        allowed = left >= 1
        if len(self._buckets) >= _MANY_CLIENTS:
            self._forget(now, pace)
        self._buckets[client] = (left - allowed, now)
        return 0.0 if allowed else (1 - left) / pace

    def _forget(self, now: float, pace: float) -> None:
        """Those that asked nothing for so long that their bucket is full again."""
        full = [c for c, (left, then) in self._buckets.items() if left + (now - then) * pace >= self._capacity]
        for client in full:
            del self._buckets[client]


class Gate:
    """How many requests are under way, and whether more are let in."""

    def __init__(self, config: ServeConfig) -> None:
        self.running = 0  # POSTs whose body is here
        self.draining = False
        self.refused: Counter[int] = Counter()  # by status, those that never reached a route
        self.room = config.max_concurrent
        self.rate = Rate(config.requests_per_minute)


class Guard:
    """The middleware. Routes find who asks in ``scope["client_name"]``: a key's number, or an address."""

    def __init__(self, app: ASGIApp, config: ServeConfig, gate: Gate) -> None:
        self._app, self._config, self._gate = app, config, gate
        self._keys = [sha256(key.encode()).digest() for key in config.keys]
        self._names = {name.lower() for name in config.local_names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers, incoming = Headers(scope=scope), Incoming(receive)
        try:
            scope["client_name"] = self._let_in(scope, headers)
            if scope["method"] != "POST":
                return await self._app(scope, receive, send)
            self._look(scope, headers)
            body = await self._body(incoming)
        except ApiError as error:
            self._gate.refused[error.status] += 1
            if error.status != 408 and "expect" not in headers:
                await incoming.discard(_DISCARD * self._config.max_body_bytes)
            return await error.response(close=not incoming.complete)(scope, receive, send)
        if body is not None:
            await self._run(scope, body, receive, send)

    async def _run(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        gate = self._gate
        if gate.running >= gate.room:  # look and step are one: nobody comes in between
            gate.refused[429] += 1
            return await busy().response()(scope, receive, send)
        gate.running += 1
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        try:
            await self._app(scope, replay, send)
        finally:
            gate.running -= 1

    def _let_in(self, scope: Scope, headers: Headers) -> str:
        """Who asks. 401 without a key where one is needed, 403 for a name that is not this machine's."""
        address = scope["client"][0] if scope.get("client") else "unknown"
        if not self._keys:
            name = _host_name(headers.get("host", ""))
            if name not in self._names:
                raise ApiError(403, f"host {name!r} is none of this server's names: see serve.hosts, serve.api_key")
            return address
        key = self._key(headers.get("authorization", "").removeprefix("Bearer "))
        needed = scope["method"] != "GET" or scope["path"].startswith("/v1/") or scope["path"] == "/metrics"
        if key is None and needed:
            raise ApiError(401, "send the key of this server as 'Authorization: Bearer KEY'", code="invalid_api_key")
        return address if key is None else f"key {key}"

    def _key(self, given: str) -> int | None:
        """The number of the key; compared with all of them, in the same time for any."""
        digest = sha256(given.encode("latin-1")).digest()  # its bytes as they came
        equal = [hmac.compare_digest(digest, key) for key in self._keys]
        return equal.index(True) if any(equal) else None

    def _look(self, scope: Scope, headers: Headers) -> None:
        """What can be said about a POST before its body is read."""
        if self._gate.draining:
            raise ApiError(503, "the server is shutting down", code="shutting_down", retry=5)
        wait = self._gate.rate.take(scope["client_name"])
        if wait:
            limit = f"{self._config.requests_per_minute} requests a minute"
            raise busy(f"more than {limit}: wait {ceil(wait)} s", ceil(wait))
        # Any page in a browser may post a form or plain text to this server, but JSON only with its leave.
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise ApiError(415, f"Content-Type {kind!r}: send JSON, with Content-Type: application/json")
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._config.max_body_bytes:
            raise self._too_long(int(length))

    async def _body(self, body: "Incoming") -> bytes | None:
        """All of it; None when the client has gone meanwhile."""
        parts, size, limit = [], 0, self._config.max_body_bytes
        try:
            async with asyncio.timeout(self._config.body_timeout):
                while not body.complete:
                    parts.append(await body.read())
                    size += len(parts[-1])
                    if size > limit:
                        raise self._too_long(size)
        except TimeoutError:
            raise ApiError(408, f"the body did not come within {self._config.body_timeout:g} s") from None
        return None if body.gone else b"".join(parts)

    def _too_long(self, size: int) -> ApiError:
        return ApiError(413, f"the body has {size} bytes or more, at most {self._config.max_body_bytes} are taken")


class Incoming:
    """The body of a request as it comes in."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.complete = self.gone = False

    async def read(self) -> bytes:
        """The next part."""
        message = await self._receive()
        self.gone = message["type"] != "http.request"
        self.complete = self.gone or not message.get("more_body", False)
        part: bytes = message.get("body", b"")
        return part

    async def discard(self, most: int) -> None:
        """Reads the rest and throws it away, up to ``most`` bytes: a client that still sends would else never read
        its refusal."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_DISCARD_SECONDS):
                while most > 0 and not self.complete:
                    most -= len(await self.read())


def _host_name(host: str) -> str:
    """Without the port; of an IPv6 address without the brackets."""
    name = host.rpartition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
    return name.lower()
