"""Adverts found without a word list, and cut."""

import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from congling.clean.adverts import Boilerplate, read_list
from congling.clean.letters import NEWLINE, STOP, letters_of
from congling.clean.lines import hash_lines
from congling.clean.repeats import Phrases, find_repeats, save_sample

ADVERT = "长按识别下方二维码关注我们的公众号每天免费领取精品课程"
LINE = "上一篇：没有了　下一篇：返回首页查看更多内容"


def column(texts):
    return pa.array(texts, pa.large_string())


def prose(rng, size):
    """Sentences of characters drawn at random: nothing repeats."""
    letters = "".join(chr(rng.randrange(0x4E00, 0x9FA0)) for _ in range(size))
    return "".join(f"{letters[i : i + 17]}，{letters[i + 17 : i + 30]}。" for i in range(0, size, 30))


def found(tmp_path, texts, documents=8, parts=1):
    files = [tmp_path / f"{k}.sample.npy" for k in range(parts)]
    for k, file in enumerate(files):
        save_sample(file, [letters_of(column(part), STOP) for part in (texts[k::parts], [])])
    return find_repeats(files[::-1], documents, 16, 9)


def boilerplate(phrases, lines=()):
    hashes = np.unique(hash_lines(column(list(lines)), 4))
    return Boilerplate(Phrases(list(phrases), np.full(len(phrases), 9)), hashes, np.full(len(hashes), 9), 4, {})


def apply(found, text):
    return found.apply(text, letters_of(text, NEWLINE))


def test_a_planted_advert_is_found_whole(tmp_path):
    rng = random.Random(1)
    texts = [prose(rng, 300) + (f"\n【{ADVERT[:9]}】{ADVERT[9:]}！\n" if i % 5 == 0 else "") for i in range(100)]
    phrases = found(tmp_path, texts)
    assert phrases.texts == [ADVERT]
    assert phrases.documents.tolist() == [20]
    assert found(tmp_path, texts, documents=21).texts == []


def test_how_the_sample_is_divided_and_ordered_does_not_matter(tmp_path):
    rng = random.Random(2)
    adverts = [prose(rng, 60) for _ in range(4)]
    texts = [prose(rng, 400) + "\n" + rng.choice(adverts) + rng.choice(adverts) for _ in range(120)]
    one = found(tmp_path, texts)
    assert one.texts
    rng.shuffle(texts)
    many = found(tmp_path, texts, parts=5)
    assert many.texts == one.texts
    assert many.documents.tolist() == one.documents.tolist()


def test_a_document_counts_once(tmp_path):
    rng = random.Random(8)
    often = [prose(rng, 900) + (f"\n{ADVERT}\n" + prose(rng, 90)) * 9 for _ in range(7)]
    assert found(tmp_path, often, parts=7).texts == []
    phrases = found(tmp_path, [*often, f"{prose(rng, 900)}\n{ADVERT}"], parts=8)
    assert phrases.texts == [ADVERT]
    assert phrases.documents.tolist() == [8]


def test_adverts_with_a_part_in_common_are_divided_where_the_counts_differ(tmp_path):
    rng = random.Random(9)
    left, middle, right = (prose(rng, 30)[:17] for _ in range(3))
    texts = [f"{prose(rng, 300)}\n{left}{middle}{right}\n" for _ in range(20)]
    texts += [f"{prose(rng, 300)}\n{middle}\n" for _ in range(40)]
    phrases = dict(zip(*vars(found(tmp_path, texts)).values(), strict=True))
    assert phrases == {middle: 60, left + middle[:7]: 20, middle[-7:] + right: 20}


def test_a_phrase_that_stands_in_a_longer_one_is_left_out_unless_it_is_alone_as_well(tmp_path):
    rng = random.Random(10)
    texts = [f"{prose(rng, 300)}\n{ADVERT}\n" for _ in range(20)]
    more = [f"{prose(rng, 300)}\n{ADVERT}全部免费" for _ in range(16)]
    assert found(tmp_path, texts + more).texts == [ADVERT]
    assert found(tmp_path, texts[:4] + more).texts == [ADVERT + "全部免费"]


def test_more_grams_than_the_first_table_holds(tmp_path):
    rng = random.Random(3)
    advert = prose(rng, 6000).replace("。", "").replace("，", "")
    texts = [prose(rng, 20_000) + "\n" + advert for _ in range(8)]
    assert found(tmp_path, texts).texts == [advert]


def test_a_formula_within_sentences_of_their_own_is_no_advert(tmp_path):
    rng = random.Random(4)
    formula = "直接负责的主管人员和其他直接责任人员"
    texts = [f"{prose(rng, 300)}{prose(rng, 15)[:-1]}对{formula}处{prose(rng, 15)}" for _ in range(60)]
    assert found(tmp_path, texts).texts == []


def test_documents_made_from_one_mould_are_no_adverts(tmp_path):
    rng = random.Random(5)
    mould = [prose(rng, 30) for _ in range(10)]
    texts = ["".join(m + prose(rng, 30) for m in mould) for _ in range(30)]
    assert found(tmp_path, texts).texts == []


def test_text_without_chinese_and_empty_samples(tmp_path):
    rng = random.Random(6)
    code = "import warnings; warnings.filterwarnings('ignore')"
    assert found(tmp_path, [f"{prose(rng, 300)}\n{code}" for _ in range(30)]).texts == []
    assert found(tmp_path, []).texts == []
    assert find_repeats([tmp_path / "0.sample.npy"], 8, 16, 9).texts == []


def test_lines_go_and_what_is_around_stays():
    rng = random.Random(7)
    one, two = prose(rng, 60), prose(rng, 60)
    text = column([f"{one}\n\n{LINE}\n\n> {ADVERT[:9]}，{ADVERT[9:]}！！\n\n{two}", f"{one}\n{ADVERT}\n\n", two])
    cut = apply(boilerplate([ADVERT], [LINE]), text)
    assert cut.text.to_pylist() == [f"{one}\n\n{two}", one, two]
    assert cut.hits.tolist() == [2, 1, 0]
    assert cut.first_hit.tolist() == [0, 0, -1]
    assert cut.changed.tolist() == [True, True, False]
    before, after = text.to_pylist(), cut.text.to_pylist()
    assert cut.cut_characters.tolist() == [len(a) - len(b) for a, b in zip(before, after, strict=True)]


def test_of_a_paragraph_only_the_sentence_goes():
    text = f"正文的第一句话说了些什么。欢迎{ADVERT}！”正文的第二句话，又说了些什么。\n下一段。"
    cut = apply(boilerplate([ADVERT]), column([text]))
    assert cut.text.to_pylist() == ["正文的第一句话说了些什么。正文的第二句话，又说了些什么。\n下一段。"]


def test_a_sentence_that_only_mentions_it_stays_but_is_a_hit():
    text = f"他写道{ADVERT}，可是谁也没有理会这样一句在街头巷尾随处可见的广告词，大家只是匆匆忙忙地走了过去。"
    cut = apply(boilerplate([ADVERT, "匆匆忙忙地走了"]), column([text]))
    assert cut.text.to_pylist() == [text]
    assert cut.hits.tolist() == [2]
    assert not cut.changed.any()


def test_a_phrase_within_a_longer_one_is_no_second_hit():
    cut = apply(boilerplate([ADVERT[4:14], ADVERT]), column([ADVERT, ADVERT[2:]]))
    assert cut.hits.tolist() == [1, 1]
    assert cut.first_hit.tolist() == [1, 0]


def test_nothing_found_is_the_very_array():
    text = column(["一", "二二"])
    for nothing in (boilerplate([]), boilerplate([ADVERT], [LINE])):
        assert apply(nothing, text).text is text
    assert len(apply(boilerplate([ADVERT]), column([])).text) == 0
    piece = column(["前", ADVERT, "后"]).slice(1)
    assert apply(boilerplate([ADVERT]), piece).text.to_pylist() == ["", "后"]


@settings(deadline=None)
@given(st.lists(st.text(alphabet="广告语在此。，\nx😀 ", max_size=60), max_size=5))
def test_what_is_left_was_there_and_nothing_else_changes(texts):
    cut = apply(boilerplate(["广告语", "在此广告"], ["语在此在"]), column(texts))
    cut.text.validate(full=True)
    for before, after, lost, changed in zip(texts, cut.text.to_pylist(), cut.cut_characters, cut.changed, strict=True):
        rest = iter(before)
        assert all(c in rest for c in after)  # a subsequence
        assert len(before) - len(after) == lost
        assert changed == (before != after)
    assert np.array_equal(cut.hits > 0, cut.first_hit >= 0)


def test_saved_loaded_listed_edited_and_given_back(tmp_path):
    made = boilerplate([ADVERT, "另一条广告语"], [LINE])
    made = Boilerplate(made.phrases, made.lines, made.line_documents, made.line_letters, {0: LINE})
    made.save(tmp_path / "b.npz")
    loaded = Boilerplate.load(tmp_path / "b.npz")
    assert loaded.describe(column([f"{LINE}\n{ADVERT}"])) == f"{ADVERT}; {LINE}"
    assert loaded.describe(column(["没有"])) == ""
    assert "9 documents" in boilerplate([], [LINE]).name(0)
    loaded.save_list(tmp_path / "adverts.tsv")
    rows = [row.split("\t") for row in (tmp_path / "adverts.tsv").read_text(encoding="utf-8").splitlines()]
    assert rows[0] == ["kind", "documents", "harm", "text"]
    assert [row[3] for row in rows[1:]] == [ADVERT, LINE, "另一条广告语"]
    given_back = read_list(tmp_path / "adverts.tsv")
    assert given_back.texts == [ADVERT, LINE, "另一条广告语"]
    assert given_back.documents.tolist() == [9, 9, 9]
    (tmp_path / "mine.txt").write_text(f"\ufeff{ADVERT}\n\n点击关注\n", encoding="utf-8")
    assert read_list(tmp_path / "mine.txt").texts == [ADVERT, "点击关注"]
    empty = boilerplate([])
    empty.save(tmp_path / "e.npz")
    assert apply(Boilerplate.load(tmp_path / "e.npz"), column([ADVERT])).hits.tolist() == [0]


def test_a_bad_list_is_one_clear_line(tmp_path):
    (tmp_path / "bad.txt").write_text("好的广告\n！！\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"advert_list = '.*bad.txt': the phrase '！！' has no letters"):
        read_list(tmp_path / "bad.txt")
    with pytest.raises(ValueError, match=r"advert_list = .*No such file"):
        read_list(tmp_path / "none.txt")
    (tmp_path / "gbk.txt").write_bytes("广告".encode("gbk"))
    with pytest.raises(ValueError, match=r"advert_list = .*utf-8"):
        read_list(tmp_path / "gbk.txt")
