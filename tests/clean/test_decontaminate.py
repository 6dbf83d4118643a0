"""Evaluation sets found in documents."""

import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from congling.clean.decontaminate import EvalGrams
from congling.clean.letters import NEWLINE, letters_of
from congling.corpus.streams import ReadError


def column(texts):
    return pa.array(texts, pa.large_string())


def prose(rng, size):
    return "".join(chr(rng.randrange(0x4E00, 0x9FA0)) for _ in range(size))


def grams(tmp_path, items, gram=16, name="e.jsonl"):
    (tmp_path / name).write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return EvalGrams.build([tmp_path / name], gram)


def find(evals, *texts):
    overlap, item = evals.find(letters_of(column(list(texts)), NEWLINE))
    return overlap.tolist(), [evals.names[i] if i >= 0 else None for i in item.tolist()]


def test_a_copied_item_is_found_wherever_it_begins_and_whatever_stands_between(tmp_path):
    rng = random.Random(1)
    items = [{"question": prose(rng, 40), "choices": [prose(rng, 20), prose(rng, 3)], "n": 1} for _ in range(30)]
    evals = grams(tmp_path, items)
    texts = []
    for k, item in enumerate(items):
        asked = "，".join([item["question"][:13], item["question"][13:]])
        texts.append(prose(rng, k) + asked + "？\n A. " + item["choices"][0] + prose(rng, 50))
    overlap, names = find(evals, *texts)
    assert names == [f"e.jsonl:{k + 1}" for k in range(30)]
    assert overlap == [60] * 30
    assert find(evals, *(prose(rng, 500) for _ in range(50))) == ([0] * 50, [None] * 50)


def test_a_quotation_is_overlap_but_no_leak(tmp_path):
    rng = random.Random(2)
    verse, question = prose(rng, 20), prose(rng, 60)
    evals = grams(tmp_path, [{"question": verse + question}])
    assert find(evals, prose(rng, 99) + verse + prose(rng, 99)) == ([20], [None])
    assert find(evals, verse + question[:20]) == ([40], ["e.jsonl:1"])
    # the same piece again and again is not more of the item
    assert find(evals, (verse + "，完了") * 9) == ([20], [None])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(alphabet="一二三四五六七八", min_size=8, max_size=40), min_size=1, max_size=4), st.data())
def test_no_run_of_gram_letters_is_missed_and_no_shorter_one_counts(tmp_path_factory, items, data):
    evals = grams(tmp_path_factory.mktemp("e"), [{"q": item} for item in items], gram=10)
    source = data.draw(st.sampled_from(items))
    begin = data.draw(st.integers(0, len(source) - 1))
    text = "甲乙" + source[begin : begin + 20] + "丙"
    [overlap], _ = find(evals, text)
    runs = {text[i : i + 10] for i in range(len(text) - 9)}
    shared = any(run in item and _says_something(item, run) for run in runs for item in items)
    assert overlap >= 10 if shared else overlap == 0 or any(run in item for run in runs for item in items)


def _says_something(item, run):
    """Each seed of 7 letters in the run has four different ones."""
    return all(len(set(run[i : i + 7])) >= 4 for i in range(4))


def test_of_two_items_the_one_that_is_there_more_fully(tmp_path):
    rng = random.Random(3)
    shared, mine, other = prose(rng, 40), prose(rng, 60), prose(rng, 60)
    evals = grams(tmp_path, [{"q": shared + other}, {"q": shared + mine}])
    assert find(evals, shared + mine) == ([100], ["e.jsonl:2"])


def test_documents_of_a_batch_and_batches_do_not_see_each_other(tmp_path):
    rng = random.Random(7)
    items = [prose(rng, 60) for _ in range(3)]
    evals = grams(tmp_path, [{"q": item} for item in items])
    texts = [items[0][:20], "", items[0], items[0][20:40], items[1][:30] + "。" + items[2], "甲", items[0][:16]]
    together = find(evals, *texts)
    assert together == ([20, 0, 60, 20, 60, 0, 16], [None, None, "e.jsonl:1", None, "e.jsonl:3", None, None])
    one_by_one = [find(evals, text) for text in texts]
    assert together == ([overlap for [overlap], _ in one_by_one], [name for _, [name] in one_by_one])


def test_the_wording_of_a_task_and_babble_say_nothing(tmp_path):
    rng = random.Random(4)
    task = "以下是单项选择题请直接给出正确答案的选项"
    items = [{"instruction": task, "question": task + prose(rng, 30), "tag": "哈" * 30} for _ in range(70)]
    evals = grams(tmp_path, items)
    assert find(evals, task * 3 + "哈" * 200) == ([0], [None])
    assert find(evals, items[5]["question"][20:])[1] == ["e.jsonl:6"]
    few = grams(tmp_path, [{"q": "哈" * 50 + "呵" * 50}])
    assert find(few, "哈" * 50 + "呵" * 50) == ([0], [None])


def test_latin_letters_count_a_quarter(tmp_path):
    evals = grams(tmp_path, [{"q": "若overrightarrow与boldsymbol平行则必有下列哪一个等式成立"}])
    assert find(evals, "overrightarrow与boldsymbol") == ([7], [None])
    assert find(evals, "若overrightarrow与boldsymbol平行则必有下列哪一个等式成立")[1] == ["e.jsonl:1"]


def test_items_too_short_to_look_for_are_counted(tmp_path):
    rng = random.Random(5)
    evals = grams(
        tmp_path, [{"q": prose(rng, 15)}, {"q": prose(rng, 16)}, {"id": 7}, {"q": ["", {"a": prose(rng, 40)}]}]
    )
    assert evals.too_short == 2
    assert len(evals.names) == 4
    assert find(grams(tmp_path, []), "什么") == ([0], [None])


def test_files_of_all_kinds_saved_and_loaded(tmp_path):
    rng = random.Random(6)
    one, two, three = (prose(rng, 40) for _ in range(3))
    (tmp_path / "a.json").write_text(json.dumps([{"q": one}]), encoding="utf-8")
    pq.write_table(pa.table({"q": [two], "n": [1]}), tmp_path / "b.parquet")
    (tmp_path / "c.txt").write_text(f"一行\n{three}\n", encoding="utf-8")
    evals = EvalGrams.build([tmp_path], 16)
    evals.save(tmp_path / "evals.npz")
    for made in (evals, EvalGrams.load(tmp_path / "evals.npz")):
        assert find(made, one, two, three, "无") == ([40, 40, 40, 0], ["a.json:1", "b.parquet:1", "c.txt:2", None])
        assert made.too_short == 1
    with pytest.raises(ReadError, match="no such file"):
        EvalGrams.build([tmp_path / "none.json"], 16)
