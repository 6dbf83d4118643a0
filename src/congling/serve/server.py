"""uvicorn with what it lacks: a drain that first says no to new requests, and an end for connections that hang."""

import socket
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from congling.serve.app import Service
from congling.serve.config import ServeConfig

_SWEEP = 10  # ticks of 0.1 s
_STALL = 30.0  # seconds in which a client must take some of what waits for it
_KEEP_ALIVE = 5  # seconds that an idle connection is kept


class Server(uvicorn.Server):
    """Told to stop, it refuses new requests (503, at ``/health`` too, so that a balancer looks elsewhere), lets running
    answers end within ``drain_timeout``, and leaves with exit code 0. Told a second time, it stops at once."""

    def __init__(self, app: FastAPI, config: ServeConfig, ready: Callable[[], None] | None = None) -> None:
        """ready: called when requests are answered from now on."""
        super().__init__(_settings(app, config))
        self._ready = ready
        self._service: Service = app.state.service
        self._limits = config
        self._deadline = float("inf")
        self._seen: dict[Any, tuple[object, float]] = {}  # connection: (what it waits for, since when)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn has it, then ``ready``."""
        await super().startup(sockets)
        if self._ready is not None:
            self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The signal's handler; unlike uvicorn's it does not raise the signal again at the end."""
        self.drain()

    def drain(self) -> None:
        """Begins to stop; the second call stops at once."""
        again = self._service.gate.draining
        self._service.gate.draining = True
        self._deadline = time.monotonic() + (0 if again else self._limits.drain_timeout)

    async def on_tick(self, counter: int) -> bool:
        """Every 0.1 s. True: leave."""
        if counter % _SWEEP == 0:
            self._sweep()
        gate = self._service.gate
        if gate.draining and (gate.running == 0 or time.monotonic() >= self._deadline):
            self._service.bridge.cancel_all()  # the streams that are left say so and end
            self.should_exit = True
        return await super().on_tick(counter)

    def _sweep(self) -> None:
        """Ends connections that never finish asking, or do not take their answer."""
        now, seen = time.monotonic(), dict[Any, tuple[object, float]]()
        for connection in list(self.server_state.connections):
            state, patience = self._state(connection)
            if state is None:
                continue
            before, since = self._seen.get(connection, (None, now))
            since = since if before is state else now
            if now - since > patience:
                connection.transport.abort()
            else:
                seen[connection] = state, since
        self._seen = seen

    def _state(self, connection: Any) -> tuple[object | None, float]:
        """What a connection waits for, and how long it may."""
        cycle = connection.cycle
        if connection.flow.write_paused or connection.transport.is_closing():
            return "unread", _STALL
        if cycle is None or cycle.response_complete:
            return cycle or "first", max(self._limits.body_timeout, _KEEP_ALIVE + 1)
        return None, 0.0


def _settings(app: FastAPI, config: ServeConfig) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_level="error",  # below it, anybody can fill a log by sending what is no HTTP
        access_log=False,
        lifespan="on",
        ws="none",
        server_header=False,
        proxy_headers=bool(config.proxies),
        forwarded_allow_ips=config.proxies or None,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=5,
        backlog=2048,
    )
