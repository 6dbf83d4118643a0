"""Runs a function over many tasks, on processes of this machine or on a Ray cluster, with results in task order."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import pyarrow as pa

T = TypeVar("T")
R = TypeVar("R")
_RAY_TASKS_A_CPU = 2  # under way at a time
_RAY_RETRIES = 3  # of a task whose worker died


class Pool:
    """Hands for the passes of a stage: processes of this machine (``workers``; 0: one a core), or a Ray cluster.

    Use it as a context manager, and ``pool.map`` for each pass. Local processes are started once, when they are first
    needed. Ray: all processors of the cluster, which must see the same files; a task whose worker dies is run again.
    """

    def __init__(self, workers: int, executor: str = "local") -> None:
        if workers < 0:
            raise ValueError(f"workers = {workers}: must be at least 1, or 0 for one a core")
        self.workers, self.executor = workers or os.cpu_count() or 1, executor
        self._processes: ProcessPoolExecutor | None = None

    def map(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """Yields ``function(task)`` for each task, in order; see ``map_tasks``."""
        if self.executor == "ray":
            return _map_on_ray(function, tasks)
        if self.workers == 1 or (isinstance(tasks, Sequence) and len(tasks) < 2):
            return map(function, tasks)
        return self._map_on_processes(function, tasks)

    def _map_on_processes(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        if self._processes is None:
            # spawn, not fork: a forked child would inherit locks held by the threads of this process (Arrow, numba).
            context = multiprocessing.get_context("spawn")
            self._processes = ProcessPoolExecutor(self.workers, context, initializer=_begin_worker)
        running: deque[Future[R]] = deque()
        try:
            for task in tasks:
                running.append(self._processes.submit(_call, function, task))
                if len(running) >= 2 * self.workers:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        except BrokenProcessPool:
            raise ChildProcessError(
                "a worker process was killed, most likely for lack of memory; "
                "run the same command again (it goes on), with fewer workers if it happens again"
            ) from None
        finally:
            for future in running:
                future.cancel()

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        if self._processes is not None:
            self._processes.shutdown(wait=True, cancel_futures=True)


def map_tasks(function: Callable[[T], R], tasks: Iterable[T], workers: int, executor: str = "local") -> Iterator[R]:
    """Yields ``function(task)`` for each task, in order. ``workers=1`` runs in this process.

    With more, ``function`` must be importable by name (or a ``functools.partial`` of such), and at most
    2 · workers tasks are under way, however fast the caller takes the results. An exception of the function is raised
    here as it is. ``executor``: see ``Pool``. Raises ChildProcessError when a local worker is killed.
    """
    with Pool(workers, executor) as pool:
        yield from pool.map(function, tasks)


def start_ray() -> Any:
    """The library, connected: to the cluster that RAY_ADDRESS names, else to one on this machine. ValueError without
    it."""
    try:
        import ray
    except ImportError:
        raise ValueError("executor = ray: Ray is not installed; pip install 'congling[ray]', or take local") from None
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
    return ray


def _map_on_ray(function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
    ray = start_ray()
    name = getattr(function, "func", function).__name__
    remote = ray.remote(max_retries=_RAY_RETRIES)(_call).options(name=name)
    shared = ray.put(function)  # once a node, with what it carries
    limit = max(4, int(_RAY_TASKS_A_CPU * ray.cluster_resources().get("CPU", 1)))
    running: deque[Any] = deque()

    def take() -> R:
        try:
            result: R = ray.get(running.popleft())
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        return result

    for task in tasks:
        running.append(remote.remote(shared, task))
        if len(running) >= limit:
            yield take()
    while running:
        yield take()


def _call(function: Callable[[T], R], task: T) -> R:
    result = function(task)
    pa.default_memory_pool().release_unused()  # an idle worker shall not hold what its last task needed
    return result


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
