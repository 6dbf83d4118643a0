"""The public ``Tokenizer``: text to ids and back, any bytes exactly."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from congling.corpus.documents import text_buffers
from congling.tokenizer import vocabulary as vocab
from congling.tokenizer.codec import encode_documents, join_bytes
from congling.tokenizer.kernels import Bytes, Ids, Keys
from congling.tokenizer.seed import read_seed
from congling.tokenizer.trie import BYTE_SCORE, FIRST_CODE, Longs, Scores, Trie, make_trie, read_only
from congling.tokenizer.vocabulary import FIRST_BYTE, SPECIALS, Vocabulary

FILE = "vocabulary.txt"
_CHUNK_BYTES = 4 << 20  # of text for one call of a kernel
Texts = Sequence[str] | Sequence[bytes] | Any  # or a pyarrow string array, or its buffers (bytes, offsets [N + 1])


class Tokenizer:
    """Segments text along the path of the largest score sum. Immutable; safe to share between threads.

    Ids: 16 special ones (never produced from text), 256 bytes, then pieces. A tokenizer read ``from_seed`` follows the
    seed's own rules and numbering, and has no special ids.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = v = vocabulary
        self._seed_kind = v.kind == "seed"
        self.special: dict[str, int] = {} if self._seed_kind else {name: n for n, name in enumerate(SPECIALS)}
        self.vocab_size = v.size
        first = 255 - np.arange(256) if self._seed_kind else FIRST_BYTE + np.arange(256)
        self._byte_ids = first.astype(np.int32)
        self._words, self._sizes = _byte_table(v)
        self.token_bytes: NDArray[np.int32] = self._sizes.astype(np.int32)  # [V] raw bytes of each id

    @cached_property
    def _trie(self) -> Trie:
        v = self.vocabulary
        scores: Scores = np.array(v.scores, np.float64) if self._seed_kind else np.array(v.scores, np.int64)
        return make_trie(v.pieces, scores, np.arange(v.first_id, v.size), 0 if self._seed_kind else BYTE_SCORE)

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """From a folder with ``vocabulary.txt``, or the file itself. Raises ValueError in one line."""
        path = Path(path)
        return cls(vocab.read(path / FILE if path.is_dir() else path))

    @classmethod
    def from_seed(cls, file: str | Path) -> "Tokenizer":
        """The seed's vocabulary file, ``piece<TAB>count`` a line; ids are the rows its models take."""
        return cls(read_seed(Path(file)))

    def save(self, path: str | Path) -> Path:
        """Writes the vocabulary file (into a folder, under its usual name); returns where."""
        path = Path(path)
        file = path / FILE if path.is_dir() or not path.suffix else path
        vocab.write(self.vocabulary, file)
        return file

    # -- text to ids -------------------------------------------------------------------------------------------------

    def encode(self, text: str | bytes, sample: float | None = None, seed: int = 0) -> list[int]:
        """Ids of one text; see ``encode_batch``."""
        found: list[int] = self.encode_batch([text], sample=sample, seed=seed)[0].tolist()
        return found

    def encode_batch(
        self, texts: Texts, threads: int = 1, sample: float | None = None, seed: int = 0, first: int = 0
    ) -> tuple[Ids, Longs]:
        """Ids of all N texts in a row, and where each begins [N + 1]; the same whatever ``threads``.

        sample: draw each segmentation with probability ∝ exp(sample · its score in nats) in place of the best one (0:
        all alike; large: the best). Text n depends on (seed, first + n) alone, so batches can be cut anywhere.
        Special tokens written in a text are ordinary text.
        """
        if sample is not None and (self._seed_kind or not 0 <= sample < 1e6):
            raise ValueError(f"sample = {sample}: must be 0 … 1e6, with a vocabulary of our own kind")
        data, offsets = _buffers(texts)
        _ = self._trie  # made here, before threads ask for it
        keys = np.empty(0, np.uint64) if sample is None else _document_keys(seed, first, len(offsets) - 1)
        cuts = _cuts(offsets)

        def job(a: int, b: int) -> tuple[Ids, Longs]:
            return self._encode(data, offsets[a : b + 1], sample or 0.0, keys[a:b])

        if threads < 2 or len(cuts) <= 2:
            return _join([job(a, b) for a, b in pairwise(cuts)])
        with ThreadPoolExecutor(threads) as pool:
            return _join(list(pool.map(job, cuts[:-1], cuts[1:])))

    def _encode(self, data: Bytes, offsets: Longs, alpha: float, keys: Keys) -> tuple[Ids, Longs]:
        plain = self._trie.first_plain if self._seed_kind else FIRST_CODE
        return encode_documents(data, offsets, self._trie.arrays, plain, self._byte_ids, alpha, keys)

    # -- ids to text -------------------------------------------------------------------------------------------------

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that ids stand for; special ids stand for none. Raises ValueError for an id outside."""
        joined: bytes = join_bytes(read_only(self._checked(ids)), self._words, self._sizes).tobytes()
        return joined

    def _checked(self, ids: Iterable[int]) -> Ids:
        wanted = np.asarray(ids if isinstance(ids, np.ndarray) else list(ids))
        if wanted.size and wanted.dtype.kind not in "iu":
            raise ValueError(f"ids must be whole numbers, not {wanted.dtype}")
        if wanted.size and not 0 <= int(wanted.min()) <= int(wanted.max()) < self.vocab_size:
            raise ValueError(f"ids {wanted.min()} … {wanted.max()}: must be 0 … {self.vocab_size - 1}")
        return np.ascontiguousarray(wanted, np.uint32)

    def decode(self, ids: Iterable[int], errors: str = "replace") -> str:
        """The text of ids; ``errors`` as for ``bytes.decode``."""
        return self.decode_bytes(ids).decode("utf-8", errors)

    def offsets(self, ids: Iterable[int], unit: Literal["bytes", "characters"] = "bytes") -> Longs:
        """Where each of n ids begins in the text they stand for, and its length [n + 1], in bytes or characters.

        An id that begins inside a character has the place of that character. Bytes that are not UTF-8 count as
        characters if they are none of 0x80 … 0xBF.
        """
        wanted = self._checked(ids)
        begins = np.concatenate([np.zeros(1, np.int64), np.cumsum(self._sizes[wanted], dtype=np.int64)])
        if unit == "bytes":
            return begins
        data = join_bytes(read_only(wanted), self._words, self._sizes)
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum((data & 0xC0) != 0x80)])  # characters begun
        inside = np.append((data & 0xC0) == 0x80, False)[begins]
        return before[begins] - inside

    def piece(self, number: int) -> bytes:
        """What one id stands for. Raises ValueError for an id outside."""
        if not 0 <= number < self.vocab_size:
            raise ValueError(f"id {number}: must be 0 … {self.vocab_size - 1}")
        return self._words[number].tobytes()[: self._sizes[number]]

    # -- special ids -------------------------------------------------------------------------------------------------

    @property
    def pad_id(self) -> int:
        return self._special("<|pad|>")

    @property
    def end_id(self) -> int:
        """Ends every document; also what a text begins after."""
        return self._special("<|endoftext|>")

    @property
    def im_start_id(self) -> int:
        return self._special("<|im_start|>")

    @property
    def im_end_id(self) -> int:
        return self._special("<|im_end|>")

    def _special(self, name: str) -> int:
        if name not in self.special:
            raise ValueError(f"the seed's vocabulary has no {name}")
        return self.special[name]


def _byte_table(v: Vocabulary) -> tuple[NDArray[np.uint64], Bytes]:
    """Bytes of every id, padded to whole words of eight [V, W], and how many they are [V]."""
    if v.kind == "seed":
        first = [bytes([255 - row]) for row in range(256)]
    else:
        first = [b""] * FIRST_BYTE + [bytes([b]) for b in range(256)]
    parts = first + [piece.encode("utf-8") for piece in v.pieces]
    width = -(-max(map(len, parts)) // 8)
    padded = b"".join(part.ljust(8 * width, b"\0") for part in parts)
    sizes = np.fromiter(map(len, parts), np.uint8, len(parts))
    return np.frombuffer(padded, "<u8").reshape(-1, width), read_only(sizes)


def _buffers(texts: Texts) -> tuple[Bytes, Longs]:
    """(bytes, offsets), both read-only: numba compiles once for such arrays and once more for writable ones."""
    if isinstance(texts, pa.Array | pa.ChunkedArray):
        found = text_buffers(texts)
    elif isinstance(texts, tuple) and len(texts) == 2 and isinstance(texts[1], np.ndarray):
        found = np.ascontiguousarray(texts[0], np.uint8), np.ascontiguousarray(texts[1], np.int64)
    elif isinstance(texts, str | bytes):
        raise ValueError("encode_batch takes a list of texts; for one text use encode")
    else:
        found = _flat([t.encode("utf-8", "surrogatepass") if isinstance(t, str) else t for t in texts])
    return read_only(found[0]), read_only(found[1])


def _flat(parts: Sequence[bytes]) -> tuple[Bytes, Longs]:
    offsets = np.zeros(len(parts) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)), out=offsets[1:])
    return np.frombuffer(b"".join(parts), np.uint8), offsets


def _document_keys(seed: int, first: int, count: int) -> Keys:
    """A state of the random numbers for each of the documents ``first`` …, from (seed, number) alone."""
    mixed = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]
    return mixed + np.arange(first, first + count, dtype=np.uint64) * np.uint64(0xD1342543DE82EF95)


def _cuts(offsets: Longs) -> list[int]:
    """Document numbers that cut the text into chunks of about ``_CHUNK_BYTES``."""
    wanted = np.arange(offsets[0], offsets[-1], _CHUNK_BYTES)[1:]
    inner = np.searchsorted(offsets, wanted).tolist()
    return sorted({0, *inner, len(offsets) - 1})


def _join(parts: Sequence[tuple[Ids, Longs]]) -> tuple[Ids, Longs]:
    if len(parts) == 1:
        return parts[0]
    starts = np.cumsum([0, *(len(ids) for ids, _ in parts)])
    offsets = [own[1:] + start for (_, own), start in zip(parts, starts, strict=False)]
    ids = np.concatenate([np.empty(0, np.uint32), *(ids for ids, _ in parts)])
    return ids, np.concatenate([np.zeros(1, np.int64), *offsets])
