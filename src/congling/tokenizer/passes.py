"""Passes over the text of a corpus: a kernel reads batch after batch, and what it finds is added up.

A ``Pass`` runs a kernel, a function of a module, on threads of this process (the kernels release the GIL) or, with
``executor=ray``, as tasks of a Ray cluster that sees the same files. The kernel gets a batch and the arrays that it
shares with all others of its pass; ``add`` takes what it found, in any order, on any thread. So results must not depend
on the order: sums of integers do not.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from congling.corpus.documents import text_buffers
from congling.corpus.executor import map_tasks, start_ray
from congling.corpus.shards import count_groups, read_shard, shard_files
from congling.reporter import Bar
from congling.tokenizer.kernels import Bytes
from congling.tokenizer.trie import Longs, read_only

Batch = tuple[Bytes, Longs]  # text of N documents: data, offsets [N + 1]; both read-only
T = TypeVar("T")
Kernel = Callable[..., Any]  # (data, offsets, *shared) → what it found


@dataclass(frozen=True)
class Corpus:
    """The text of the shards that the clean stage left, and how it is read."""

    files: Sequence[Path]
    bar: Bar
    threads: int = 1
    ray: bool = False

    @classmethod
    def of_stage(cls, folder: Path, bar: Bar, threads: int = 1, executor: str = "local") -> "Corpus":
        """All shards of the clean stage's ``folder``. Raises ValueError when there are none."""
        return cls(shard_files(folder, "corpus"), bar, threads, executor == "ray")

    def __iter__(self) -> Iterator[Batch]:
        for file in self.files:
            yield from _read(file)

    def run(self, kernel: Kernel, shared: tuple[Any, ...], add: Callable[[Any], None]) -> None:
        """One pass: ``add(kernel(data, offsets, *shared))`` for every batch. ``add`` may be called on any thread."""
        if self.ray:
            self._run_ray(kernel, shared, add)
            return

        def job(data: Bytes, offsets: Longs) -> int:
            add(kernel(data, offsets, *shared))
            return int(offsets[-1] - offsets[0])

        for size in map_batches(job, self, self.threads):
            self.bar.advance(size)

    def _run_ray(self, kernel: Kernel, shared: tuple[Any, ...], add: Callable[[Any], None]) -> None:
        arrays = start_ray().put(shared)  # once a node, not once a task
        tasks = ((file, group) for file in self.files for group in range(count_groups(file)))
        for found, size in map_tasks(partial(_read_and_run, kernel, arrays), tasks, 1, "ray"):
            add(found)
            self.bar.advance(size)


def map_batches(function: Callable[[Bytes, Longs], T], batches: Iterable[Batch], threads: int) -> Iterator[T]:
    """``function`` of each batch, in order, on threads; few batches are in memory at a time."""
    with ThreadPoolExecutor(threads) as pool:
        running: deque[Future[T]] = deque()
        for data, offsets in batches:
            running.append(pool.submit(function, data, offsets))
            if len(running) > threads:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def _read_and_run(kernel: Kernel, arrays: Any, where: tuple[Path, int]) -> tuple[Any, int]:
    """The task of a Ray worker: a row group; what the kernel found, and bytes of text. ``arrays``: a reference."""
    file, group = where
    shared = start_ray().get(arrays)
    data, offsets = text_buffers(pa.chunked_array([b["text"] for b in read_shard(file, ["text"], [group])]))
    return kernel(read_only(data), read_only(offsets), *shared), int(offsets[-1] - offsets[0])


def _read(file: Path) -> Iterator[Batch]:
    for batch in read_shard(file, ["text"]):
        data, offsets = text_buffers(batch.column("text"))
        yield read_only(data), read_only(offsets)


class Sum:
    """An array that threads add to."""

    def __init__(self, size: int) -> None:
        self.total, self._lock = np.zeros(size, np.int64), Lock()

    def add(self, found: Longs) -> None:
        with self._lock:
            self.total += found


def hash_texts(data: Bytes, offsets: Longs, seed: int = 0) -> NDArray[np.uint64]:
    """xxh3-64 of each document's bytes [N]."""
    view = data.data
    hashes = [xxhash.xxh3_64_intdigest(view[a:b], seed) for a, b in pairwise(offsets.tolist())]
    return np.array(hashes, np.uint64)
