import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from congling.corpus.tokens import TokenDataset, TokenWriter
from congling.train.data import Loader, Request, TokenWindows, align, permute


def dataset(folder, total: int, shard_tokens: int = 1 << 20, ids=None) -> TokenDataset:
    ids = np.arange(total) if ids is None else np.asarray(ids)
    with TokenWriter(folder, "train", np.uint16, shard_tokens) as writer:
        for start in range(0, total, 7):
            part = ids[start : start + 7]
            writer.write(part, np.array([0, len(part)], np.int64))
    return TokenDataset(folder, "train")


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 700), st.text(max_size=5))
def test_permute_is_a_permutation(size, key):
    assert sorted(permute(n, size, key) for n in range(size)) == list(range(size))


def test_permute_depends_on_the_key_and_works_at_any_size():
    orders = [[permute(n, 100, key) for n in range(100)] for key in "abc"]
    assert len({tuple(order) for order in orders}) == 3
    assert len({permute(n, 10**12, "big") for n in range(1000)}) == 1000


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 2**31), st.integers(70, 170))
def test_an_epoch_sees_each_token_once_at_any_lengths(tmp_path_factory, seed, total):
    source = TokenWindows(dataset(tmp_path_factory.mktemp("tokens"), total, shard_tokens=50), 16, seed)
    seen = []
    for epoch in range(2):
        start = epoch * source.epoch_tokens
        half = source.epoch_tokens // 32 * 16
        first = source.batch(start, half // 4, 4)  # the first half of the epoch in rows of 4, the second in rows of 16
        second = source.batch(start + half, (source.epoch_tokens - half) // 16, 16)
        for batch in (first, second):
            assert torch.equal(batch.targets, batch.ids + 1)  # the stream counts, so windows are whole
        seen.append(torch.cat([first.ids.flatten(), second.ids.flatten()]))
        assert len(set(seen[-1].tolist())) == source.epoch_tokens
    assert source.epoch_tokens == (total - 1) // 16 * 16


@pytest.mark.parametrize("seed", range(3))
def test_each_epoch_has_an_order_of_its_own(tmp_path, seed):
    source = TokenWindows(dataset(tmp_path, 1000), 16, seed)
    rows = source.epoch_tokens // 16
    first, second = (source.batch(epoch * source.epoch_tokens, rows, 16).ids for epoch in range(2))
    assert not torch.equal(first, second)


def test_a_batch_is_a_pure_function_of_its_position(tmp_path):
    tokens = dataset(tmp_path, 1000)
    one, other = TokenWindows(tokens, 16, 1), TokenWindows(tokens, 16, 1)
    whole = one.batch(64, 8, 8)
    parts = [other.batch(64 + 8 * row, 1, 8) for row in reversed(range(8))][::-1]  # any order, any split
    assert torch.equal(whole.ids, torch.cat([part.ids for part in parts]))
    assert not torch.equal(whole.ids, TokenWindows(tokens, 16, 2).batch(64, 8, 8).ids)


def test_documents_are_numbered_where_they_are_kept_apart(tmp_path):
    tokens = dataset(tmp_path, 33, ids=[5, 6, 1, 7, 1, 8, 9, 1] * 4 + [5])
    batch = TokenWindows(tokens, 32, 0, end_id=1).batch(0, 1, 32)
    assert batch.documents is not None
    assert batch.documents[0, :9].tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 3]
    assert TokenWindows(tokens, 32, 0).batch(0, 1, 32).documents is None


def test_too_few_tokens_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"16 train tokens are too few for one sequence of 16"):
        TokenWindows(dataset(tmp_path, 16), 16, 0)


def test_lengths_that_do_not_divide_the_block_are_refused(tmp_path):
    source = TokenWindows(dataset(tmp_path, 1000), 16, 1)
    for length in (3, 12, 32):
        with pytest.raises(ValueError, match="cut for lengths that divide 16, the longest of lengths"):
            source.batch(0, 1, length)


@given(st.integers(0, 10**9), st.integers(1, 4096))
def test_align_is_the_next_place_for_a_row(position, length):
    found = align(position, length)
    assert found % length == 0
    assert 0 <= found - position < length


def test_ids_of_another_vocabulary_are_refused(tmp_path):
    tokens = dataset(tmp_path, 100, shard_tokens=60)
    TokenWindows(tokens, 16, 1, vocab_size=100)
    with pytest.raises(ValueError, match=r"train-00001\.bin: token id 99, but the vocabulary beside it has 99 ids"):
        TokenWindows(tokens, 16, 1, vocab_size=99)
    TokenWindows(tokens, 16, 1, vocab_size=65_536)  # nothing to look for: uint16 cannot hold more


def test_another_vocabulary_is_another_data_set(tmp_path):
    dataset(tmp_path, 100)
    found = []
    for text in ("一\t3\n", "二\t3\n"):
        (tmp_path / "vocabulary.txt").write_text(text)
        found.append(TokenWindows(TokenDataset(tmp_path, "train"), 16, 1).fingerprint)
    assert found[0] != found[1]


def test_a_shard_cut_short_is_named(tmp_path):
    dataset(tmp_path, 100)
    file = tmp_path / "train-00000.bin"
    file.write_bytes(file.read_bytes()[:-6])
    with pytest.raises(ValueError, match=r"train-00000\.bin: damaged, 194 bytes for 100 tokens; run the tokenize"):
        TokenDataset(tmp_path, "train")


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_prepared_batches_are_those_of_the_source(tmp_path, threads):
    source = TokenWindows(dataset(tmp_path, 1000), 16, 1)
    loader = Loader(source, threads)
    wanted = [Request(32 * n, 4, 8) for n in range(9)]
    loader.expect([*wanted[:4], Request(999 * 8, 2, 8)])  # a guess that proves wrong
    for n, request in enumerate(wanted):
        if n == 4:
            loader.expect(wanted[4:7])
        assert torch.equal(loader.get(request).ids, source.batch(*request).ids)
    loader.close()


def test_an_error_in_a_loader_thread_reaches_the_training(tmp_path):
    loader = Loader(TokenWindows(dataset(tmp_path, 1000), 16, 1), 1)
    loader.expect([Request(0, 1, 12)])
    with pytest.raises(ValueError, match="cut for lengths"):
        loader.get(Request(0, 1, 12))
    loader.close()
