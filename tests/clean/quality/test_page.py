"""The labelling page: what it lets in, decisions and undo, resuming, two annotators, uncertain first."""

import base64
import hashlib
import json
import re
import socket

import pytest
from fastapi.testclient import TestClient

from clean.quality.people import decision, texts, write_labels
from congling.clean.quality.config import LabelConfig
from congling.clean.quality.labels import LABELS, LabelError, append, read, text_hash
from congling.clean.quality.page import Desk, create_app, run_label
from congling.clean.quality.sample import Document
from congling.reporter import Reporter

CORPUS = "a/clean@0123"
EVIL = "<img src=x onerror=alert(1)></article><script>alert(2)</script>{{token}}"


class Page:
    """The page as a browser has it: its client knows the token."""

    def __init__(self, folder, documents, **config):
        self.config = LabelConfig(labels=str(folder / "labels.jsonl"), **config)
        self.documents = [Document(text, len(text), n, "源") for n, text in enumerate(documents)]
        self.desk = Desk(self.documents, CORPUS, self.config)
        self.http = TestClient(create_app(self.desk, self.config), base_url="http://127.0.0.1:8010")
        self.html = self.http.get("/")
        self.token = re.search('name="token" content="([^"]+)"', self.html.text)[1]
        self.http.headers["X-Token"] = self.token

    def state(self, annotator="甲", order="random"):
        return self.http.get("/api/state", params={"annotator": annotator, "order": order}).json()

    def decide(self, number, label, annotator="甲", **more):
        return self.http.post("/api/decide", json={"number": number, "label": label, "annotator": annotator, **more})

    def undo(self, annotator="甲"):
        return self.http.post("/api/undo", json={"annotator": annotator}).json()["number"]

    def document(self, number, annotator="甲"):
        return self.http.get(f"/api/document/{number}", params={"annotator": annotator}).json()


@pytest.fixture
def page(tmp_path):
    return Page(tmp_path, ["一篇", "两篇", "三篇", EVIL])


def test_decisions_are_written_with_all_that_training_needs(page):
    assert page.decide(1, "high", note="好").json() == {"decided": 1}
    [row] = read(page.desk._path)
    assert (row.text, row.hash, row.id, row.source) == ("两篇", text_hash("两篇"), 1, "源")
    assert (row.label, row.note, row.annotator, row.corpus) == ("high", "好", "甲", CORPUS)
    assert row.time > 1.7e9
    assert page.document(1) == {
        "number": 1, "text": "两篇", "characters": 2, "id": 1, "source": "源", "label": "high", "note": "好"
    }  # fmt: skip
    assert page.document(1, "乙")["label"] is None  # others' opinions are not shown


def test_progress_undo_and_resuming(page, tmp_path):
    for number, label in ((0, "high"), (2, "low"), (0, "mid")):
        page.decide(number, label)
    state = page.state()
    assert (state["total"], state["done"], state["queue"]) == (4, [2, 0], [1, 3])
    assert state["counts"] == {"low": 1, "mid": 1, "high": 0}
    again = Page(tmp_path, [d.text for d in page.documents])  # the server was stopped and started
    assert again.state() == state
    assert [again.undo(), again.undo(), again.undo()] == [0, 2, None]
    assert again.state()["queue"] == [0, 1, 2, 3]
    assert [row.label for row in read(page.desk._path)] == ["high", "low", "mid", None, None]


def test_two_annotators(page):
    for number, a, b in ((0, "high", "high"), (1, "high", "low"), (2, "mid", "low"), (3, "low", "low")):
        page.decide(number, a, note="为何" if number == 1 else "")
        if number < 3:
            page.decide(number, b, "乙")
    assert page.undo("乙") == 2
    page.decide(3, "low", "乙")
    [pair] = page.http.get("/api/agreement").json()
    assert (pair["first"], pair["second"], pair["both"]) == ("乙", "甲", 3)
    assert pair["share"] == pytest.approx(2 / 3)
    assert pair["kappa"] == pytest.approx((2 / 3 - 4 / 9) / (5 / 9))  # 1 high + 2 low against 2 high + 1 low
    [apart] = pair["disagreements"]
    assert apart == {"number": 1, "text": "两篇", "labels": ["low", "high"], "notes": ["", "为何"]}
    assert page.state()["annotators"] == ["乙", "甲"]


def test_what_another_page_writes_is_seen(page):
    append(page.desk._path, decision("三篇", "low", "乙", CORPUS))
    assert page.state("乙")["done"] == [2]
    with open(page.desk._path, "ab") as file:
        file.write(b"nonsense\n")
    reply = page.http.get("/api/state", params={"annotator": "乙"})
    assert reply.status_code == 409
    assert "labels.jsonl:2: not JSON" in reply.json()["detail"]


def test_only_our_own_page_gets_in(page):
    good = {"number": 0, "label": "high", "annotator": "甲"}
    for headers in ({"X-Token": ""}, {"X-Token": "x" * 32}, {"X-Token": "é".encode()}, {"Host": "evil.example"}):
        assert page.http.post("/api/decide", json=good, headers=headers).status_code == 403, headers
    assert page.http.get("/api/document/0", params={"annotator": "甲"}, headers={"X-Token": ""}).status_code == 403
    for host in ("evil.example:8010", "127.0.0.1.evil.example", "", "[::1", "evil@localhost.example"):
        assert page.http.get("/", headers={"Host": host}).status_code == 403, host
    for host in ("localhost:9", "[::1]:8010", "LOCALHOST"):
        assert page.http.get("/", headers={"Host": host}).status_code == 200, host
    # A form of another site can post only these kinds, without our header.
    assert page.http.post("/api/decide", content="{}", headers={"X-Token": ""}).status_code == 403
    assert not page.desk._path.exists()
    other = Page(page.desk._path.parent, ["一篇"])
    assert other.token != page.token


@pytest.mark.parametrize(
    "change",
    [
        {"label": "good"},
        {"label": None},
        {"number": -1},
        {"annotator": ""},
        {"annotator": "名" * 41},
        {"note": "长" * 2001},
        {"other": 1},
        {"note": "\ud800"},
    ],
)
def test_bad_bodies_write_nothing(page, change):
    body = json.dumps({"number": 0, "label": "high", "annotator": "甲", **change})
    reply = page.http.post("/api/decide", content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == 422
    assert "\n" not in reply.json()["detail"]
    assert not page.desk._path.exists()


def test_no_such_document_and_large_bodies(page):
    assert page.decide(4, "high").status_code == 404
    assert page.http.get("/api/document/9", params={"annotator": "甲"}).status_code == 404
    assert page.http.post("/api/decide", content=b"x" * 100_001).status_code == 413


def test_nothing_on_the_page_comes_from_elsewhere_or_can_be_smuggled_in(page, tmp_path):
    html, policy = page.html.text, page.html.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    for name in ("script", "style"):
        [inline] = re.findall(f"<{name}>(.*?)</{name}>", html, re.DOTALL)
        assert base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode() in policy
    assert "http://" not in html
    assert "https://" not in html
    assert "innerHTML" not in html
    assert not re.search(r"\son\w+=|\sstyle=", html)
    assert page.document(3)["text"] == EVIL  # as JSON; the page sets it as text
    named = Page(tmp_path, ["一"], annotator='"><script>')
    assert '"><script>' not in named.html.text


def test_uncertain_first_once_a_classifier_can_be_learned(tmp_path):
    documents, numbers = zip(*((t, n) for t, n in zip(*texts(90), strict=True) if n != 1), strict=True)
    page = Page(tmp_path, [*documents, "清晨的雾还没有散，点击领取红包，老人把船推进河里，加微信免费送"])
    for n in range(19):
        page.decide(n, LABELS[numbers[n]])
    state = page.state(order="uncertain")
    assert (state["uncertain"], state["queue"]) == (False, list(range(19, 61)))
    for n in range(19, 40):
        page.decide(n, LABELS[numbers[n]])
    state = page.state(order="uncertain")
    assert state["uncertain"]
    assert sorted(state["queue"]) == list(range(40, 61))
    assert 60 in state["queue"][:5]  # half of each
    assert page.state(order="uncertain") == state
    assert page.state()["queue"] == list(range(40, 61))


def test_labels_of_another_corpus_are_refused(tmp_path):
    write_labels(tmp_path / "labels.jsonl", 3, corpus="b/clean@9999")
    with pytest.raises(LabelError, match=r"b/clean@9999, this one is a/clean@0123"):
        Page(tmp_path, ["一篇"])


def test_a_taken_port_and_a_host_beyond_loopback_are_one_line(tmp_path):
    (tmp_path / "a.txt").write_text("一篇\n", encoding="utf-8")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port} at 127.0.0.1: .*; set label.port"):
            run_label(tmp_path, LabelConfig(port=port), Reporter(quiet=True))
    with pytest.raises(ValueError, match=r"host 0.0.0.0 can be reached by others"):
        LabelConfig(host="0.0.0.0")
