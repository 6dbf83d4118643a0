"""Passes over the text of a corpus, many documents a batch, on several threads."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray

from congling.corpus.documents import text_buffers
from congling.corpus.shards import read_shards
from congling.reporter import Bar
from congling.tokenizer.kernels import Bytes
from congling.tokenizer.trie import Longs, read_only

Batch = tuple[Bytes, Longs]  # text of N documents: data, offsets [N + 1]; both read-only
Corpus = Callable[[], Iterable[Batch]]  # begins a new pass over all batches
T = TypeVar("T")


def read_corpus(folder: Path, bar: Bar) -> Corpus:
    """Passes over the corpus that the clean stage left in ``folder``; the bar counts bytes."""

    def batches() -> Iterator[Batch]:
        for batch in read_shards(folder, "corpus", ["text"]):
            data, offsets = text_buffers(batch.column("text"))
            yield read_only(data), read_only(offsets)
            bar.advance(int(offsets[-1] - offsets[0]))

    return batches


def parallel(function: Callable[[Bytes, Longs], T], corpus: Corpus, threads: int) -> Iterator[T]:
    """``function`` of each batch, in order, on threads; few batches are in memory at a time."""
    with ThreadPoolExecutor(threads) as pool:
        running: list[Future[T]] = []
        for data, offsets in corpus():
            running.append(pool.submit(function, data, offsets))
            if len(running) > threads:
                yield running.pop(0).result()
        for future in running:
            yield future.result()


def hash_texts(data: Bytes, offsets: Longs, seed: int = 0) -> NDArray[np.uint64]:
    """xxh3-64 of each document's bytes [N]."""
    view = data.data
    hashes = [xxhash.xxh3_64_intdigest(view[a:b], seed) for a, b in pairwise(offsets.tolist())]
    return np.array(hashes, np.uint64)
