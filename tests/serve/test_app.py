import json

import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from congling.config import ConfigError, load
from congling.infer.config import SampleConfig
from congling.recipe import Recipe
from congling.serve.app import create_app
from congling.serve.completion import split_at_stop
from congling.serve.config import ServeConfig
from serve.fake_model import FakeModel

ASK = {"messages": [{"role": "user", "content": "你好"}]}


@pytest.fixture
def model(monkeypatch):
    return FakeModel().install(monkeypatch)


def client(model, **config):
    return TestClient(create_app(model, ServeConfig(**config)))


def post(model, body, **config):
    return client(model, **config).post("/v1/chat/completions", json={**ASK, **body})


def events(reply):
    lines = [line for line in reply.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def test_models_and_health(model):
    http = client(model)
    assert http.get("/health").json() == {"status": "ok"}
    listed = http.get("/v1/models").json()
    assert listed["object"] == "list"
    assert listed["data"][0]["id"] == "demo-sft"


def test_whole_answer(model):
    reply = post(model, {"temperature": 0.2, "top_p": 0.5, "seed": 7, "max_tokens": 100})
    answer = reply.json()
    assert reply.status_code == 200
    assert answer["object"] == "chat.completion"
    assert answer["choices"] == [
        {"index": 0, "message": {"role": "assistant", "content": "你好，世界！"}, "finish_reason": "stop"}
    ]
    prompt, sampling = model.seen
    tokens = len("你好，世界！".encode())
    expected = {"prompt_tokens": len(prompt), "completion_tokens": tokens, "total_tokens": len(prompt) + tokens}
    assert answer["usage"] == expected
    assert (sampling.temperature, sampling.top_p, sampling.seed, sampling.max_tokens) == (0.2, 0.5, 7, 100)
    assert prompt[0] == 1
    assert prompt.count(2) == 2  # the question and the opening of the answer


def test_stream(model):
    reply = post(model, {"stream": True, "stream_options": {"include_usage": True}})
    assert reply.headers["content-type"].startswith("text/event-stream")
    *frames, usage = events(reply)
    assert frames[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    pieces = [f["choices"][0]["delta"].get("content", "") for f in frames]
    assert "".join(pieces) == "你好，世界！"
    assert "\ufffd" not in "".join(pieces)
    assert len([p for p in pieces if p]) == 6  # a character at a time, never a part of one
    assert frames[-1]["choices"][0]["finish_reason"] == "stop"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 18
    assert {f["id"] for f in frames} == {usage["id"]}


def test_limits_of_length(model):
    short = post(model, {"max_completion_tokens": 6}).json()
    assert short["choices"][0] == {
        "index": 0,
        "message": {"role": "assistant", "content": "你好"},
        "finish_reason": "length",
    }
    assert post(model, {"max_tokens": 9999}, max_tokens=3).json()["choices"][0]["message"]["content"] == "你"
    prompt = len(model.seen[0])
    app = create_app(model, ServeConfig(), SampleConfig(max_context=prompt + 3))  # the context ends first
    choice = TestClient(app).post("/v1/chat/completions", json=ASK).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("你", "length")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("stop", "text"), [("世", "你好，"), (["不", "，世"], "你好"), ("没有", "你好，世界！")])
def test_stop_strings(model, stop, text, stream):
    reply = post(model, {"stop": stop, "stream": stream})
    if stream:
        found = "".join(f["choices"][0]["delta"].get("content", "") for f in events(reply))
    else:
        found = reply.json()["choices"][0]["message"]["content"]
    assert found == text


@settings(deadline=None, max_examples=80)
@given(st.lists(st.text("ab，", max_size=3)), st.lists(st.text("ab，", min_size=1, max_size=3), max_size=3))
def test_stopping_piece_by_piece_is_stopping_the_whole(pieces, stops):
    out, held, stopped = "", "", False
    for piece in pieces:
        text, held, stopped = split_at_stop(held + piece, stops)
        out += text
        if stopped:
            break
    if not stopped:
        out += split_at_stop(held, stops, last=True)[0]
    whole = "".join(pieces)
    met = min((at for s in stops if (at := whole.find(s)) >= 0), default=None)
    ends = [whole.find(s) + len(s) for s in stops if s in whole]
    if met is None:
        assert out == whole
    else:  # what was met first when read from the left, piece by piece
        assert whole.startswith(out)
        assert any(whole.startswith(s, len(out)) for s in stops)
        assert len(out) <= max(ends)


@pytest.mark.parametrize(
    ("body", "parameter", "words"),
    [
        ({"tools": [{"type": "function"}]}, "tools", "not supported"),
        ({"logprobs": True}, "logprobs", "not supported"),
        ({"n": 2}, "n", "1"),
        ({"temperature": -1}, "temperature", "greater"),
        ({"temperature": "hot"}, "temperature", "number"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role", "'user'"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content", "string"),
        ({"messages": [{"role": "user", "content": "长" * 3000}]}, "messages", "at most 2048"),
        ({"seed": 2**70}, "seed", "less"),
    ],
)
def test_what_is_not_supported_is_refused(model, body, parameter, words):
    reply = post(model, body)
    error = reply.json()["error"]
    assert reply.status_code == 400
    assert error["type"] == "invalid_request_error"
    assert error["param"] == parameter
    assert words in error["message"]


def test_broken_bodies_and_paths_have_the_same_shape(model):
    http = client(model, max_body_bytes=200)
    headers = {"content-type": "application/json"}

    def send(**body):
        return http.post("/v1/chat/completions", headers=headers, **body)

    found = [
        (send(content=b"{"), 400),
        (send(content=b'{"messages": [{"role": "user", "content": "\\ud800"}]}'), 400),
        (send(content=b'{"\\ud800": 1}'), 400),
        (send(content=b" " * 201), 413),
        (send(content=iter([b"{}"])), 411),
        (http.get("/v1/nothing"), 404),
        (http.get("/v1/chat/completions"), 405),
    ]
    for reply, status in found:
        assert reply.status_code == status
        assert reply.json()["error"]["message"]


def test_key(model):
    http = client(model, api_key="sesam-öffne")
    asked = [
        http.post("/v1/chat/completions", json=ASK, headers={"authorization": value.encode()})
        for value in ("", "Bearer wrong", "Bearer sesam-öffne")
    ]
    assert [reply.status_code for reply in asked] == [401, 401, 200]
    assert http.get("/v1/models").status_code == 401
    assert http.get("/health").status_code == 200


def test_beyond_this_machine_a_key_is_needed():
    with pytest.raises(ConfigError, match=r"host 0\.0\.0\.0 can be reached by others: set serve\.api_key"):
        load(Recipe, None, ["host=0.0.0.0"], "serve")
    assert load(Recipe, None, ["host=0.0.0.0", "api_key=k"], "serve").serve.api_key == "k"


def test_page_is_self_contained_and_escapes_the_name(monkeypatch):
    page = client(FakeModel(name="<script>x</script>").install(monkeypatch)).get("/").text
    assert page.count("<script>") == 1
    assert "&lt;script&gt;" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "innerHTML" not in page
