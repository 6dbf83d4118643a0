import itertools

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from congling.corpus import shards
from congling.corpus.documents import SCHEMA, make_batch
from congling.corpus.shards import ShardWriter, read_shards


def write(folder, batches, **options):
    with ShardWriter(folder, "corpus", **options) as writer:
        for batch in batches:
            writer.write(batch)
    return writer


def rows(folder, columns=None):
    return [row for batch in read_shards(folder, "corpus", columns) for row in batch.to_pylist()]


@settings(deadline=None, max_examples=25)
@given(st.lists(st.text(max_size=20), max_size=30), st.integers(1, 60), st.lists(st.integers(0, 30), max_size=4))
def test_the_bytes_depend_on_the_rows_alone(tmp_path_factory, texts, shard_bytes, cuts):
    texts = [t.encode("utf-8", "replace").decode() for t in texts]
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "_GROUP_BYTES", 16)
        whole = make_batch(texts, "s")
        write(one, [whole], shard_bytes=shard_bytes)
        edges = sorted({0, len(texts), *(c for c in cuts if c <= len(texts))})
        write(two, [whole.slice(a, b - a) for a, b in itertools.pairwise(edges)], shard_bytes=shard_bytes)
    assert rows(one) == whole.to_pylist()
    files = sorted(p.name for p in one.iterdir())
    assert files == sorted(p.name for p in two.iterdir())
    assert [(one / f).read_bytes() for f in files] == [(two / f).read_bytes() for f in files]


def test_shards_are_cut_by_size_and_numbered(tmp_path):
    writer = write(tmp_path, [make_batch(["x" * 10] * 7, "s")], shard_bytes=30, first_shard=4)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"corpus-0000{i}.parquet" for i in (4, 5, 6)]
    assert [len(b) for b in read_shards(tmp_path, "corpus")] == [3, 3, 1]
    assert writer.rows == 7


def test_more_columns_and_some_columns(tmp_path):
    schema = SCHEMA.append(pa.field("reason", pa.string()))
    batch = make_batch(["a"], "s").append_column("reason", pa.array(["short"]))
    write(tmp_path, [batch], schema=schema)
    assert rows(tmp_path) == [{"id": 0, "text": "a", "source": "s", "reason": "short"}]
    assert rows(tmp_path, ["text", "id"]) == [{"text": "a", "id": 0}]
    with pytest.raises(ValueError, match=r"corpus-00000.parquet: has no column 'score'; it has id, text"):
        rows(tmp_path, ["score"])


def test_no_documents_still_leave_a_shard(tmp_path):
    write(tmp_path, [])
    assert rows(tmp_path) == []
    with pytest.raises(ValueError, match=r"holds no rejects-\*.parquet"):
        list(read_shards(tmp_path, "rejects"))


def test_an_exception_leaves_whole_shards_only(tmp_path):
    with pytest.raises(RuntimeError), ShardWriter(tmp_path, "corpus", 30) as writer:
        writer.write(make_batch(["x" * 10] * 4, "s"))
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["corpus-00000.parquet"]
    assert len(rows(tmp_path)) == 3


def test_a_damaged_shard_is_named(tmp_path):
    write(tmp_path, [make_batch(["一" * 100], "s")])
    file = tmp_path / "corpus-00000.parquet"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"corpus-00000.parquet: damaged"):
        rows(tmp_path)
