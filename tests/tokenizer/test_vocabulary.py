"""The vocabulary file: exact round trip, and one line for everything malformed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from congling.tokenizer import vocabulary
from congling.tokenizer.tokenizer import Tokenizer
from congling.tokenizer.vocabulary import Vocabulary, escape, read, unescape, write

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=16)
SMALL = Vocabulary("congling", ["\n", " ", "\\n", "从零"], [-1_234_567, 0, -29_999_999, -1], [12, 9, 9, 0])


@settings(deadline=None, max_examples=30)
@given(st.dictionaries(TEXT, st.tuples(st.integers(-29_999_999, 0), st.integers(0, 2**63 - 1)), max_size=20))
def test_comes_back_exactly(tmp_path_factory, rows):
    file = tmp_path_factory.mktemp("v") / "vocabulary.txt"
    before = Vocabulary("congling", list(rows), [s for s, _ in rows.values()], [c for _, c in rows.values()])
    write(before, file)
    assert read(file) == before


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_an_escaped_piece_is_one_field(text):
    assert unescape(escape(text)) == text
    assert len(f"a{escape(text)}a".splitlines()) == 1
    assert "\t" not in escape(text)


def test_people_can_read_it(tmp_path):
    file = tmp_path / "vocabulary.txt"
    write(SMALL, file)
    lines = file.read_text("utf-8").split("\n")
    assert lines[:5] == [
        "# congling vocabulary 1", "# kind congling", "# size 276", "0\t<|pad|>\t0\t0", "1\t<|endoftext|>\t0\t0"
    ]  # fmt: skip
    assert lines[3 + 16] == "16\t<0x00>\t0\t0"
    assert lines[3 + 272 :] == [
        "272\t\\n\t-1.234567\t12",
        "273\t \t0.000000\t9",
        "274\t\\\\n\t-29.999999\t9",
        "275\t从零\t-0.000001\t0",
        "",
    ]


def test_a_saved_tokenizer_is_the_same(tmp_path):
    file = Tokenizer(SMALL).save(tmp_path / "new")
    assert file == tmp_path / "new" / "vocabulary.txt"
    for path in (file, tmp_path / "new", str(tmp_path / "new")):
        again = Tokenizer.load(path)
        assert again.vocabulary == SMALL
        assert again.encode("从零\n") == [275, 272]
    again.save(tmp_path / "copy.txt")
    assert (tmp_path / "copy.txt").read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("line", "becomes", "message"),
    [
        (1, "# congling vocabulary 2", ":1: expected '# congling vocabulary 1'"),
        (2, "# kind other", ":2: expected '# kind congling'"),
        (3, "# size 277", ":3: expected '# size 276'"),
        (4, "0\t<|PAD|>\t0\t0", ":4: expected id 0, <|pad|>"),
        (20, "16\t<0x01>\t0\t0", ":20: expected id 16, <0x00>"),
        (276, "272\t\\n\t-1.234567", ":276: expected id, piece, score, count"),
        (276, "273\t\\n\t-1.234567\t12", ":276: expected id 272, found '273'"),
        (276, "272\t\\n\t-1.2\t12", ":276: score '-1.2'"),
        (276, "272\t\\n\tnan\t12", ":276: score 'nan'"),
        (276, "272\t\\n\t1.000000\t12", ":276: score '1.000000'"),
        (276, "272\t\\n\t-30.000000\t12", ":276: score '-30.000000'"),
        (276, "272\t\\n\t-1.234567\t-12", ":276: count '-12'"),
        (276, "272\t\\n\t-1.234567\t١", ":276: count '١'"),
        (276, "272\t\\x\t-1.234567\t12", ":276: piece '\\\\x' has a backslash"),
        (276, "272\t\\ud800\t-1.234567\t12", ":276: piece '\\\\ud800' is half"),
        (276, "272\t\\U00110000\t-1.234567\t12", "has a backslash"),
        (276, "272\t\t-1.234567\t12", ":276: piece '' must have"),
        (276, f"272\t{'从' * 17}\t-1.234567\t12", "must have 1 … 16 characters"),
        (276, "272\t从零\t-1.234567\t12", ":279: piece '从零' is there twice"),
        (277, "", ":277: expected id, piece, score, count"),
    ],
)
def test_one_line_for_what_is_malformed(tmp_path, line, becomes, message):
    file = tmp_path / "vocabulary.txt"
    write(SMALL, file)
    lines = file.read_text("utf-8").split("\n")
    lines[line - 1] = becomes
    file.write_text("\n".join(lines), "utf-8")
    with pytest.raises(ValueError) as error:
        read(file)
    assert message in str(error.value)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("keep", [0, 10, 60, 3000, -1, -20])
def test_a_cut_file_is_refused(tmp_path, keep):
    file = tmp_path / "vocabulary.txt"
    write(SMALL, file)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"vocabulary\.txt:\d+: |not UTF-8"):
        read(file)


def test_missing_or_binary(tmp_path):
    with pytest.raises(ValueError, match="no such vocabulary"):
        Tokenizer.load(tmp_path)
    (tmp_path / "vocabulary.txt").write_bytes(b"\xff\x00")
    with pytest.raises(ValueError, match="not UTF-8 at byte 0"):
        Tokenizer.load(tmp_path)


def test_reserved_places():
    assert len(vocabulary.SPECIALS) == 16
    assert vocabulary.SPECIALS[4] == "<|reserved_4|>"
    assert vocabulary.FIRST_PIECE == 272
