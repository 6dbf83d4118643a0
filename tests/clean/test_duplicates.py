"""Fingerprints and clusters, against brute force over the sets of shingles."""

import io
import random

import numpy as np
import pyarrow as pa
import pytest

from congling.clean.duplicates import find_duplicates, rows_per_band
from congling.clean.minhash import PERMUTATIONS, Fingerprints, fingerprint
from congling.reporter import Reporter

SHINGLE = 5


def _find(texts, jaccard=0.8):
    prints = fingerprint(pa.array(texts, pa.large_string()), SHINGLE)
    return find_duplicates(prints, jaccard, Reporter(io.StringIO(), quiet=True))


def _text(rng, length):
    return "".join(chr(rng.randrange(0x4E00, 0x9000)) for _ in range(length))


def _edited(rng, text, edits):
    chars = list(text)
    for place in rng.sample(range(len(chars)), edits):
        chars[place] = chr(rng.randrange(0x4E00, 0x9000))
    return "".join(chars)


def _jaccard(one, other):
    a, b = ({t[i : i + SHINGLE] for i in range(len(t) - SHINGLE + 1)} for t in (one, other))
    return len(a & b) / len(a | b)


def test_exact_duplicates_ignore_space_punctuation_and_case():
    texts = ["你好，World！今天", "你好 world 今天。", "你好world 今夭", "……", "。", "……"]
    found = _find(texts)
    assert found.kept.tolist() == [1, 1, 2, 3, 4, 3]  # the longest stays
    assert found.exact.tolist() == [True, False, False, False, False, True]


def test_a_short_document_has_exact_duplicates_only():
    long = "春眠不觉晓处处闻啼鸟夜来风雨声花落知多少"
    assert _find([long, long[:-1], long[:9], long[:9]], jaccard=0.3).kept.tolist() == [0, 0, 2, 2]


def test_estimates_are_those_of_the_sets():
    rng = random.Random(1)
    texts = [_text(rng, 400)]
    texts += [_edited(rng, texts[0], edits) for edits in range(0, 60, 2)]
    signatures = fingerprint(pa.array(texts, pa.large_string()), SHINGLE).signatures
    errors = []
    for text, signature in zip(texts, signatures, strict=True):
        equal = (signature == signatures[0]).mean()
        errors.append((equal - 1 / 256) / (1 - 1 / 256) - _jaccard(texts[0], text))
    assert np.abs(errors).max() < 0.13  # three standard errors
    assert abs(np.mean(errors)) < 0.03


def test_planted_near_duplicates_against_brute_force():
    rng = random.Random(2)
    texts = []
    for _ in range(120):
        base = _text(rng, rng.randrange(120, 400))
        texts += [base, _edited(rng, base, len(base) // 80), _edited(rng, base, len(base) // 12)]
    alike = {(i, j): _jaccard(texts[i], texts[j]) for i in range(len(texts)) for j in range(i) if i // 3 == j // 3}
    found = _find(texts).kept
    joined = {pair for pair in alike if found[pair[0]] == found[pair[1]]}
    assert all(found[i] // 3 == i // 3 for i in range(len(texts)))  # unrelated documents are never joined
    surely = {pair for pair, j in alike.items() if j >= 0.88}  # 0.8 and two standard errors: what must be found
    surely_not = {pair for pair, j in alike.items() if j <= 0.7}
    assert len(surely) > 80
    assert len(surely_not) > 80
    assert len(joined & surely) >= 0.99 * len(surely)
    assert len(joined & surely_not) <= 0.01 * len(joined)


def test_the_choice_does_not_depend_on_the_order():
    rng = random.Random(3)
    texts = []
    for _ in range(60):
        base = _text(rng, 200)
        texts += [base, base[:190], _edited(rng, base, 1), base + "。", "，".join(base)]
    kept = {texts[i] for i in _find(texts).kept}
    assert len(kept) == 60
    assert kept == {t for t in texts if "，" in t}
    for seed in range(3):
        shuffled = random.Random(seed).sample(texts, len(texts))
        assert {shuffled[i] for i in _find(shuffled).kept} == kept


def test_many_copies_of_a_boilerplate_are_one_cluster():
    rng = random.Random(4)
    base = _text(rng, 300)
    found = _find([_edited(rng, base, 1) for _ in range(300)])
    assert len(set(found.kept.tolist())) == 1
    assert found.similarity.min() > 0.8


@pytest.mark.parametrize("jaccard", [0.3, 0.5, 0.8, 0.9, 1.0])
def test_bands_find_a_pair_at_the_threshold(jaccard):
    rows = rows_per_band(jaccard)
    assert 1 - (1 - jaccard**rows) ** (PERMUTATIONS // rows) >= 0.99


def test_no_documents():
    assert len(_find([]).kept) == 0
    assert isinstance(fingerprint(pa.array([], pa.large_string()), 5), Fingerprints)
