"""Documents as Arrow record batches, and their text as two flat arrays for the kernels.

Arrow keeps the N strings of a column as one run of UTF-8 bytes and N + 1 offsets into it. Kernels (numba) work on these
two arrays as they are: nothing is copied, and there is no Python object for a document.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

SCHEMA = pa.schema([("id", pa.int64()), ("text", pa.large_string()), ("source", pa.string())])


def text_buffers(array: pa.Array) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The bytes and the offsets [N + 1] of a string column, without a copy (for 32-bit offsets, one of the offsets).

    Document i is ``data[offsets[i] : offsets[i + 1]]``; of a slice, ``offsets[0]`` need not be 0.
    Raises ValueError for another type, or when a value is null.
    """
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if array.type == pa.string():
        array = array.cast(pa.large_string())
    if array.type != pa.large_string():
        raise ValueError(f"a string column is needed, got {array.type}")
    if array.null_count:
        raise ValueError(f"text is null in {array.null_count} of {len(array)} documents")
    _, offsets, data = array.buffers()
    if offsets is None or offsets.size == 0:  # Arrow allows no offsets at all for no documents
        return np.empty(0, np.uint8), np.zeros(1, np.int64)
    first = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    return (np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)), first


def from_buffers(data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> pa.LargeStringArray:
    """The string column of ``offsets`` [N + 1] into ``data``, which must be UTF-8 (not checked). Shares memory."""
    bounds = np.ascontiguousarray(offsets, np.int64)
    values = np.ascontiguousarray(data, np.uint8)
    return pa.LargeStringArray.from_buffers(len(bounds) - 1, pa.py_buffer(bounds), pa.py_buffer(values))


def make_batch(
    text: pa.Array | Sequence[str],
    source: str | pa.Array | Sequence[str],
    ids: int | NDArray[np.int64] | Sequence[int] = 0,
) -> pa.RecordBatch:
    """A batch of SCHEMA. ``source``: one name for all, or one a document; ``ids``: the first of a run, or all."""
    texts = text if isinstance(text, pa.Array) else pa.array(text, pa.large_string())
    count = len(texts)
    sources = pa.repeat(pa.scalar(source, pa.string()), count) if isinstance(source, str) else source
    numbers = np.arange(ids, ids + count) if isinstance(ids, int) else ids
    columns = [pa.array(numbers, pa.int64()), texts, sources if isinstance(sources, pa.Array) else pa.array(sources)]
    return pa.RecordBatch.from_arrays([c.cast(f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)
