"""The hub is played by a small local server that speaks the routes which the library uses."""

import hashlib
import io
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

import pytest

from congling.corpus.fetch.hub import HubSet
from congling.corpus.fetch.packages import FetchError
from congling.corpus.fetch.run import fetch_hub
from congling.reporter import Reporter

REVISION = "0123456789abcdef0123456789abcdef01234567"
BIG = b"".join(json.dumps({"text": f"document {i}"}).encode() + b"\n" for i in range(60_000))
FILES = {
    "README.md": b"# data",
    "data/big.jsonl": BIG,
    "data/small.txt": "一\n二\n".encode(),
    "sft-full.json": json.dumps([{"instruction": "问", "output": "答"}, {"instruction": "无"}]).encode(),
}


def file_row(name, data):
    row = {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
    if len(data) > 1000:  # as the hub does for large files
        row["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 100}
    return row


class Hub(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.answer(head=True)

    def do_GET(self):
        self.answer(head=False)

    def answer(self, head):
        path = unquote(urlparse(self.path).path)
        self.server.requests.append((self.command, path, self.headers.get("Range")))
        if "gated" in path:
            return self.reply(403, b"{}", {"X-Error-Code": "GatedRepo"}, head)
        if "/owner/set" not in path:
            return self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"}, head)
        if path.startswith("/api/datasets/owner/set/tree/"):
            rows = [file_row(name, data) for name, data in FILES.items()]
            return self.reply(200, json.dumps(rows).encode(), {"Content-Type": "application/json"}, head)
        if path.startswith("/api/datasets/owner/set"):
            body = json.dumps({"id": "owner/set", "sha": REVISION, "siblings": []}).encode()
            return self.reply(200, body, {"Content-Type": "application/json"}, head)
        name = path.partition(f"/resolve/{REVISION}/")[2]
        return self.send_file(FILES[name], head)

    def send_file(self, data, head):
        headers = {"X-Repo-Commit": REVISION, "ETag": f'"{hashlib.sha1(data).hexdigest()}"', "Accept-Ranges": "bytes"}
        start = int((self.headers.get("Range") or "bytes=0-")[6:].split("-")[0])
        code = 206 if self.headers.get("Range") else 200
        if code == 206:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self.reply(code, data[start:], headers, head, cut=self.server.cut if len(data) > 1000 else None)

    def reply(self, code, body, headers, head, cut=None):
        self.send_response(code)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if not head:
            self.wfile.write(body[:cut])
            self.wfile.flush()
        if cut is not None and not head:
            self.close_connection = True

    def log_message(self, *args):
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.requests, server.cut = [], None
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{server.server_port}"
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """The library waits seconds before it tries again; a test does not."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def fetch(tmp_path, wanted, server):
    folder = tmp_path / "stage"
    folder.mkdir(exist_ok=True)
    quiet = Reporter(io.StringIO(), quiet=True)
    return folder, fetch_hub(folder, quiet, wanted, tmp_path / "cache", server.url)


def test_documents_are_brought_as_they_are(tmp_path, hub):
    folder, summary = fetch(tmp_path, HubSet("owner/set", files=("data/*",)), hub)
    assert (folder / "corpus/data/big.jsonl").read_bytes() == BIG
    assert summary["revision"] == REVISION
    assert summary["files"] == {
        "corpus/data/big.jsonl": {"bytes": len(BIG)},
        "corpus/data/small.txt": {"bytes": len(FILES["data/small.txt"])},
    }
    assert sorted(p.name for p in folder.rglob("*") if p.is_file()) == ["big.jsonl", "revision.json", "small.txt"]


def test_an_interrupted_download_goes_on(tmp_path, hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1 << 16)
    wanted = HubSet("owner/set", files=("data/big*",))
    hub.cut = 300_000
    with monkeypatch.context() as patch:  # the library goes on by itself; the process is killed before that
        patch.setattr(time, "sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetch(tmp_path, wanted, hub)
    [part] = (tmp_path / "stage/corpus/data").iterdir()
    arrived = part.stat().st_size
    assert part.name == ".big.jsonl.part"
    assert 0 < arrived <= 300_000
    hub.cut = None
    folder, _ = fetch(tmp_path, wanted, hub)
    assert (folder / "corpus/data/big.jsonl").read_bytes() == BIG
    ranges = [r for _, path, r in hub.requests if path.endswith("big.jsonl")]
    assert ranges == [None, f"bytes={arrived}-"]
    fetch(tmp_path, wanted, hub)
    assert len([r for _, path, r in hub.requests if path.endswith("big.jsonl")]) == 2


def test_a_dropped_connection_is_taken_up_again(tmp_path, hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1 << 16)
    hub.cut = 300_000
    folder, _ = fetch(tmp_path, HubSet("owner/set", files=("data/big*",)), hub)
    assert (folder / "corpus/data/big.jsonl").read_bytes() == BIG


def test_a_damaged_part_is_not_used(tmp_path, hub):
    part = tmp_path / "stage/corpus/data/.big.jsonl.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 1000)
    wanted = HubSet("owner/set", files=("data/big*",))
    with pytest.raises(FetchError, match=r"data/big.jsonl: arrived damaged and was deleted"):
        fetch(tmp_path, wanted, hub)
    folder, _ = fetch(tmp_path, wanted, hub)
    assert (folder / "corpus/data/big.jsonl").read_bytes() == BIG


def interrupt(seconds):
    raise KeyboardInterrupt


def test_conversations_are_converted(tmp_path, hub):
    folder, summary = fetch(tmp_path, HubSet("owner/set", "dialogues", ("*-full.json",)), hub)
    rows = [json.loads(line) for line in (folder / "dialogues/sft-full.jsonl").read_bytes().splitlines()]
    assert rows == [{"conversations": [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}]}]
    assert summary["skipped_conversations"] == 1
    with pytest.raises(FetchError, match=r"big.jsonl: no conversations of a known form \(its records have text\)"):
        fetch(tmp_path, HubSet("owner/set", "dialogues", ("data/big*",)), hub)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (HubSet("owner/gated"), "owner/gated: gated; accept its terms"),
        (HubSet("owner/none"), "owner/none: no such data set on the hub, or it is private"),
        (HubSet("owner/set", files=("*.zip",)), r"no file matching \*.zip; it has README.md, data/big.jsonl"),
    ],
)
def test_errors_are_one_line(tmp_path, hub, wanted, message):
    with pytest.raises(FetchError, match=message) as caught:
        fetch(tmp_path, wanted, hub)
    assert "\n" not in str(caught.value)


def test_no_network(tmp_path, hub):
    hub.url = "http://127.0.0.1:9"
    with pytest.raises(FetchError, match=r"owner/set: cannot be fetched .*check the network") as caught:
        fetch(tmp_path, HubSet("owner/set"), hub)
    assert "\n" not in str(caught.value)
