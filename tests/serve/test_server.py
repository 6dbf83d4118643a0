"""Over real sockets: queue, disconnects, slow clients, drain, ports."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from http.client import HTTPConnection

import pytest

from congling.infer.model import Model
from congling.reporter import Reporter
from congling.serve.config import ServeConfig
from congling.serve.run import run
from infer.toy import Bytes, transformer
from serve.fake_model import FakeModel
from serve.http_tools import ASK, ask, get, post, served, wait_until


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_slot_within_a_token(stream):
    model = FakeModel(forever=True)
    with served(model, max_concurrent=1) as (port, server):
        model.gate.clear()
        connection = ask(port, stream=stream)
        if stream:
            connection.getresponse().fp.readline()
        wait_until(lambda: model.steps == 1)
        connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()
        gate = server._service.gate
        wait_until(lambda: gate.running == 0)
        made = model.made
        model.gate.set()
        wait_until(lambda: model.idle)
        assert model.made - made <= 1  # the one that was held up
        assert model.engine.stats.ended["cancelled"] == 1
        model.forever = False
        with closing(ask(port)) as again:  # the only slot is free
            assert again.getresponse().status == 200


def test_a_full_queue_turns_requests_away():
    model = FakeModel(max_batch=1, max_waiting=1)
    with served(model, max_concurrent=4) as (port, _):
        model.gate.clear()
        connections = [ask(port)]
        wait_until(lambda: model.engine.stats.running == 1)
        connections += [ask(port, stream=i % 2 == 0) for i in range(5)]
        time.sleep(0.3)
        model.gate.set()
        replies = [c.getresponse() for c in connections]
        texts = [r.read().decode() for r in replies]
        assert sorted(r.status for r in replies) == [200, 200, 429, 429, 429, 429]
        assert all(r.getheader("retry-after") == "1" for r in replies if r.status == 429)
        errors = [json.loads(t)["error"]["message"] for r, t in zip(replies, texts, strict=True) if r.status == 429]
        assert all("try again" in error for error in errors)
        with closing(ask(port)) as again:
            assert again.getresponse().status == 200
        for connection in connections:
            connection.close()


def test_answers_at_the_same_time_do_not_mix():
    model = FakeModel(answer="一二三四五六七八九十" * 5)
    with served(model) as (port, _):
        connections = [ask(port, stream=n % 2 == 0, n=2) for n in range(16)]
        answers = [_texts(c.getresponse().read().decode()) for c in connections]
        for connection in connections:
            connection.close()
    assert answers == [{0: model.answer, 1: model.answer}] * 16
    assert model.idle


def _texts(body):
    """Text of each answer, streamed or not."""
    if body.startswith("{"):
        return {c["index"]: c["message"]["content"] for c in json.loads(body)["choices"]}
    texts = {}
    for line in body.split("\n\n")[:-2]:
        for choice in json.loads(line.removeprefix("data: "))["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + choice["delta"].get("content", "")
    return texts


def test_a_step_wakes_the_loop_once():
    model = FakeModel(answer="一二三四五六七八九十" * 5)
    with served(model) as (port, server):
        calls = []
        real = server._service.bridge._deliver
        server._service.bridge._deliver = lambda told: (calls.append(len(told)), real(told))
        model.gate.clear()
        connections = [ask(port, stream=True) for _ in range(8)]
        wait_until(lambda: server._service.gate.running == 8)
        model.gate.set()
        for connection in connections:
            connection.getresponse().read()
            connection.close()
    assert max(calls) == 8
    assert len(calls) <= model.steps + 1


def test_a_body_that_comes_too_slowly():
    with served(FakeModel(), body_timeout=0.2) as (port, _), _connect(port) as slow:
        slow.sendall(_head(100) + b"{")
        assert slow.recv(4096).startswith(b"HTTP/1.1 408")
        wait_until(lambda: slow.recv(4096) == b"")  # and closed


def _connect(port):
    return closing(socket.create_connection(("127.0.0.1", port)))


def _head(length):
    lines = "POST /v1/chat/completions HTTP/1.1", "Host: localhost", "Content-Type: application/json"
    return "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode()


def test_a_request_that_never_ends_is_cut_off(monkeypatch):
    monkeypatch.setattr("congling.serve.server._KEEP_ALIVE", 0)
    monkeypatch.setattr("congling.serve.server._SWEEP", 1)
    with served(FakeModel(), body_timeout=0.2) as (port, server), _connect(port) as slow:
        slow.sendall(b"POST /v1/chat/comp")
        wait_until(lambda: len(server.server_state.connections) == 1)
        wait_until(lambda: len(server.server_state.connections) == 0)


def test_a_client_that_does_not_read_is_cut_off(monkeypatch):
    monkeypatch.setattr("congling.serve.server._STALL", 0.3)
    monkeypatch.setattr("congling.serve.server._SWEEP", 1)
    model = FakeModel(answer="说" * 2000)
    with served(model) as (port, server), closing(socket.socket()) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", port))
        body = json.dumps({**ASK, "stream": True, "logprobs": True, "top_logprobs": 20, "max_tokens": 300}).encode()
        deaf.sendall(_head(len(body)) + body)
        wait_until(lambda: model.steps > 1)
        wait_until(lambda: not server.server_state.connections, 20)
        wait_until(lambda: model.idle and server._service.gate.running == 0)


def test_a_refused_body_is_read_so_that_the_refusal_can_be():
    long = [{"role": "user", "content": "x" * 1_000_000}]
    with served(FakeModel(), max_body_bytes=100_000) as (port, _), closing(ask(port, messages=long)) as connection:
        reply = connection.getresponse()
        assert reply.status == 413
        assert "at most 100000" in reply.read().decode()


def test_a_drain_says_no_and_lets_answers_end():
    model = FakeModel(answer="一二三四五")
    with served(model) as (port, server):
        model.gate.clear()
        under_way, kept = ask(port, stream=True), ask(port)
        wait_until(lambda: server._service.gate.running == 2)
        server.drain()
        assert get(port, "/health")[0] == 503
        with closing(ask(port)) as late:
            reply = late.getresponse()
            assert reply.status == 503
            assert reply.getheader("retry-after")
        model.gate.set()
        assert under_way.getresponse().read().decode().endswith("data: [DONE]\n\n")
        assert json.loads(kept.getresponse().read())["choices"][0]["finish_reason"] == "stop"
        wait_until(lambda: server.should_exit)
        under_way.close()
        kept.close()


def test_a_drain_has_an_end():
    model = FakeModel(forever=True)
    model.seconds = 0.02
    with served(model, drain_timeout=0.2) as (port, server):
        stream, whole = ask(port, stream=True), ask(port)
        wait_until(lambda: server._service.gate.running == 2)
        server.drain()
        assert "shutting down" in stream.getresponse().read().decode()
        reply = whole.getresponse()
        assert (reply.status, json.loads(reply.read())["error"]["code"]) == (503, "shutting_down")
        stream.close()
        whole.close()
    assert model.idle


def test_an_engine_that_stops_is_told(monkeypatch):
    model = FakeModel()
    with served(model) as (port, _):
        monkeypatch.setattr(model.engine, "_plan", lambda: 1 / 0)
        with closing(ask(port)) as connection:
            reply = connection.getresponse()
            assert reply.status == 500
            assert "ZeroDivisionError" in reply.read().decode()
        assert get(port, "/health")[0] == 503
        with closing(ask(port)) as connection:
            assert connection.getresponse().status == 503


def test_a_taken_port_is_one_clear_line(monkeypatch, tmp_path):
    monkeypatch.setattr(Model, "load", lambda folder, engine=None: FakeModel())
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"port {port} at 127\.0\.0\.1: .*in use; set serve\.port"):
            run(tmp_path, ServeConfig(port=port), Reporter(io.StringIO()))


def test_log_probabilities_of_a_prompt():
    model = FakeModel()
    model.transformer = transformer()
    model.tokenizer = Bytes()
    ids = Bytes().encode("你好 abc")
    body = {"prompt": ids, "echo": True, "logprobs": 2, "max_tokens": 0}
    choice = post(model, body, "completions").json()["choices"][0]
    expected = model.logits(ids).log_softmax(-1)
    found = choice["logprobs"]
    assert choice["text"] == "你好 abc"
    assert found["token_logprobs"][0] is None
    for place in range(1, len(ids)):
        assert found["token_logprobs"][place] == pytest.approx(float(expected[place - 1, ids[place]]), abs=1e-4)
        assert max(found["top_logprobs"][place].values()) == pytest.approx(float(expected[place - 1].max()), abs=1e-4)
    assert found["text_offset"] == [0, 0, 0, 1, 1, 1, 2, 3, 4, 5]
    text = post(model, {**body, "prompt": "你好 abc"}, "completions").json()["choices"][0]["logprobs"]
    assert len(text["tokens"]) == len(ids)  # what the text begins after is not shown, but known
    assert text["token_logprobs"][0] < 0


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from congling.infer.model import Model
from congling.reporter import Reporter
from congling.serve.config import ServeConfig
from congling.serve.run import run
from serve.fake_model import FakeModel
model = FakeModel(forever=True)
model.seconds = 0.02
Model.load = lambda folder, engine=None: model
run(Path("x"), ServeConfig(port=0), Reporter())
"""


def test_a_signal_drains_and_leaves_with_zero():
    command = [sys.executable, "-c", SCRIPT, os.path.dirname(os.path.dirname(__file__))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        lines = []
        while "API" not in "".join(lines[-1:]):
            lines.append(process.stdout.readline())
            assert lines[-1], lines
        with closing(ask(int(lines[-1].split("127.0.0.1:")[1].split("/")[0]), stream=True, max_tokens=60)) as stream:
            reply = stream.getresponse()
            reply.readline()
            threading.Timer(0.2, process.send_signal, [signal.SIGTERM]).start()
            assert reply.read().endswith(b"data: [DONE]\n\n")
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.stdout.close()


def test_keep_alive_and_pipelines(monkeypatch):
    with served(FakeModel()) as (port, _), closing(HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        for body, status in ((ASK, 200), ({"n": 3}, 400), (ASK, 200)):
            connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
            reply = connection.getresponse()
            reply.read()
            assert reply.status == status
