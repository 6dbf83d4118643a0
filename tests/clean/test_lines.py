"""Lines that stand in many documents."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from congling.clean import lines
from congling.clean.lines import find_lines, frequent_lines, hash_lines, save_hashes

LINE = st.text(alphabet="甲乙丙，a ", min_size=0, max_size=8)


def column(texts):
    return pa.array(texts, pa.large_string())


def key(line):
    return "".join(c for c in line if c not in "， ")


def is_line(line, least):
    return sum(c in "甲乙丙" for c in line) >= least


@settings(deadline=None)
@given(st.lists(st.lists(LINE, max_size=6).map("\n".join), max_size=6))
def test_a_line_counts_once_a_document_and_only_its_letters_count(texts):
    wanted = Counter(k for text in texts for k in {key(x) for x in text.split("\n") if is_line(x, 3)})
    hashes, counts = np.unique(hash_lines(column(texts), 3), return_counts=True)
    assert sorted(wanted.values()) == sorted(counts.tolist())
    for line, count in wanted.items():
        [h] = hash_lines(column([line]), 3)
        assert counts[hashes == h] == [count]


def test_lines_with_few_chinese_letters_are_left_out():
    texts = ["import numpy as np\n点击关注我们\n点击\n</div>", "http://a.b/c?关注"]
    assert len(hash_lines(column(texts), 3)) == 1
    assert len(hash_lines(column([]), 3)) == 0


@pytest.mark.parametrize("at_once", [1 << 24, 100, 7])
def test_parts_are_merged_in_any_order_and_in_any_number_of_stretches(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(lines, "_AT_ONCE", at_once)
    rng = np.random.default_rng(1)
    parts = [rng.choice(200, 300).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) for _ in range(4)]
    files = [tmp_path / f"{k}.npy" for k in range(5)]
    for file, part in zip(files, [*parts, np.empty(0, np.uint64)], strict=True):
        save_hashes(file, np.array_split(part, 3))
    all_hashes, counts = np.unique(np.concatenate(parts), return_counts=True)
    for order in (files, files[::-1]):
        found, documents = frequent_lines(order, 8)
        assert found.tolist() == all_hashes[counts >= 8].tolist()
        assert documents.tolist() == counts[counts >= 8].tolist()
    assert len(frequent_lines([], 8)[0]) == 0


def test_the_text_of_lines_is_found_again():
    text = column(["没有\n这一行不是的", "好\n > 点击，上方 蓝字关注我们 \n完", "点击上方蓝字关注我们"])
    wanted = np.sort(hash_lines(column(["点击上方蓝字关注我们", "哪里都没有的一行"]), 5))
    found = find_lines(text, wanted, 5)
    assert list(found.values()) == ["> 点击，上方 蓝字关注我们"]
    [place] = found
    assert wanted[place] == hash_lines(column(["点击上方蓝字关注我们"]), 5)[0]
