import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from congling.corpus.documents import SCHEMA, from_buffers, make_batch, text_buffers


@settings(deadline=None, max_examples=40)
@given(st.lists(st.text(st.characters(codec="utf-8"))), st.integers(0, 5), st.integers(0, 5), st.booleans())
def test_buffers_round_trip_also_of_slices(texts, first, count, large):
    array = pa.array(texts, pa.large_string() if large else pa.string()).slice(first, count)
    data, offsets = text_buffers(array)
    parts = [bytes(data[a:b]).decode() for a, b in itertools.pairwise(offsets)]
    assert parts == array.to_pylist() == from_buffers(data, offsets).to_pylist()


def test_buffers_are_shared():
    array = pa.array(["一", "二"], pa.large_string())
    data, offsets = text_buffers(array)
    assert data.__array_interface__["data"][0] == array.buffers()[2].address
    assert offsets.__array_interface__["data"][0] == array.buffers()[1].address
    again = from_buffers(data, offsets)
    assert again.buffers()[2].address == array.buffers()[2].address


def test_buffers_of_chunks_nulls_and_other_types():
    assert text_buffers(pa.chunked_array([["a"], ["b"]]))[1].tolist() == [0, 1, 2]
    assert text_buffers(pa.array([], pa.large_string()))[1].tolist() == [0]
    with pytest.raises(ValueError, match="null in 1 of 2"):
        text_buffers(pa.array(["a", None]))
    with pytest.raises(ValueError, match="string column is needed, got int64"):
        text_buffers(pa.array([1]))


def test_make_batch():
    batch = make_batch(["a", "b"], "file", 5)
    assert batch.schema == SCHEMA
    assert batch.to_pydict() == {"id": [5, 6], "text": ["a", "b"], "source": ["file", "file"]}
    batch = make_batch(pa.array(["a"]), ["x"], np.array([9]))
    assert batch.to_pydict() == {"id": [9], "text": ["a"], "source": ["x"]}
    assert make_batch([], "x").schema == SCHEMA
