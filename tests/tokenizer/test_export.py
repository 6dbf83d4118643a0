"""The Hugging Face export gives the ids of our own kernels, and chats as congling.chat does."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from congling import chat
from congling.tokenizer.export import export
from congling.tokenizer.tokenizer import Tokenizer
from congling.tokenizer.vocabulary import SPECIALS, Vocabulary
from tokenizer.test_training import clean_stage, sentences, train

SEED = Path(__file__).parents[3] / "shared" / "seed" / "vocab_b_65544.txt"
tokenizers = pytest.importorskip("tokenizers")
ASCII = [chr(c) for c in range(0x20, 0x7F)]
MESSAGES = [
    {"role": "system", "content": "你是助手。"},
    {"role": "user", "content": "喜欢月亮吗？\n  a b"},
    {"role": "assistant", "content": "喜欢。"},
]


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("export")
    grams = [a + b for a in "甲乙丙丁戊己庚辛壬癸子丑寅卯辰巳午未申酉" for b in "东南西北中发白春夏秋冬梅兰竹菊"] * 2
    clean = clean_stage(folder / "clean", sentences(400) + grams + ["".join(grams[i : i + 4]) for i in range(500)])
    train(folder / "vocabulary", clean, vocab_size=1296, joining="any", min_count=1, max_piece_length=4)
    return Tokenizer.load(folder / "vocabulary")


@pytest.fixture(scope="module")
def theirs(ours, tmp_path_factory):
    files = export(ours, tmp_path_factory.mktemp("hf"))
    return tokenizers.Tokenizer.from_file(str(files[0]))


@settings(deadline=None, max_examples=300)
@given(st.text("小明喜欢月亮苹果，。ab 甲乙东南\n\t囍é😀0<x>", max_size=40) | st.text(max_size=20))
def test_same_ids_on_any_text(ours, theirs, text):
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    if any(name in text for name in SPECIALS):
        return
    ids = ours.encode(text)
    assert theirs.encode(text).ids == ids
    assert theirs.decode(ids) == text


def test_written_markers(ours, theirs):
    text = "<|im_start|>user<0x41><|pad|>"
    assert theirs.encode("<|im_start|>").ids == [ours.im_start_id]  # as everywhere in that library ...
    theirs.encode_special_tokens = True  # ... unless it is told otherwise
    assert theirs.encode(text).ids == ours.encode(text)
    assert min(ours.encode(text)) >= 16
    theirs.encode_special_tokens = False


@pytest.mark.filterwarnings("ignore")
def test_chat_template_round_trip(ours, tmp_path):
    transformers = pytest.importorskip("transformers")
    export(ours, tmp_path)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for prompt in (False, True):
        ids = loaded.apply_chat_template(MESSAGES, add_generation_prompt=prompt, tokenize=True)
        found = ids if isinstance(ids, list) else ids["input_ids"]
        assert found == chat.render(MESSAGES, ours, generation_prompt=prompt)[0]
    assert loaded.eos_token_id == ours.im_end_id
    assert loaded.pad_token_id == ours.pad_id
    assert loaded.decode(loaded("从零开始")["input_ids"]) == "从零开始"
    assert loaded("<|im_end|>", split_special_tokens=True)["input_ids"] == ours.encode("<|im_end|>")
    loaded.save_pretrained(tmp_path / "again")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
    assert again("喜欢月亮")["input_ids"] == ours.encode("喜欢月亮")


@pytest.mark.skipif(not SEED.exists(), reason="the seed's vocabulary is not here")
def test_the_seeds_vocabulary_where_nothing_is_uncovered(tmp_path):
    seed = Tokenizer.from_seed(SEED)
    theirs = tokenizers.Tokenizer.from_file(str(export(seed, tmp_path)[0]))
    for text in ("从零开始训练语言模型。", "A\r\n\t,", "中华人民共和国宪法，第一条", "hello 2024年"):
        assert min(seed.encode(text)) >= 256
        assert theirs.encode(text).ids == seed.encode(text)


def test_refused_in_one_line(ours, tmp_path):
    with pytest.raises(ValueError, match="format = sentencepiece: must be hf"):
        export(ours, tmp_path, "sentencepiece")
    (tmp_path / "thesis.doc").write_text("")
    with pytest.raises(ValueError, match=r"holds thesis\.doc"):
        export(ours, tmp_path)
    small = Tokenizer(Vocabulary("congling", ["从"], [-5], [1]))
    with pytest.raises(ValueError, match="no piece for"):
        export(small, tmp_path / "small")
    named = Tokenizer(Vocabulary("congling", [*ASCII, "<0x41>"], [-5] * 96, [1] * 96))
    with pytest.raises(ValueError, match="has a piece '<0x41>'"):
        export(named, tmp_path / "named")


def test_exported_twice_is_the_same(ours, tmp_path):
    first = [(path.name, path.read_bytes()) for path in export(ours, tmp_path / "a")]
    export(ours, tmp_path / "b")
    again = [(path.name, path.read_bytes()) for path in export(ours, tmp_path / "b")]
    assert first == again
    assert json.loads(first[0][1])["model"]["byte_fallback"]
