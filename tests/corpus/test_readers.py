import gzip
import json
import lzma
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from congling.corpus import streams
from congling.corpus.readers import find_files, read_documents, read_objects
from congling.corpus.streams import ReadError

UTF8 = st.characters(codec="utf-8")
TEXTS = ["从零开始", '第二篇，有"引号"和\\反斜杠', "a\tb", "最后一篇。"]


def texts(path, **options):
    return [t for b in read_documents(path, **options) for t in b["text"].to_pylist()]


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def as_lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def compress(kind, data):
    if kind == "zst":
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(data)
        return sink.getvalue().to_pybytes()
    return {"gz": gzip.compress, "xz": lzma.compress}[kind](data)


# -- what is read --------------------------------------------------------------------------------------------------


def test_every_form_gives_the_same_documents(tmp_path):
    rows = [{"id": 7, "content": t} for t in TEXTS]
    files = [
        write(tmp_path / "a.json", json.dumps(rows, ensure_ascii=False)),
        write(tmp_path / "indented.json", json.dumps(rows, indent=4)),
        write(tmp_path / "lines.json", as_lines(rows)),
        write(tmp_path / "a.jsonl", as_lines(rows)),
        write(tmp_path / "a.ndjson", as_lines(rows).replace("\n", "\r\n\r\n")),
        write(tmp_path / "bom.jsonl", "\ufeff" + as_lines(rows)),
        write(tmp_path / "bom.json", "\ufeff \n" + json.dumps(rows)),
        write(tmp_path / "a.txt", "\n\n".join(TEXTS)),
        write(tmp_path / "dos.txt", "\r\n".join(TEXTS) + "\r\n"),
        write(tmp_path / "gbk.txt", "\n".join(TEXTS).encode("gb18030")),
        write(tmp_path / "gbk.json", json.dumps(rows, ensure_ascii=False).encode("gb18030")),
        write(tmp_path / "wide.txt", "\n".join(TEXTS).encode("utf-16")),
        tmp_path / "a.parquet",
    ]
    pq.write_table(pa.table({"content": pa.array(TEXTS).dictionary_encode()}), files[-1])
    encodings = {"gbk.txt": "gb18030", "gbk.json": "gb18030", "wide.txt": "utf-16"}
    for file in files:
        batches = list(read_documents(file, encoding=encodings.get(file.name, "utf-8")))
        table = pa.Table.from_batches(batches)
        assert table["text"].to_pylist() == TEXTS, file.name
        assert table["id"].to_pylist() == [0, 1, 2, 3]
        assert set(table["source"].to_pylist()) == {file.name}


@pytest.mark.parametrize("kind", ["gz", "zst", "xz"])
def test_compressed_and_cut_off(tmp_path, kind):
    data = "\n".join(f"{i} {t}" for i in range(300) for t in TEXTS).encode()
    packed = compress(kind, data)
    assert texts(write(tmp_path / f"a.txt.{kind}", packed)) == data.decode().split("\n")
    assert texts(write(tmp_path / f"two.txt.{kind}", compress(kind, data + b"\n") + packed))[-1] == "299 " + TEXTS[-1]
    assert texts(write(tmp_path / f"empty.jsonl.{kind}", compress(kind, b""))) == []
    for damaged in (packed[: len(packed) // 2], packed[:-3], b"no such thing" * 9):
        with pytest.raises(ReadError, match=rf"damaged.txt.{kind}: damaged or cut off .{kind} file .*fetch it again"):
            texts(write(tmp_path / f"damaged.txt.{kind}", damaged))


@pytest.mark.parametrize("name", ["e.txt", "e.json", "e.jsonl"])
@pytest.mark.parametrize("data", [b"", b"\n\r\n\n", b"\xef\xbb\xbf"])
def test_empty_files_have_no_documents(tmp_path, name, data):
    assert texts(write(tmp_path / name, data)) == []


def test_empty_array_and_empty_parquet(tmp_path):
    assert texts(write(tmp_path / "e.json", "[ ]\n")) == []
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "e.parquet")
    assert texts(tmp_path / "e.parquet") == []


def test_first_key_present_wins_and_source_is_kept(tmp_path):
    rows = [{"content": "b", "text": "a"}, {"content": "c", "source": "wudao"}, {"text": "d", "source": 3}]
    [batch] = read_documents(write(tmp_path / "a.jsonl", as_lines(rows)))
    assert batch["text"].to_pylist() == ["a", "c", "d"]
    assert batch["source"].to_pylist() == ["a.jsonl", "wudao", "a.jsonl"]
    assert texts(tmp_path / "a.jsonl", text_key=("source", "content", "text"), on_reject=id)[:2] == ["b", "wudao"]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.text(UTF8, max_size=12), max_size=12), st.integers(1, 30), st.integers(1, 60))
def test_blocks_and_batches_do_not_change_what_is_read(tmp_path_factory, lines, block, batch):
    folder = tmp_path_factory.mktemp("blocks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "BLOCK_BYTES", block)
        rows = [{"text": t} for t in lines]
        assert texts(write(folder / "a.json", json.dumps(rows)), batch_bytes=batch) == lines
        assert texts(write(folder / "a.jsonl", as_lines(rows)), batch_bytes=batch) == lines
        plain = "\n".join(lines)
        expected = [t.removesuffix("\r") for t in plain.split("\n")]
        assert texts(write(folder / "a.txt", plain), batch_bytes=batch) == [t for t in expected if t]


def test_read_objects(tmp_path):
    rows = [{"a": 1}, {"b": [2]}]
    assert list(read_objects(write(tmp_path / "a.json", json.dumps(rows)))) == rows
    assert list(read_objects(write(tmp_path / "a.jsonl", as_lines(rows)))) == rows
    pq.write_table(pa.table({"a": [1, 2]}), tmp_path / "a.parquet")
    assert list(read_objects(tmp_path / "a.parquet")) == [{"a": 1}, {"a": 2}]
    with pytest.raises(ReadError, match=r"bad.jsonl:2: broken JSON"):
        list(read_objects(write(tmp_path / "bad.jsonl", '{"a": 1}\n{')))


# -- what is wrong -------------------------------------------------------------------------------------------------

GOOD = '{"text": "好"}'


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", f"{GOOD}\n\n{{broken\n", r"a.jsonl:3: broken JSON \(.*\); mend or delete the line"),
        ("a.jsonl", f"{GOOD}\n[1]\n", r"a.jsonl:2: broken JSON \(not an object\)"),
        ("a.json", f"[{GOOD},\n{{bad}}]", r"a.json:2 \(item 2\): broken JSON"),
        ("a.json", f"[{GOOD},\n7]", r"a.json:2 \(item 2\): .*not an object"),
        ("a.json", f"[{GOOD},\n{GOOD}", r"a.json:2 \(item 3\): .*cut off"),
        ("a.json", "7", r"a.json: not JSON: begins with '7'"),
        ("a.jsonl", f'{GOOD}\n{{"text": 7}}\n', r"a.jsonl:2: 'text' is not text but int"),
        ("a.jsonl", f'{GOOD}\n{{"title": "t"}}\n', r"a.jsonl:2: no text under 'text' or 'content' \(it has title\)"),
        ("a.json", f'[{GOOD}, {{"text": null}}]', r"a.json:1 \(item 2\): 'text' is not text but NoneType"),
        ("a.txt", "一\n二\n".encode() + b"\xe4\xb8\xe4\xb8\xad\xe6\x96\x87\n", r"a.txt:3: not UTF-8 at byte 0 .*mend"),
        ("a.jsonl", f"{GOOD}\n".encode() + b'{"text": "\xff"}', r"a.jsonl:2: not UTF-8 at byte 10 of the line"),
        ("a.json", b'[{"text": "\xff"}]', r"a.json:1 \(item 1\): not UTF-8 at byte 10 of the item"),
        ("a.txt", "第一行\n第二行".encode("gbk"), r"a.txt:1: .*reads as GB18030 \(GBK\): give encoding=gb18030"),
        ("a.json", '[{"text": "第一行"}]'.encode("gbk"), r"a.json:1 .*GB18030"),
        ("a.txt", "第一行".encode("utf-16"), r"a.txt: UTF-16 text; give encoding=utf-16"),
        ("a.parquet", b"PAR1 nothing", r"a.parquet: damaged or cut off"),
        ("a.csv", b"", r"a.csv: not a known kind of file; known are .json"),
    ],
)
def test_errors_are_one_line_with_place_and_advice(tmp_path, name, data, message):
    with pytest.raises(ReadError, match=message) as caught:
        texts(write(tmp_path / name, data))
    assert "\n" not in str(caught.value)


def test_wrong_encoding_names_are_errors(tmp_path):
    file = write(tmp_path / "a.txt", "一")
    with pytest.raises(ReadError, match="encoding 'klingon': unknown"):
        texts(file, encoding="klingon")
    with pytest.raises(ReadError, match=r"a.txt:1: not UTF-8"):  # as gb18030 it is cut off in a character
        texts(file, encoding="gb18030")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.txt", b"one\n\xff\xfe two\n\nthree\n"),
        ("a.jsonl", b'{"text": "one"}\n{"text": "\xff\xfe two"}\n\n{"text": "three"}\n'),
        ("a.json", b'[{"text": "one"},\n{"text": "\xff\xfe two"},\n\n{"text": "three"}]'),
    ],
)
def test_rejects_are_handed_over_and_the_rest_is_read(tmp_path, name, data):
    rejects = []
    file = write(tmp_path / name, data)
    [batch] = read_documents(file, on_reject=rejects.append)
    assert batch["text"].to_pylist() == ["one", "three"]
    assert batch["id"].to_pylist() == [0, 2]
    [reject] = rejects
    assert (reject.file, reject.line, reject.id, reject.reason) == (file, 2, 1, "bad_encoding")
    assert "\ufffd\ufffd two" in reject.text


def test_reasons_of_rejects(tmp_path):
    rejects = []
    data = f'[\n{GOOD},\n{{"text": "cut}},\n{GOOD},\n{{"title": "t"}},\n{{"text": 1, }},\n{GOOD}'
    assert texts(write(tmp_path / "a.json", data), on_reject=rejects.append) == ["好"] * 3
    assert [(r.line, r.reason) for r in rejects] == [(3, "bad_json"), (5, "no_text"), (6, "bad_json"), (7, "bad_json")]


@pytest.mark.parametrize("kind", ["gz", "zst", "xz"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json"])
def test_the_damaged_rest_of_a_file_is_a_reject_where_they_are_wanted(tmp_path, kind, name):
    lines = [f"{i} {os.urandom(20).hex()}" for i in range(20_000)]
    rows = [{"text": t} for t in lines]
    data = {"a.txt": "\n".join(lines), "a.jsonl": as_lines(rows), "a.json": json.dumps(rows)}[name].encode()
    packed = compress(kind, data)
    file = write(tmp_path / f"{name}.{kind}", packed[: len(packed) * 2 // 3])
    rejects = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "BLOCK_BYTES", 4096)
        found = texts(file, on_reject=rejects.append)
    assert found == lines[: len(found)]
    assert len(found) > 100
    assert "damaged_file" in {r.reason for r in rejects} <= {"damaged_file", "bad_json"}
    damage = next(r for r in rejects if r.reason == "damaged_file")
    assert "fetch it again" in damage.detail
    if name != "a.json":
        assert damage.line == len(found) + 1


def test_a_damaged_parquet_file_is_a_reject_where_they_are_wanted(tmp_path):
    rejects = []
    assert texts(write(tmp_path / "a.parquet", b"PAR1 nothing"), on_reject=rejects.append) == []
    assert [r.reason for r in rejects] == ["damaged_file"]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_huge_line_is_one_error_and_the_rest_is_read(tmp_path, monkeypatch, name):
    monkeypatch.setattr(streams, "MAX_RECORD_BYTES", 50_000)
    monkeypatch.setattr(streams, "BLOCK_BYTES", 4096)
    lines = ["one", "x" * 200_000, "three"]
    file = write(tmp_path / name, "\n".join(lines) if name == "a.txt" else as_lines([{"text": t} for t in lines]))
    with pytest.raises(ReadError, match=rf"{name}:2: .*more than 64 MiB without an end"):
        texts(file)
    rejects = []
    assert texts(file, on_reject=rejects.append) == ["one", "three"]
    assert [(r.line, r.reason) for r in rejects] == [(2, "too_large")]
    assert len(rejects[0].text) < 70_000


def test_nul_bytes_surrogates_and_line_ends(tmp_path):
    rows = b'{"text": "a\\u0000b"}\r\n{"text": "\\ud83d"}\r\n{"text": "c\x00d"}\r\n{"text": "e"}'
    rejects = []
    assert texts(write(tmp_path / "a.jsonl", rows), on_reject=rejects.append) == ["a\0b", "e"]
    assert [(r.line, r.reason) for r in rejects] == [(2, "bad_json"), (3, "bad_json")]
    assert "surrogate" in rejects[0].detail


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(UTF8, max_size=12), max_size=15), st.integers(1, 40), st.integers(1, 16))
def test_the_spans_of_a_file_hold_each_line_once(tmp_path_factory, lines, size, block):
    folder = tmp_path_factory.mktemp("spans")
    file = write(folder / "a.jsonl", as_lines([{"text": t} for t in lines]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "BLOCK_BYTES", block)
        assert [t for span in streams.split_file(file, size) for t in texts(file, span=span)] == lines


def test_a_bad_line_in_a_span_is_named_from_the_top_of_the_file(tmp_path):
    file = write(tmp_path / "a.jsonl", f"{GOOD}\n" * 100 + "{broken\n" + f"{GOOD}\n" * 100)
    assert streams.split_file(write(tmp_path / "a.jsonl.zst", b"")) == [None]
    spans = streams.split_file(file, 300)
    assert len(spans) > 5
    with pytest.raises(ReadError, match=r"a.jsonl:101: broken JSON"):
        [texts(file, span=span) for span in spans]


def test_a_wrong_key_is_an_error_or_every_record_is_a_reject(tmp_path):
    file = write(tmp_path / "a.jsonl", as_lines([{"body": "x"}] * 3))
    with pytest.raises(ReadError, match=r"a.jsonl:1: no text under 'text' or 'content' \(it has body\); give text_key"):
        texts(file)
    rejects = []
    assert texts(file, on_reject=rejects.append) == []  # one file of other things must not end a run over thousands
    assert [(r.line, r.reason) for r in rejects] == [(1, "no_text"), (2, "no_text"), (3, "no_text")]
    assert "give text_key" in rejects[0].detail


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_the_source_of_a_parquet_file_whatever_kind_of_text(tmp_path, kind):
    pq.write_table(pa.table({"text": ["甲"], "source": pa.array(["百科"]).cast(kind)}), tmp_path / "a.parquet")
    [batch] = read_documents(tmp_path / "a.parquet")
    assert batch["source"].to_pylist() == ["百科"]


def test_files_in_utf16_are_not_split(tmp_path):
    file = write(tmp_path / "a.txt", "上下\n左右\n" * 100)
    assert len(streams.split_file(file, 300)) > 1
    assert streams.split_file(file, 300, "utf-16-le") == [None]


def test_parquet_rejects_and_errors(tmp_path):
    bad = pa.array([b"one", None, b"\xff", b"four"], pa.large_binary()).view(pa.large_string())
    pq.write_table(pa.table({"text": bad, "source": ["s", None, "s", None]}), tmp_path / "a.parquet")
    rejects = []
    [batch] = read_documents(tmp_path / "a.parquet", on_reject=rejects.append)
    assert batch.to_pydict() == {"id": [0, 3], "text": ["one", "four"], "source": ["s", "a.parquet"]}
    assert [(r.line, r.reason) for r in rejects] == [(2, "no_text"), (3, "bad_encoding")]
    with pytest.raises(ReadError, match=r"a.parquet:2: the text is null"):
        texts(tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": [1]}), tmp_path / "b.parquet")
    with pytest.raises(ReadError, match="column 'text' is int64, not text"):
        texts(tmp_path / "b.parquet")
    with pytest.raises(ReadError, match=r"no column 'body' \(it has text\)"):
        texts(tmp_path / "b.parquet", text_key=("body",))


# -- which files ---------------------------------------------------------------------------------------------------


def test_find_files(tmp_path):
    names = ["b.txt", "a/c.jsonl", "a/deep/d.json.gz", "a/e.PARQUET", ".hidden/f.txt", "a/.g.txt", "a/notes.md"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [str(p.relative_to(tmp_path)) for p in find_files([tmp_path, tmp_path / "b.txt"])]
    assert found == ["a/c.jsonl", "a/deep/d.json.gz", "a/e.PARQUET", "b.txt"]
    assert find_files([f"{tmp_path}/**/*.json*"]) == [tmp_path / "a/c.jsonl", tmp_path / "a/deep/d.json.gz"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nothing.txt", "no such file or folder"),
        ("*.txt", "matches nothing"),
        ("*.md", "matches no input files"),
        ("a.md", "not a known kind of file"),
        ("folder", "no input files in this folder"),
    ],
)
def test_find_files_errors(tmp_path, path, message):
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.md").touch()
    with pytest.raises(ReadError, match=message):
        find_files([tmp_path / path])


def test_a_name_that_is_not_utf8_is_one_clear_line(tmp_path):
    with open(os.fsencode(tmp_path) + "/语料.txt".encode("gbk"), "wb") as file:
        file.write(b"x\n")
    with pytest.raises(ReadError, match=r"udcd3.*the name is not UTF-8 .*rename the file") as caught:
        find_files([tmp_path])
    assert str(caught.value).isascii()


def test_find_files_without_permission(tmp_path, monkeypatch):
    write(tmp_path / "a.txt", "x")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # tests may run as root
    with pytest.raises(ReadError, match=r"a.txt: no permission to read it"):
        find_files([tmp_path])
