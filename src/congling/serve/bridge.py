"""Between the engine's thread and the event loop: requests go over one by one, events come back once a step."""

import asyncio
import logging
import threading
from collections.abc import Callable
from functools import partial

from congling.infer.engine import Engine
from congling.infer.request import Handle, Request
from congling.infer.strategy import Event

Receive = Callable[[list[Event]], None]
_log = logging.getLogger(__name__)


class Stopped(RuntimeError):
    """The engine makes no more steps."""


class Bridge:
    """Runs the engine in a thread of its own. All methods are for the event loop's thread."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._told: list[tuple[int, list[Event]]] = []  # in the step under way; the stepping thread's own
        self._receivers: dict[int, tuple[Receive, Handle]] = {}
        self._count = 0
        self._failure = ""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins to step; events come to the loop that runs now."""
        self._loop = asyncio.get_running_loop()
        self._stop.clear()
        self.engine.after_step = self._hand_over
        self._thread = threading.Thread(target=self._run, name="congling-engine", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Cancels what is under way and ends the thread, after the step that it is in."""
        self.cancel_all()
        self._stop.set()
        self.engine.wake()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        self.engine.after_step = None

    @property
    def alive(self) -> bool:
        """Whether steps are made."""
        return self._thread is not None and self._thread.is_alive()

    def submit(self, request: Request, receive: Receive) -> int:
        """Puts a request in the engine's line, and returns its number here; ``receive`` gets its events, in the loop's
        thread, until ``forget``.

        Raises ValueError for one that can never run, QueueFull when too many wait, Stopped after a mistake of ours.
        """
        if self._failure:
            raise Stopped(f"the engine has stopped: {self._failure}")
        self._count += 1
        number = self._count
        handle = self.engine.submit(request, partial(self._collect, number))
        self._receivers[number] = receive, handle
        return number

    def stop_answer(self, number: int, index: int, last: bool) -> None:
        """One of a request's answers needs no more tokens; with ``last`` none does."""
        _, handle = self._receivers[number]
        if last:
            handle.cancel()
        else:
            handle.stop(index)

    def forget(self, number: int) -> None:
        """Nobody listens any more: what has not ended is cancelled."""
        _, handle = self._receivers.pop(number)
        if not handle.finished:
            handle.cancel()

    def cancel_all(self) -> None:
        """Every request under way ends within a step, as "cancelled"."""
        for _, handle in self._receivers.values():
            handle.cancel()

    # -- in the stepping thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self.engine.run(self._stop)
            self.engine.step()  # cancelled requests give back what they hold
        except Exception as error:  # the engine answers for errors of requests and of the backend: this is a bug
            _log.exception("the engine has stopped")
            self._loop.call_soon_threadsafe(self._fail, f"{type(error).__name__}: {error}")

    def _collect(self, number: int, events: list[Event]) -> None:
        self._told.append((number, events))

    def _hand_over(self) -> None:
        """One wake-up of the loop a step, however many answers have grown."""
        told, self._told = self._told, []
        if told:
            self._loop.call_soon_threadsafe(self._deliver, told)

    # -- in the loop's thread ----------------------------------------------------------------------------------------

    def _deliver(self, told: list[tuple[int, list[Event]]]) -> None:
        for number, events in told:
            if number in self._receivers:
                receive, handle = self._receivers[number]
                try:
                    receive(events)
                except Exception:  # one answer must not take the others with it
                    _log.exception("an answer could not be told")
                    handle.cancel()

    def _fail(self, error: str) -> None:
        self._failure = error
        for receive, _ in list(self._receivers.values()):
            receive([Event(-1, finish="error", error=error)])
