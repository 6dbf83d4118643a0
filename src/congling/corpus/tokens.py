"""Flat token shards on disk, read through memory maps.

A split is ``train-00000.bin`` … (token ids, uint16 or uint32) with ``train-00000.docs.npy`` … beside them: int64
[documents + 1], the start of every document in its shard, and the shard's length last (so the width of an id and
the wholeness of the shard can be checked). No document straddles two shards: one that does not fit begins the next
shard, and one longer than a shard has a shard to itself. Imports numpy alone: a training machine needs no Arrow.
"""

from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from numpy.typing import DTypeLike, NDArray

from congling.artifact import atomic_open, hash_file, hash_json

_WIDTHS: dict[int, np.dtype[np.unsignedinteger]] = {2: np.dtype(np.uint16), 4: np.dtype(np.uint32)}  # bytes of an id


class TokenWriter:
    """Writes documents of ids into the shards of one split. Use it as a context manager.

    shard_tokens: a shard is closed before it would grow longer. first_shard: its number, for writers side by side.
    A shard bears its name only when it is whole; an exception in the block discards the one under way.
    """

    def __init__(
        self, folder: Path, split: str, dtype: DTypeLike, shard_tokens: int = 1 << 28, first_shard: int = 0
    ) -> None:
        self.folder, self.split, self.dtype, self.shard_tokens = Path(folder), split, np.dtype(dtype), shard_tokens
        if self.dtype not in _WIDTHS.values():
            raise ValueError(f"token ids are uint16 or uint32, not {self.dtype}")
        self.tokens = self.documents = 0  # written so far
        self._next = first_shard
        self._open: ExitStack | None = None
        self._file: IO[bytes] | None = None
        self._ends: list[NDArray[np.int64]] = []  # of the documents in the open shard
        self._length = 0  # tokens in the open shard

    def write(self, ids: NDArray[np.integer], offsets: NDArray[np.int64]) -> None:
        """Adds the N documents ``ids[offsets[i] : offsets[i + 1]]``; offsets [N + 1]. Raises ValueError for an id that
        the dtype cannot hold."""
        limit = np.iinfo(self.dtype).max
        if ids.dtype != self.dtype and ids.size and (int(ids.max()) > limit or int(ids.min()) < 0):
            raise ValueError(f"token ids {int(ids.min())} … {int(ids.max())} do not fit {self.dtype}")
        first = 0
        while first < len(offsets) - 1:
            room = max(0, self.shard_tokens - self._length)  # documents of no tokens always fit
            last = int(np.searchsorted(offsets, offsets[first] + room, "right")) - 1
            if last <= first:  # not even one document fits
                if self._length:
                    self._finish_shard()
                    continue
                last = first + 1
            self._append(ids[offsets[first] : offsets[last]], offsets[first : last + 1])
            first = last

    def close(self) -> None:
        """Finishes the last shard."""
        self._finish_shard()

    def _append(self, ids: NDArray[np.integer], offsets: NDArray[np.int64]) -> None:
        if self._open is None:
            self._open = ExitStack()
            self._file = self._open.enter_context(atomic_open(self._path(".bin")))
        assert self._file is not None
        self._file.write(np.ascontiguousarray(ids, self.dtype).data)
        self._ends.append(offsets[1:] - offsets[0] + self._length)
        self._length += len(ids)
        self.tokens += len(ids)
        self.documents += len(offsets) - 1

    def _finish_shard(self) -> None:
        if self._open is None:
            return
        with atomic_open(self._path(".docs.npy")) as file:  # first: a .bin never stands without it
            np.save(file, np.concatenate([np.zeros(1, np.int64), *self._ends]))
        self._open.close()
        self._open, self._file, self._ends, self._length = None, None, [], 0
        self._next += 1

    def _path(self, suffix: str) -> Path:
        return self.folder / f"{self.split}-{self._next:05d}{suffix}"

    def __enter__(self) -> "TokenWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        elif self._open is not None:
            self._open.__exit__(kind, error, trace)  # removes the temporary file


class TokenDataset:
    """The tokens of a split as one long array of ``total`` ids, read-only, without loading them.

    Raises ValueError that names the file when the split is missing, empty or damaged.
    """

    def __init__(self, folder: Path, split: str) -> None:
        self.folder, self.split = Path(folder), split
        self._files = sorted(self.folder.glob(f"{split}-*.bin"))
        if not self._files:
            raise ValueError(f"{self.folder}: holds no {split}-*.bin; run the tokenize stage first")
        self._offsets = [_load_offsets(f) for f in self._files]
        widths = {_id_width(f, o) for f, o in zip(self._files, self._offsets, strict=True)}
        if len(widths) > 1:
            raise ValueError(f"{self.folder}: shards of {split} mix uint16 and uint32; run the tokenize stage again")
        self.dtype = _WIDTHS[widths.pop()]
        self._shards = [np.memmap(f, self.dtype, "r") for f in self._files]
        self._starts = np.cumsum([0, *(len(s) for s in self._shards)], dtype=np.int64)  # of the shards
        self.total = int(self._starts[-1])  # tokens
        self.num_documents = sum(len(o) - 1 for o in self._offsets)

    def read(self, start: int, count: int) -> NDArray[np.unsignedinteger]:
        """Ids ``start`` … ``start + count - 1``, across shards; a view of the file where one shard has them all."""
        if start < 0 or count < 0 or start + count > self.total:
            raise ValueError(f"tokens {start} … {start + count} of {self.split}: it has {self.total}")
        parts = []
        shard = int(np.searchsorted(self._starts, start, "right")) - 1
        while count > 0:
            begin = start - int(self._starts[shard])
            part = self._shards[shard][begin : begin + count]
            parts.append(part)
            start, count, shard = start + len(part), count - len(part), shard + 1
        return np.asarray(parts[0]) if len(parts) == 1 else np.concatenate([np.empty(0, self.dtype), *parts])

    def check_ids(self, vocab_size: int) -> None:
        """Raises ValueError, naming the shard, when an id is not below ``vocab_size``: another vocabulary's, or damage.

        Reads all shards once, unless their dtype cannot hold such an id.
        """
        if np.iinfo(self.dtype).max < vocab_size:
            return
        for file, shard in zip(self._files, self._shards, strict=True):
            if len(shard) and (largest := int(shard.max())) >= vocab_size:
                raise ValueError(
                    f"{file}: token id {largest}, but the vocabulary beside it has {vocab_size} ids; "
                    "run the tokenize stage again"
                )

    def document_starts(self) -> NDArray[np.int64]:
        """Where each document begins in the whole split [num_documents]."""
        return np.concatenate([o[:-1] + s for o, s in zip(self._offsets, self._starts, strict=False)])

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all shards' sizes and bytes (read once, then kept)."""
        return hash_json([[f.stat().st_size, hash_file(f), hash_file(_docs_file(f))] for f in self._files])


def _docs_file(file: Path) -> Path:
    return file.with_name(f"{file.stem}.docs.npy")


def _load_offsets(file: Path) -> NDArray[np.int64]:
    docs = _docs_file(file)
    try:
        offsets = np.load(docs, allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(f"{docs}: missing beside {file.name}; run the tokenize stage again") from None
    except (ValueError, EOFError):
        offsets = np.empty(0)
    if offsets.dtype != np.int64 or len(offsets) < 2 or offsets[0] != 0 or (np.diff(offsets) < 0).any():
        raise ValueError(f"{docs}: damaged, not the starts of documents; run the tokenize stage again")
    return offsets


def _id_width(file: Path, offsets: NDArray[np.int64]) -> int:
    size, length = file.stat().st_size, int(offsets[-1])
    if size == length == 0:
        raise ValueError(f"{file}: holds documents but no tokens; run the tokenize stage on other text")
    for width in _WIDTHS:
        if size == width * length:
            return width
    raise ValueError(f"{file}: damaged, {size} bytes for {length} tokens; run the tokenize stage again")
