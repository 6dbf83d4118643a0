"""The search, against brute force over sets of shingles; order, workers, slices and interruptions change nothing."""

import random

import numpy as np
import pytest

from clean.duplicates.corpus import edited, jaccard, random_text, search
from congling.clean.duplicates import bands, clusters, groups
from congling.clean.duplicates import search as module
from congling.clean.duplicates.bands import band_shape


def planted(seed, families, shortest=60):
    """Families of four: a text, and copies from equal to hardly half alike."""
    rng, texts = random.Random(seed), []
    for _ in range(families):
        base = random_text(rng, rng.randrange(shortest, 400))
        texts += [base, *(edited(rng, base, rng.randrange(2 + len(base) // 25)) for _ in range(3))]
    return texts


def kept_texts(found, texts):
    return {texts[row] for row in found.kept}


def test_exact_duplicates_ignore_space_punctuation_and_case(tmp_path):
    texts = ["你好，World！今天", "你好 world 今天。", "你好world 今夭", "……", "。", "……"]
    found = search(tmp_path, texts)
    assert found.kept.tolist() == [1, 1, 2, 3, 4, 3]  # the longest stays
    assert found.exact.tolist() == [True, False, False, False, False, True]
    assert found.similarity.tolist() == [1] * 6


def test_what_is_dropped_already_stands_for_nothing(tmp_path):
    text = "春眠不觉晓处处闻啼鸟夜来风雨声花落知多少"
    found = search(tmp_path, [text + "。", text, text, text[:-1]], alive=[False, True, True, True])
    assert found.kept.tolist() == [0, 1, 1, 1]
    assert found.exact.tolist() == [False, False, True, False]
    assert found.similarity.tolist() == pytest.approx([1, 1, 1, 15 / 16])


def test_an_exact_duplicate_stands_for_the_one_that_its_twin_stands_for(tmp_path):
    rng = random.Random(1)
    base = random_text(rng, 100)
    found = search(tmp_path, [base[:95], base[:95], base])
    assert found.kept.tolist() == [2, 2, 2]
    assert found.exact.tolist() == [False, True, False]
    assert found.similarity.tolist() == pytest.approx([91 / 96, 91 / 96, 1])


def test_short_documents_are_compared_as_well(tmp_path):
    poem = "春眠不觉晓处处闻啼鸟夜来风雨声花落知多少"
    assert search(tmp_path, [poem, poem[:-1], poem[:9], poem[:9], poem[:4], poem[:4]]).kept.tolist() == [
        0,
        0,
        2,
        2,
        4,
        4,
    ]


def test_planted_near_duplicates_against_brute_force(tmp_path):
    texts = planted(2, 500, shortest=12)
    found = search(tmp_path, texts)
    gone = found.kept != np.arange(len(texts))
    near = [(i, j) for i in range(len(texts)) for j in range(i // 4 * 4, i) if jaccard(texts[i], texts[j]) >= 0.8]
    assert len(near) > 700
    assert np.mean([gone[i] or gone[j] for i, j in near]) >= 0.99
    for i in np.flatnonzero(gone):
        alike = jaccard(texts[i], texts[found.kept[i]])
        assert alike >= 0.8
        assert found.similarity[i] == pytest.approx(alike)
        assert found.kept[found.kept[i]] == found.kept[i]


def test_a_chain_is_not_a_cluster(tmp_path):
    rng = random.Random(3)
    base = random_text(rng, 300)
    chain = [base[start : start + 200] for start in range(0, 90, 10)]  # a neighbour is 0.9 alike, the next but one 0.82
    found = search(tmp_path, chain)
    kept = sorted(set(found.kept.tolist()))
    assert len(kept) > 1
    assert all(jaccard(chain[i], chain[found.kept[i]]) >= 0.8 for i in range(len(chain)))
    assert all(jaccard(chain[i], chain[j]) < 0.8 for i in kept for j in kept if i != j)


def test_many_copies_of_a_boilerplate_are_one_cluster(tmp_path):
    rng = random.Random(4)
    base = random_text(rng, 300)
    copies = [base[:i] + random_text(rng, 1) + base[i + 1 :] for i in range(300)]
    found = search(tmp_path, copies)
    assert len(set(found.kept.tolist())) == 1
    assert found.similarity.min() > 0.9


def test_order_parts_workers_and_memory_do_not_change_what_stays(tmp_path):
    texts = planted(5, 60)
    texts += [text + "。" for text in texts[::7]]
    kept = kept_texts(search(tmp_path / "whole", texts), texts)
    assert 60 <= len(kept) < len(texts)
    for number, options in enumerate(({}, {"parts": 7}, {"parts": 3, "workers": 2}, {"parts": 2, "memory": 1 << 13})):
        shuffled = random.Random(number).sample(texts, len(texts))
        found = search(tmp_path / str(number), shuffled, **options)
        assert kept_texts(found, shuffled) == kept


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        (groups, "_settle", 1),
        (groups, "_rank", 1),
        (bands, "_alike", 9),
        (clusters, "_split_pairs", 1),
        (clusters, "_read_rows", 2),
        (clusters, "_load_sets", 1),
        (module, "_save", 1),
        (np, "save", 5),
    ],
)
def test_an_interrupted_search_goes_on_to_the_same_end(tmp_path, monkeypatch, owner, name, call):
    texts, calls, original = planted(6, 40), [], getattr(owner, name)
    whole = search(tmp_path / "whole", texts, parts=3)

    def interrupted(*args, **kwargs):
        calls.append(args)
        if len(calls) == call:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(
            "clean.duplicates.corpus.write_parts", lambda *_: sorted((tmp_path / "whole/parts").glob("*.parquet"))
        )
        patch.setattr(owner, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            search(tmp_path, texts, parts=3)
        files = [p for p in tmp_path.glob("search/work/*") if p.match("*-*[0-9y]") or p.stem == "leader"]
        before = {p: p.stat().st_mtime_ns for p in files if not p.match("bucket-*")}
        patch.setattr(owner, name, original)
        patch.setattr("pathlib.Path.unlink", lambda *_, **__: None)
        again = search(tmp_path, texts, parts=3)
        assert {p: p.stat().st_mtime_ns for p in before} == before
    for field in ("kept", "exact", "similarity"):
        assert (getattr(again, field) == getattr(whole, field)).all()


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.9, 1.0])
def test_bands_find_a_pair_at_the_threshold(threshold):
    rows, count = band_shape(threshold)
    assert rows * count <= 128
    assert 1 - (1 - threshold**rows) ** count >= 0.995


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.95, 1.0])
def test_other_thresholds(tmp_path, threshold):
    texts = planted(7, 40)
    found = search(tmp_path, texts, threshold)
    gone = found.kept != np.arange(len(texts))
    near = [(i, j) for i in range(len(texts)) for j in range(i // 4 * 4, i) if jaccard(texts[i], texts[j]) >= threshold]
    assert np.mean([gone[i] or gone[j] for i, j in near]) >= 0.98
    assert all(jaccard(texts[i], texts[found.kept[i]]) >= threshold for i in np.flatnonzero(gone))


@pytest.mark.parametrize("texts", [[], ["短"], ["短", "短"]])
def test_few_documents(tmp_path, texts):
    assert search(tmp_path, texts).kept.tolist() == [0] * len(texts)
