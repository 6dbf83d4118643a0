"""Fingerprints: what they see and do not see, estimates against exact similarity, files."""

import random

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from clean.duplicates.corpus import SHINGLE, jaccard, random_text
from congling.clean.duplicates.fingerprint import (
    PERMUTATIONS,
    fingerprint,
    load_fingerprints,
    load_hashes,
    save_fingerprints,
)


def prints(*texts, shingle=SHINGLE):
    return fingerprint(pa.array(texts, pa.large_string()), shingle)


def test_lengths_and_what_counts_as_a_letter():
    found = prints("你好，World！ 今天", "", "，。", "𠮷野屋é🙂")
    assert found.lengths.tolist() == [[12, 9], [0, 0], [2, 0], [5, 5]]
    assert found.hashes.shape == (4, 3)
    assert found.signatures.shape == (4, PERMUTATIONS)
    assert found.signatures.any(1).tolist() == [True, False, False, True]


@given(st.lists(st.text(max_size=40), max_size=5), st.text(max_size=60))
def test_a_fingerprint_is_that_of_the_text_alone(others, text):
    alone, among = prints(text), prints(*others, text)
    for name in ("hashes", "lengths", "signatures"):
        assert (getattr(alone, name)[0] == getattr(among, name)[-1]).all()


@given(st.text("春眠不觉晓ab", min_size=1, max_size=60), st.text("春眠不觉晓ab", min_size=1, max_size=60))
def test_equal_letters_equal_hash(one, other):
    found = prints(one, " ".join(one.upper()) + "。", other).hashes
    assert (found[0, :2] == found[1, :2]).all()
    assert found[0, 2] != found[1, 2]
    assert (found[0, :2] == found[2, :2]).any() == (one == other)


def test_hashes_of_similar_texts_differ():
    texts = {"的" * n for n in range(300)} | {"的" * n + "一" + "的" * (50 - n) for n in range(50)}
    found = prints(*texts).hashes
    assert all(len(np.unique(found[:, k])) == len(texts) for k in range(3))


def test_estimates_are_those_of_the_sets():
    rng = random.Random(1)
    base = random_text(rng, 400)
    texts = [base, *(base[:cut] + random_text(rng, 400 - cut) for cut in range(0, 400, 8))]
    signatures = prints(*texts).signatures
    share = (signatures == signatures[0]).mean(1)
    errors = (share - 1 / 256) / (1 - 1 / 256) - [jaccard(base, text) for text in texts]
    assert np.abs(errors).mean() < PERMUTATIONS**-0.5 / 2
    assert np.abs(errors).max() < 4 * 0.5 * PERMUTATIONS**-0.5


def test_saved_and_loaded(tmp_path):
    some, more = (
        prints("春眠不觉晓处处闻啼鸟", "夜来风雨声"),
        prints("花落知多少").spread(np.array([False, True, False])),
    )
    save_fingerprints(tmp_path / "00000-000", [some, more])
    found = load_fingerprints(tmp_path / "00000-000.parquet")
    assert found.lengths.tolist() == [[10, 10], [5, 5], [0, 0], [5, 5], [0, 0]]
    assert (found.signatures[:2] == some.signatures).all()
    assert (load_hashes(tmp_path / "00000-000.parquet")[3] == prints("花落知多少").hashes[0]).all()
    save_fingerprints(tmp_path / "none", [])
    assert load_fingerprints(tmp_path / "none.parquet").hashes.shape == (0, 3)
