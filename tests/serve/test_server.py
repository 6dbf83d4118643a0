"""Over real sockets: queue, disconnects, ports, and the page in a browser."""

import http.client
import io
import json
import queue
import shutil
import socket
import subprocess
import threading
import time
from contextlib import closing, contextmanager

import pytest
import uvicorn
from fastapi import Request
from fastapi.responses import HTMLResponse
from fastapi.testclient import TestClient

from congling.infer.model import Model
from congling.reporter import Reporter
from congling.serve.app import create_app
from congling.serve.config import ServeConfig
from congling.serve.run import run
from serve.fake_model import FakeModel

BODY = {"messages": [{"role": "user", "content": "你好"}], "max_tokens": 500}


@contextmanager
def served(model, probe="", found=None, **config):
    """Runs the server in a thread and yields its port. ``/probe`` is the chat page with the script ``probe``, which
    posts to ``/found`` what it saw."""
    app = create_app(model, ServeConfig(**config))
    page = TestClient(app).get("/").text.replace("</body>", probe)
    app.get("/probe")(lambda: HTMLResponse(page))

    @app.post("/found")
    async def take(request: Request):
        found.put(await request.body())

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_until(lambda: server.started)
            yield listener.getsockname()[1]
        finally:
            model.gate.set()
            server.should_exit = True
            thread.join(10)


def wait_until(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not come to pass"
        time.sleep(0.005)


def ask(port, **body):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    text = json.dumps({**BODY, **body})
    connection.request("POST", "/v1/chat/completions", text, {"Content-Type": "application/json"})
    return connection


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_slot_within_a_token(monkeypatch, stream):
    model = FakeModel(forever=True).install(monkeypatch)
    with served(model, max_concurrent=1, max_waiting=0) as port:
        model.gate.clear()
        connection = ask(port, stream=stream)
        if stream:
            connection.getresponse().fp.readline()
        wait_until(lambda: model.seen is not None)
        connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()
        time.sleep(0.05)
        made = model.made
        model.gate.set()
        wait_until(lambda: model.closed == 1)
        assert model.made - made <= 2  # the one that was held up, and one that had begun
        model.forever = False
        with closing(ask(port)) as again:  # the only slot is free
            assert again.getresponse().status == 200


def test_a_full_queue_turns_requests_away(monkeypatch):
    model = FakeModel().install(monkeypatch)
    with served(model, max_concurrent=1, max_waiting=1) as port:
        model.gate.clear()
        connections = [ask(port, stream=i % 2 == 0) for i in range(6)]
        time.sleep(0.3)
        model.gate.set()
        replies = [c.getresponse() for c in connections]
        texts = [r.read().decode() for r in replies]
        assert sorted(r.status for r in replies) == [200, 200, 429, 429, 429, 429]
        assert all(
            "busy" in json.loads(t)["error"]["message"] for r, t in zip(replies, texts, strict=True) if r.status == 429
        )
        with closing(ask(port)) as again:
            assert again.getresponse().status == 200
        for connection in connections:
            connection.close()


def test_answers_at_the_same_time_do_not_mix(monkeypatch):
    model = FakeModel(answer="一二三四五六七八九十" * 5).install(monkeypatch)
    with served(model, max_concurrent=4) as port:
        connections = [ask(port) for _ in range(8)]
        answers = [json.loads(c.getresponse().read()) for c in connections]
        for connection in connections:
            connection.close()
    assert {a["choices"][0]["message"]["content"] for a in answers} == {model.answer}
    assert len({a["id"] for a in answers}) == 8


def test_a_taken_port_is_one_clear_line(monkeypatch, tmp_path):
    monkeypatch.setattr(Model, "load", lambda folder: FakeModel())
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"port {port} at 127\.0\.0\.1: .*in use; set serve\.port"):
            run(tmp_path, ServeConfig(port=port), Reporter(io.StringIO()))


PROBE = """<script>
addEventListener("load", async () => {
  const $ = id => document.getElementById(id), found = {errors: []};
  addEventListener("error", e => found.errors.push(e.message));
  const seen = q => getComputedStyle(document.querySelector(q)).display !== "none";
  found.chinese = seen("#send .zh") && !seen("#send .en");
  $("lang").click();
  found.english = seen("#send .en") && !seen("#send .zh");
  found.fits = document.documentElement.scrollWidth <= innerWidth;
  $("text").value = "<b>你好</b>"; $("form").requestSubmit();
  while (!$("stop").disabled) await new Promise(r => setTimeout(r, 10));
  found.said = [...document.querySelectorAll(".m")].map(m => m.textContent);
  found.markup = document.querySelectorAll(".m *").length;
  fetch("found", {method: "POST", body: JSON.stringify(found)});
});</script></body>"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_the_page_in_a_browser(monkeypatch, tmp_path):
    answer = "你好！<img src=x onerror=alert(1)>"
    model = FakeModel(answer=answer).install(monkeypatch)
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --window-size=500,800 --enable-logging=stderr"
    found = queue.Queue()
    with served(model, PROBE, found) as port, open(tmp_path / "log", "w+") as log:
        command = ["chromium", *flags.split(), f"--user-data-dir={tmp_path}", f"http://127.0.0.1:{port}/probe"]
        browser = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            report = json.loads(found.get(timeout=30))
        finally:
            browser.terminate()
            browser.wait(10)
    assert "CONSOLE" not in (tmp_path / "log").read_text()
    assert report == {
        "errors": [],
        "chinese": True,
        "english": True,
        "fits": True,
        "said": ["<b>你好</b>", answer],
        "markup": 0,
    }
