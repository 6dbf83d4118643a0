"""The best segmentations against all there are; coverage, usage and fertility by hand; broken files."""

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from congling.reporter import Metrics
from congling.tokenizer.inspect import (
    character_sets,
    coverage,
    fertility,
    inspect,
    parts,
    paths,
    read_domains,
    rounds,
    usage,
)
from congling.tokenizer.tokenizer import Tokenizer
from congling.tokenizer.trie import BYTE_SCORE, SCALE
from congling.tokenizer.vocabulary import Vocabulary

LETTERS = "甲乙é😀"


def make(scores: dict[str, int], counts: list[int] | None = None) -> Tokenizer:
    return Tokenizer(Vocabulary("congling", list(scores), list(scores.values()), counts or [1] * len(scores)))


def all_cuts(text: str, scores: dict[str, int]) -> list[tuple[int, list[str]]]:
    """Every way to cut the text, with its score."""
    if not text:
        return [(0, [])]
    found = []
    for size in range(1, len(text) + 1):
        last = text[-size:]
        score = scores.get(last, BYTE_SCORE * len(last.encode()) if size == 1 else None)
        if score is not None:
            found += [(before + score, [*cut, last]) for before, cut in all_cuts(text[:-size], scores)]
    return found


@settings(deadline=None, max_examples=150)
@given(
    st.dictionaries(st.text(LETTERS, min_size=1, max_size=5), st.integers(-4, -1), min_size=1, max_size=12),
    st.text(LETTERS, max_size=7),
    st.integers(1, 6),
)
def test_paths_are_the_best_of_all(scores, text, best):
    tokenizer = make(scores)
    found = paths(tokenizer, text, best)
    # the largest score first; then the longest last token, the longest before it, …
    expected = sorted(all_cuts(text, scores), key=lambda c: (-c[0], [-len(piece) for piece in reversed(c[1])]))[:best]
    assert [round(path.nats * SCALE) for path in found] == [score for score, _ in expected]
    assert [[t.id for t in path.tokens] for path in found] == [
        [i for piece in cut for i in (tokenizer.encode(piece) if piece not in scores else [number(tokenizer, piece)])]
        for _, cut in expected
    ]
    assert [t.id for t in found[0].tokens] == tokenizer.encode(text)
    assert b"".join(t.raw for t in found[-1].tokens).decode() == text
    assert all(text[t.begin : t.begin + len(t.text)] == t.text for path in found for t in path.tokens)
    assert [path.margin for path in found] == pytest.approx([found[0].nats - path.nats for path in found])


def number(tokenizer: Tokenizer, piece: str) -> int:
    return tokenizer.vocabulary.first_id + tokenizer.vocabulary.pieces.index(piece)


def test_margins_and_counts_by_hand():
    tokenizer = make({"甲": -SCALE, "乙": -SCALE, "甲乙": -SCALE * 3 // 2, "丙": -SCALE}, [5, 4, 3, 2])
    pair, alone, first, second = paths(tokenizer, "甲乙丙é")[0].tokens
    assert (pair.text, pair.nats, pair.margin, pair.count, pair.begin) == ("甲乙", -1.5, 0.5, 3, 0)
    assert (alone.margin, alone.begin) == (None, 2)
    assert (first.raw, first.text, first.nats, first.begin, second.raw) == (b"\xc3", "", -30, 3, b"\xa9")
    assert [len(path.tokens) for path in paths(tokenizer, "甲乙")] == [1, 2]
    assert paths(tokenizer, "")[0].tokens == []


def test_half_of_a_surrogate_pair():
    tokenizer = make({"甲": -1})
    assert [t.id for t in paths(tokenizer, "甲\ud800")[0].tokens] == tokenizer.encode("甲\ud800")
    assert inspect(tokenizer, "\ud800")[-1] == "3 tokens, 1.00 bytes a token"


def test_the_seeds_kind_shows_the_way_taken(tmp_path):
    file = tmp_path / "vocab.txt"
    file.write_text("甲\t5\n乙\t4\n甲乙\t3\n", encoding="utf-8")
    tokenizer = Tokenizer.from_seed(file)
    (path,) = paths(tokenizer, "甲乙é甲")
    assert [t.id for t in path.tokens] == tokenizer.encode("甲乙é甲")
    assert [(t.text, t.begin) for t in path.tokens][-1] == ("甲", 3)
    assert inspect(tokenizer, "é")[0].split() == ["60", "-", "-", "<0xC3>"]


@settings(deadline=None)
@given(st.text("甲。！”. \n", max_size=60), st.integers(1, 12))
def test_parts_join_to_the_text(text, most):
    found = parts(text, most)
    assert "".join(found) == text
    assert all(0 < len(part) <= most for part in found)


def test_parts_end_behind_lines_and_sentences():
    assert parts("短\n文", 300) == ["短\n文"]
    assert parts("一行\n“第一句。”第二句！", 7) == ["一行\n", "“第一句。”", "第二句！"]
    assert parts("") == []


def test_coverage_by_hand():
    found = {c.name: c for c in coverage(make({"一": -1, "丁七": -1, "a": -1}))}
    assert {name: c.total for name, c in found.items() if name != "common"} == {
        "gb2312_1": 3755,
        "gb2312_2": 3008,
        "cjk": 20992,
        "ascii": 95,
    }
    assert (found["gb2312_1"].own, set(found["gb2312_1"].inside)) == (1, set("丁七"))
    assert len(found["gb2312_1"].missing) == 3755 - 3
    assert len(found["ascii"].missing) == 94
    assert "啊" in found["gb2312_1"].missing


def test_common_characters_come_from_a_package_if_it_is_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "pypinyin_dict.pinyin_data", None)
    monkeypatch.delitem(sys.modules, "pypinyin_dict.pinyin_data.ktghz2013", raising=False)
    assert character_sets()["common"] == ""
    assert next(c for c in coverage(make({"一": -1})) if c.name == "common").total == 0


def test_common_characters():
    pytest.importorskip("pypinyin_dict.pinyin_data.ktghz2013")
    assert len(set(character_sets()["common"])) == 8105


def test_usage():
    tokenizer = make(dict.fromkeys(["甲", "乙", "甲乙", "丙"], -1), [9, 4, 4, 1])
    found = {u.length: u for u in usage(tokenizer.vocabulary, 2)}
    assert {length: u.pieces for length, u in found.items()} == {0: 4, 1: 3, 2: 1}
    assert [(p.piece, p.count, p.id) for p in found[0].most] == [("甲", 9, 272), ("乙", 4, 273)]
    assert [p.piece for p in found[0].least] == ["丙", "甲乙"]


def test_fertility_by_hand():
    tokenizer = make({"甲乙": -1, "丙a": -1, "b": -1})
    (found,) = fertility(tokenizer, {"x": ["甲乙丙a", "龘𠮷bé"]})
    # 甲乙 · 丙a · 龘 of 3 bytes · 𠮷 of 4 · b · é of 2
    assert (found.domain, found.documents, found.bytes, found.characters, found.tokens) == ("x", 2, 20, 8, 12)
    assert found.byte_tokens == 9
    assert found.tokens_per_han == pytest.approx((1 + 0.5 + 3 + 4) / 5)
    assert (found.bytes_per_token, found.characters_per_token) == (20 / 12, 8 / 12)
    assert fertility(tokenizer, {"y": ["b"]})[0].tokens_per_han is None
    assert fertility(tokenizer, {"z": []})[0].bytes_per_token == 0


def test_domains_from_files(tmp_path):
    (tmp_path / "prose.txt").write_text("一\n\n二\n三\n", encoding="utf-8")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "prose.jsonl").write_text('{"text": "四"}\n', encoding="utf-8")
    found = read_domains([tmp_path / "prose.txt", tmp_path / "more" / "prose.jsonl"])
    assert [(d.documents, d.cut) for d in found.values()] == [(["一", "二", "三"], False), (["四"], False)]
    assert list(found) == ["prose", str(tmp_path / "more" / "prose.jsonl")]
    (cut,) = read_domains([tmp_path / "prose.txt"], 4).values()
    assert (cut.documents, cut.cut) == (["一", "二"], True)


@pytest.mark.parametrize("text", ['{"text": "一"}\n{"text": \n', '{"text": "一"}\n{"other": 1}\n'])
def test_a_broken_file_is_named_with_its_line(tmp_path, text):
    file = tmp_path / "x.jsonl"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"x\.jsonl.*2"):
        read_domains([file])
    with pytest.raises(ValueError, match=r"x\.docx"):
        read_domains([tmp_path / "x.docx"])


def test_rounds(tmp_path):
    assert rounds(tmp_path) == []
    metrics = Metrics(tmp_path / "metrics.jsonl")
    metrics.write("other", step=1)
    metrics.write("round", step=1, pieces=3)
    assert [row["pieces"] for row in rounds(tmp_path)] == [3]
