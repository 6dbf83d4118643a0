"""Which documents are drawn for labelling."""

import json
import random

import pytest

from congling.clean.quality import sample
from congling.clean.quality.config import LabelConfig
from congling.clean.quality.sample import SHOWN, draw
from congling.corpus.documents import make_batch
from congling.corpus.shards import ShardWriter
from congling.reporter import Reporter

QUIET = Reporter(quiet=True)


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def drawn(corpus, **config):
    return draw(corpus, LabelConfig(**config), QUIET)


@pytest.fixture
def raw(tmp_path):
    rows = [{"text": f"大站第{n}篇", "source": "大"} for n in range(500)]
    rows += [{"text": f"小站第{n}篇", "source": "小"} for n in range(30)]
    rows += [{"text": "独一篇", "source": "独"}, {"text": " \n"}, {"text": "大站第7篇", "source": "大"}]
    write(tmp_path / "raw" / "a.jsonl", rows)
    return tmp_path / "raw"


def test_evenly_by_source_and_each_text_once(raw):
    _, found = drawn(raw, documents=41)
    sources = [d.source for d in found]
    assert {s: sources.count(s) for s in set(sources)} == {"大": 20, "小": 20, "独": 1}
    assert len({d.text for d in found}) == 41
    assert sources != sorted(sources)
    assert len(drawn(raw, documents=1000)[1]) == 531


def test_the_order_of_the_corpus_does_not_matter_and_the_seed_does(raw, tmp_path, monkeypatch):
    rows = [json.loads(line) for line in (raw / "a.jsonl").read_text(encoding="utf-8").splitlines()]
    random.Random(0).shuffle(rows)
    write(tmp_path / "other" / "z.jsonl", rows)
    texts = [d.text for d in drawn(raw, documents=50)[1]]
    assert [d.text for d in drawn(tmp_path / "other", documents=50)[1]] == texts
    assert [d.text for d in drawn(raw, documents=50, seed=2)[1]] != texts
    assert sorted(texts) != sorted(d.text for d in drawn(raw, documents=50, seed=2)[1])


def test_a_pruned_pool_draws_what_a_whole_one_does(raw):
    pools = [sample._Pool(20, 1), sample._Pool(20, 1)]
    texts = [f"{n}" for n in range(4000)]
    batch = make_batch(texts, [f"源{n % 7}" for n in range(4000)])
    for pool in pools:
        pool.add(batch)
        pool._size = 20
    whole = sample._Pool(10_000, 1)
    whole.add(batch)
    whole._size = 20
    assert pools[0].drawn() == whole.drawn()


def test_long_texts_are_cut_and_their_length_told(tmp_path):
    write(tmp_path / "a.jsonl", [{"text": "长" * (SHOWN + 5)}])
    [found] = drawn(tmp_path / "a.jsonl")[1]
    assert (len(found.text), found.characters, found.source) == (SHOWN, SHOWN + 5, "a.jsonl")


def test_clean_stage_and_run_folder_are_the_same_corpus(tmp_path):
    clean = tmp_path / "run" / "clean"
    with ShardWriter(clean, "corpus") as writer:
        writer.write(make_batch(["一篇", "又一篇"], "源"))
    with ShardWriter(clean, "rejects") as writer:
        writer.write(make_batch(["不要的"], "源"))
    name, found = drawn(clean)
    assert drawn(tmp_path / "run") == (name, found)
    assert {d.text for d in found} == {"一篇", "又一篇"}
    assert name.startswith("run/clean@")


def test_the_fingerprint_is_that_of_the_texts_not_of_the_place(raw, tmp_path):
    name = drawn(raw)[0]
    moved = raw.rename(tmp_path / "moved")
    again = drawn(moved)[0]
    assert again != name
    assert again.partition("@")[2] == name.partition("@")[2]
    write(moved / "b.jsonl", [{"text": "新的"}])
    assert drawn(moved)[0].partition("@")[2] != name.partition("@")[2]


def test_a_large_corpus_is_not_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(sample, "_FILES", 3)
    for n in range(6):
        write(tmp_path / f"{n}.jsonl", [{"text": f"{n} {m}"} for m in range(5)])
    assert len({d.source for d in drawn(tmp_path)[1]}) == 3
    monkeypatch.setattr(sample, "_BYTES", 1)
    assert len(drawn(tmp_path)[1]) == 15  # one batch a file


def test_errors_are_one_line(tmp_path):
    write(tmp_path / "empty" / "a.jsonl", [{"text": " "}])
    with pytest.raises(ValueError, match=r"empty: no documents with text in 1 files"):
        drawn(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"nothing: no such file or folder"):
        drawn(tmp_path / "nothing")


def test_broken_records_are_told_and_passed_over(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text('{"text": "好"}\n{"text\n', encoding="utf-8")
    _, found = draw(tmp_path, LabelConfig(), Reporter())
    assert [d.text for d in found] == ["好"]
    assert "1 records could not be read, the first at" in capsys.readouterr().err
