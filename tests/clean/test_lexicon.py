"""The user's list of words: reading it, and finding the words against slow Python."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from congling.clean.lexicon import count_words, read_words


def _found(text, *words):
    counts, first = count_words(pa.array([text], pa.large_string()), words)
    return int(counts[0]), int(first[0])


def _slow(text, words):
    """(count, first): at each place the longest word, whole as to ASCII."""
    folded = "".join(c.lower() if c.isascii() else c for c in text)
    wanted = [("".join(c.lower() if c.isascii() else c for c in word), w) for w, word in enumerate(words)]
    count, first, i, last = 0, -1, 0, 0

    def joined(k):  # ASCII letters or digits on both sides of k
        return last < k < len(text) and all(c.isascii() and c.isalnum() for c in text[k - 1 : k + 1])

    while i < len(text):
        here = [(len(word), -w) for word, w in wanted if folded.startswith(word, i)]
        here = [] if joined(i) else [(n, w) for n, w in here if not joined(i + n)]
        if here:
            length, w = max(here)
            count, first = count + 1, -w if first < 0 else first
            i = last = i + length
        else:
            i += 1
    return count, first


LETTERS = st.sampled_from("甲乙丙aAb1é😀 ，")


@given(
    st.lists(st.text(LETTERS, max_size=30), max_size=5),
    st.lists(st.text(LETTERS, min_size=1, max_size=5), min_size=1, max_size=8),
)
@settings(max_examples=400, deadline=None)
def test_finds_what_slow_python_finds(texts, words):
    counts, first = count_words(pa.array(texts, pa.large_string()), words)
    assert list(zip(counts.tolist(), first.tolist(), strict=True)) == [_slow(text, words) for text in texts]


def test_by_hand():
    assert _found("加微信领红包，加微信", "红包", "加微信") == (3, 1)
    assert _found("北京大学生", "北京", "北京大学", "大学生") == (1, 1)  # the longest, and on behind it
    assert _found("Essex sex SEX性sex1", "sex") == (2, 0)
    assert _found("好", "好") == (1, 0)
    assert _found("", "好") == (0, -1)
    assert _found("没有", "好") == (0, -1)


def test_many_words_and_documents():
    words = tuple(chr(0x4E00 + k // 100) + chr(0x6000 + k % 100) + "词" * (k % 4) for k in range(10_000))
    texts = [f"，{word}。" for word in words]
    counts, first = count_words(pa.array(["前", *texts], pa.large_string())[1:], words)
    assert counts.tolist() == [1] * len(words)
    assert first.tolist() == list(range(len(words)))


def test_reads_words(tmp_path):
    path = tmp_path / "words.txt"
    path.write_bytes("\ufeff# 广告\r\n加微信\r\n\r\n  红 包 \n加微信\nC#\n".encode())
    assert read_words(path) == ("加微信", "红 包", "C#")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"# \xe5\xa5\xbd\n\n", r"words\.txt: no words"),
        (b"", r"words\.txt: no words"),
        ("好\n坏".encode("gb18030"), r"words\.txt, line 1: not UTF-8"),
        (b"a\nb\xff\n", r"words\.txt, line 2: not UTF-8"),
    ],
)
def test_says_what_is_wrong_with_a_file(tmp_path, content, message):
    (tmp_path / "words.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_words(tmp_path / "words.txt")
