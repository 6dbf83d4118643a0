"""Keys, limits, bodies: what is refused before any route, in the same shape as all errors."""

import json
from contextlib import closing
from http.client import HTTPConnection

import pytest

from congling.serve.config import ServeConfig
from congling.serve.guard import Rate
from serve.fake_model import FakeModel
from serve.http_tools import ASK, client, served


@pytest.fixture
def model():
    return FakeModel()


def test_broken_bodies_and_paths_have_the_same_shape(model):
    headers = {"content-type": "application/json"}
    with client(model, max_body_bytes=200) as http:

        def send(**body):
            return http.post("/v1/chat/completions", headers=headers, **body)

        found = [
            (send(content=b"{"), 400),
            (send(content=b"\xff\xfe"), 400),
            (send(content=b""), 400),
            (send(content=b"[]"), 400),
            (send(content=b"[" * 150), 400),
            (send(content=b'{"messages": [{"role": "user", "content": "\\ud800"}]}'), 400),
            (send(content=b'{"\\ud800": 1}'), 400),
            (send(content=b" " * 201), 413),
            (send(content=iter([b" " * 150, b" " * 150])), 413),
            (send(content=iter([b"{", b"}"])), 400),
            (http.post("/v1/chat/completions", content=b"{}"), 415),
            (http.post("/v1/chat/completions", data={"messages": "x"}), 415),
            (http.post("/v1/nothing", json={}), 404),
            (http.get("/v1/nothing"), 404),
            (http.get("/v1/chat/completions"), 405),
            (http.get("/health", headers={"host": "evil.example"}), 403),
            (http.post("/v1/chat/completions", json=ASK, headers={"host": "evil.example:80"}), 403),
        ]
        for reply, status in found:
            assert reply.status_code == status
            assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
        text = http.get("/metrics").text
    assert 'congling_refused_total{status="413"} 2.0' in text


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "[::1]:8000", "LOCALHOST:1", "chat.example.com"])
def test_names_of_this_machine(model, host):
    with client(model, hosts=["chat.example.com"]) as http:
        assert http.get("/health", headers={"host": host}).status_code == 200


def test_keys(model):
    with client(model, api_key=["sesam-öffne", "zwei"]) as http:
        asked = [
            http.post("/v1/chat/completions", json=ASK, headers={"authorization": value.encode()}).status_code
            for value in ("", "Bearer wrong", "Bearer ", "Bearer sesam-öffne", "Bearer zwei")
        ]
        assert asked == [401, 401, 401, 200, 200]
        assert http.get("/v1/models").status_code == 401
        assert http.get("/metrics").status_code == 401
        assert http.post("/anything", json={}).status_code == 401
        assert http.get("/health").status_code == 200
        assert http.get("/").status_code == 200
        assert http.get("/health", headers={"host": "chat.example.com"}).status_code == 200


def test_requests_a_minute_are_counted_for_each_key(model):
    with client(model, api_key=["a", "b"], requests_per_minute=2) as http:

        def send(key):
            return http.post("/v1/chat/completions", json=ASK, headers={"authorization": f"Bearer {key}"})

        assert [send("a").status_code for _ in range(3)] == [200, 200, 429]
        refused = send("a")
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert 1 <= int(refused.headers["retry-after"]) <= 30
        assert send("b").status_code == 200
        assert http.get("/v1/models", headers={"authorization": "Bearer a"}).status_code == 200


def test_requests_a_minute_behind_a_proxy_are_counted_for_each_address():
    with served(FakeModel(), requests_per_minute=1, proxies="127.0.0.1") as (port, _):
        statuses = []
        for address in ("10.0.0.1", "10.0.0.2", "10.0.0.1"):
            with closing(HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
                headers = {"Content-Type": "application/json", "X-Forwarded-For": address}
                connection.request("POST", "/v1/chat/completions", json.dumps(ASK), headers)
                statuses.append(connection.getresponse().status)
    assert statuses == [200, 200, 429]


def test_a_bucket_fills_evenly():
    now = [0.0]
    rate = Rate(60, lambda: now[0])
    assert [rate.take("x") for _ in range(60)] == [0.0] * 60
    assert rate.take("x") == pytest.approx(1)
    now[0] = 0.5
    assert rate.take("x") == pytest.approx(0.5)
    assert rate.take("y") == 0
    now[0] = 1.5
    assert rate.take("x") == 0
    assert rate.take("x") > 0
    now[0] = 1e9
    assert [rate.take("x") for _ in range(61)].count(0.0) == 60
    assert Rate(0).take("x") == 0


def test_clients_that_ask_no_more_are_forgotten(monkeypatch):
    monkeypatch.setattr("congling.serve.guard._MANY_CLIENTS", 10)
    now = [0.0]
    rate = Rate(60, lambda: now[0])
    for n in range(50):
        now[0] += 2.0
        assert rate.take(f"client {n}") == 0
    assert len(rate._buckets) <= 11


def test_a_key_does_not_show():
    assert ServeConfig(api_key="").keys == []
    assert ServeConfig(api_key=["", "x"]).keys == ["x"]
