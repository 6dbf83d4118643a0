"""The public ``Tokenizer``: text to ids and back, any bytes exactly."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from congling.corpus.documents import text_buffers
from congling.tokenizer import vocabulary as vocab
from congling.tokenizer.kernels import encode_documents
from congling.tokenizer.seed import encode_seed, read_seed
from congling.tokenizer.trie import make_trie
from congling.tokenizer.vocabulary import FIRST_BYTE, SPECIALS, Vocabulary

FILE = "vocabulary.txt"
Texts = Sequence[str] | Sequence[bytes] | Any  # or a pyarrow string array


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
        self._bytes = _byte_table(v)
        self.token_bytes: NDArray[np.int32] = np.array([len(b) for b in self._bytes], np.int32)  # [V] raw bytes
        fixed = np.zeros(len(v.pieces), np.int32) if self._seed_kind else np.array(v.scores, np.int32)
        self._trie = make_trie(v.pieces, fixed)
        self._scores = np.array(v.scores, np.float64)
        self._ids = np.array(v.ids, np.int32)
        self._byte_ids = np.arange(FIRST_BYTE, FIRST_BYTE + 256, dtype=np.int32)

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
        self, texts: Texts, threads: int = 1, sample: float | None = None, seed: int = 0
    ) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Ids of all texts in a row, and where each begins [N + 1]; the same whatever ``threads``.

        sample: draw each segmentation with probability ∝ exp(sample · its score) in place of the best one; text n
        depends on (seed, n) alone. Special tokens written in a text are ordinary text.
        """
        if sample is not None and (self._seed_kind or not sample > 0):
            raise ValueError(f"sample = {sample}: must be above 0, with a vocabulary of our own kind")
        data, offsets = text_buffers(texts) if isinstance(texts, pa.Array) else _buffers(texts)
        cuts = _cuts(offsets, threads)
        if len(cuts) == 2:
            return self._encode(data, offsets, 0, sample or 0.0, seed)
        with ThreadPoolExecutor(threads) as pool:
            jobs = [
                pool.submit(self._encode, data, offsets[a : b + 1], a, sample or 0.0, seed) for a, b in pairwise(cuts)
            ]
            parts = [job.result() for job in jobs]
        starts = np.cumsum([0, *(len(ids) for ids, _ in parts)])
        all_offsets = [offs[1:] + start for (_, offs), start in zip(parts, starts, strict=False)]
        return np.concatenate([ids for ids, _ in parts]), np.concatenate([np.zeros(1, np.int64), *all_offsets])

    def _encode(
        self, data: NDArray[np.uint8], offsets: NDArray[np.int64], first: int, alpha: float, seed: int
    ) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        cells, table = self._trie.cells, self._trie.table
        if self._seed_kind:
            return encode_seed(data, offsets, cells, table, self._scores)
        return encode_documents(data, offsets, cells, table, self._ids, self._byte_ids, alpha, seed, first)

    # -- ids to text -------------------------------------------------------------------------------------------------

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that ids stand for; special ids stand for none. Raises ValueError for an id outside."""
        try:
            return b"".join([self._bytes[i] for i in ids])
        except IndexError:
            raise ValueError(f"ids must be 0 … {self.vocab_size - 1}") from None

    def decode(self, ids: Iterable[int], errors: str = "replace") -> str:
        """The text of ids; ``errors`` as for ``bytes.decode``."""
        return self.decode_bytes(ids).decode("utf-8", errors)

    def piece(self, number: int) -> bytes:
        """What one id stands for."""
        return self.decode_bytes([number])

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


def _byte_table(v: Vocabulary) -> list[bytes]:
    """Bytes of every id, in order."""
    if v.kind == "seed":
        first = [bytes([255 - row]) for row in range(256)]
    else:
        first = [b""] * FIRST_BYTE + [bytes([b]) for b in range(256)]
    return first + [piece.encode("utf-8") for piece in v.pieces]


def _buffers(texts: Sequence[str] | Sequence[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    encoded = [t.encode("utf-8", "surrogatepass") if isinstance(t, str) else t for t in texts]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(b) for b in encoded], out=offsets[1:])
    return np.frombuffer(b"".join(encoded), np.uint8), offsets


def _cuts(offsets: NDArray[np.int64], threads: int) -> list[int]:
    """Document numbers that cut the text into ``threads`` parts of about equal bytes; small texts stay whole."""
    total = int(offsets[-1] - offsets[0])
    if threads < 2 or total < 1 << 16:
        return [0, len(offsets) - 1]
    wanted = offsets[0] + total * np.arange(1, threads) // threads
    inner = np.searchsorted(offsets, wanted).tolist()
    return sorted({0, *inner, len(offsets) - 1})
