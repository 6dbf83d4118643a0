import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from congling.corpus.tokens import TokenDataset, TokenWriter


def write(folder, documents, dtype=np.uint16, shard_tokens=1 << 20, split="train", **options):
    offsets = np.cumsum([0, *map(len, documents)], dtype=np.int64)
    ids = np.array([i for d in documents for i in d], np.uint32)
    with TokenWriter(folder, split, dtype, shard_tokens, **options) as writer:
        middle = len(documents) // 2  # in two calls
        writer.write(ids, offsets[: middle + 1])
        writer.write(ids[offsets[middle] :], offsets[middle:] - offsets[middle])
    return writer


DOCUMENTS = st.lists(st.lists(st.integers(0, 65535), max_size=9), min_size=1, max_size=12).filter(any)


@settings(deadline=None, max_examples=40)
@given(DOCUMENTS, st.integers(1, 20), st.sampled_from([np.uint16, np.uint32]), st.data())
def test_what_is_written_is_read(tmp_path_factory, documents, shard_tokens, dtype, data):
    folder = tmp_path_factory.mktemp("tokens")
    writer = write(folder, documents, dtype, shard_tokens)
    tokens = TokenDataset(folder, "train")
    flat = [i for d in documents for i in d]
    assert tokens.total == writer.tokens == len(flat)
    assert tokens.num_documents == writer.documents == len(documents)
    assert tokens.dtype == dtype
    starts = np.cumsum([0, *map(len, documents)])[:-1]
    assert tokens.document_starts().tolist() == starts.tolist()
    start = data.draw(st.integers(0, len(flat)))
    count = data.draw(st.integers(0, len(flat) - start))
    part = tokens.read(start, count)
    assert part.tolist() == flat[start : start + count]
    assert part.dtype == dtype
    sizes = [f.stat().st_size // part.itemsize for f in sorted(folder.glob("*.bin"))]
    longest = max(map(len, documents))
    assert max(sizes) <= max(shard_tokens, longest)


def test_read_is_a_read_only_view(tmp_path):
    write(tmp_path, [[1, 2, 3]])
    part = TokenDataset(tmp_path, "train").read(1, 2)
    assert not part.flags.writeable
    assert part.base is not None


def test_writers_side_by_side(tmp_path):
    write(tmp_path, [[3, 4]], first_shard=1)
    write(tmp_path, [[1, 2]], first_shard=0)
    assert TokenDataset(tmp_path, "train").read(0, 4).tolist() == [1, 2, 3, 4]


def test_fingerprint_follows_the_bytes(tmp_path):
    for name, documents in (("a", [[1, 2], [3]]), ("b", [[1, 2], [3]]), ("c", [[1], [2, 3]])):
        write(tmp_path / name, documents)
    a, b, c = (TokenDataset(tmp_path / n, "train").fingerprint for n in "abc")
    assert a == b != c


def test_an_exception_leaves_whole_shards_only(tmp_path):
    with pytest.raises(RuntimeError), TokenWriter(tmp_path, "train", np.uint16, 2) as writer:
        writer.write(np.array([1, 2, 3]), np.array([0, 2, 3]))
        raise RuntimeError
    assert sorted(p.name for p in tmp_path.iterdir()) == ["train-00000.bin", "train-00000.docs.npy"]


def test_clear_errors(tmp_path):
    with pytest.raises(ValueError, match=r"holds no train-\*.bin; run the tokenize stage first"):
        TokenDataset(tmp_path, "train")
    with pytest.raises(ValueError, match="uint16 or uint32, not int64"):
        TokenWriter(tmp_path, "train", np.int64)
    with pytest.raises(ValueError, match=r"ids 1 … 65536 do not fit uint16"):
        write(tmp_path, [[1, 65536]])
    write(tmp_path, [[1, 2], [3]])
    with pytest.raises(ValueError, match=r"tokens 2 … 4 of train: it has 3"):
        TokenDataset(tmp_path, "train").read(2, 2)
    shard, docs = tmp_path / "train-00000.bin", tmp_path / "train-00000.docs.npy"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"train-00000.bin: damaged, 5 bytes for 3 tokens"):
        TokenDataset(tmp_path, "train")
    docs.write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"train-00000.docs.npy: damaged"):
        TokenDataset(tmp_path, "train")
    docs.unlink()
    with pytest.raises(ValueError, match=r"train-00000.docs.npy: missing beside"):
        TokenDataset(tmp_path, "train")


def test_needs_numpy_alone():
    blocked = "import sys\nfor name in ('pyarrow', 'numba', 'orjson'): sys.modules[name] = None\n"
    code = blocked + "import congling.corpus.tokens"
    subprocess.run([sys.executable, "-c", code], check=True)
