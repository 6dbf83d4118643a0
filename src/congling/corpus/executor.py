"""Runs a function over many tasks on the processes of this machine, with results in the order of the tasks."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def map_tasks(function: Callable[[T], R], tasks: Iterable[T], workers: int) -> Iterator[R]:
    """Yields ``function(task)`` for each task, in order. ``workers=1`` runs in this process.

    With more, ``function`` must be importable by name (or a ``functools.partial`` of such), and at most
    2 · workers tasks are under way, however fast the caller takes the results. An exception of the function is raised
    here as it is. Raises ChildProcessError when a worker is killed, ValueError when workers < 1.
    """
    if workers < 1:
        raise ValueError(f"workers = {workers}: must be at least 1")
    if workers == 1:
        yield from map(function, tasks)
        return
    # spawn, not fork: a forked child would inherit locks held by the threads of this process (Arrow, numba, torch).
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_begin_worker)
    running: deque[Future[R]] = deque()
    try:
        for task in tasks:
            running.append(pool.submit(function, task))
            if len(running) >= 2 * workers:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    except BrokenProcessPool:
        raise ChildProcessError(
            "a worker process was killed, most likely for lack of memory; "
            "run the same command again (it goes on), with fewer workers if it happens again"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin_worker() -> None:
    # Ctrl-C reaches the whole process group: a worker leaves at once, and leaves the message to the parent.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    # A killed parent must not leave workers behind that write into the folder of the run that resumes.
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
