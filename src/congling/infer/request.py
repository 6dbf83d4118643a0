"""What is asked of the engine, what the asker holds of it, and the queue in which it waits."""

from collections import OrderedDict, deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from congling.infer.strategy import Event, Strategy

if TYPE_CHECKING:
    from congling.infer.engine import Engine


class QueueFull(RuntimeError):
    """Too many requests wait already; try again later."""


@dataclass
class Request:
    """One prompt and the strategy that continues it; a strategy serves one request only."""

    prompt: list[int]
    strategy: Strategy
    max_tokens: int  # of an answer
    exact: bool = False  # take over only pages that prompts have filled: the same text whatever was served before
    client: str = ""  # who asks: clients take turns


class Handle:
    """A request under way. Made by ``Engine.submit``; its methods may be called from any thread."""

    def __init__(self, engine: "Engine", request: Request, on_events: Callable[[list[Event]], None] | None) -> None:
        self.request = request
        self.finished = False
        self.prefix: list[bytes] = []  # keys of the prompt's pages that may be shared
        self.on_events = on_events  # called by the stepping thread, briefly please; then events() has nothing to tell
        self._engine = engine
        self._events: deque[Event] = deque()

    def cancel(self) -> None:
        """Ends the request before the next step and frees its pages. Does not wait."""
        self._engine.ask(self, None)

    def stop(self, index: int) -> None:
        """One of several answers needs no more tokens. Does not wait."""
        self._engine.ask(self, index)

    @property
    def ready(self) -> bool:
        """Whether ``events`` would yield, or end, without waiting."""
        return bool(self._events) or self.finished

    def events(self) -> Generator[Event]:
        """All events until the last, waiting for each. Leaving before the end cancels the request."""
        try:
            while True:
                ended = self.finished  # looked at first: what came before it is in the queue
                while self._events:
                    yield self._events.popleft()
                if ended:
                    return
                self._engine.progress(self)
        finally:
            if not self.finished:
                self.cancel()

    def deliver(self, events: list[Event], last: bool) -> bool:
        """For the engine. False when the receiver failed: nobody listens any more."""
        heard = True
        if self.on_events is None:
            self._events.extend(events)
        elif events:
            try:
                self.on_events(events)
            except Exception:
                heard = False
        self.finished = self.finished or last
        return heard


class WaitingLine:
    """Clients take turns; the requests of one come first in, first out."""

    def __init__(self) -> None:
        self._clients: OrderedDict[str, deque[Handle]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, handle: Handle) -> None:
        self._clients.setdefault(handle.request.client, deque()).append(handle)
        self._count += 1

    def first(self) -> Handle | None:
        """Whose turn it is."""
        return next(iter(self._clients.values()))[0] if self._clients else None

    def remove(self, handle: Handle) -> bool:
        """Takes a request out; its client goes to the end of the line. False: it was not in it."""
        own = self._clients.get(handle.request.client, deque())
        if handle not in own:
            return False
        own.remove(handle)
        self._count -= 1
        del self._clients[handle.request.client]
        if own:
            self._clients[handle.request.client] = own
        return True
