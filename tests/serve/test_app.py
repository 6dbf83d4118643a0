import json

import pytest

from congling.config import ConfigError, load
from congling.infer.config import SampleConfig
from congling.recipe import Recipe
from serve.fake_model import FakeModel
from serve.http_tools import ASK, client, events, post


@pytest.fixture
def model():
    return FakeModel()


def sampling_of(model, monkeypatch):
    """The settings of the next request, and what else its strategy is made of."""
    from congling.serve import prepare

    seen = {}
    real = prepare.make_strategy

    def spy(config, rows, ends, **options):
        seen.update(config=config, ends=ends, **options)
        return real(config, rows, ends, **options)

    monkeypatch.setattr(prepare, "make_strategy", spy)
    return seen


def test_models_and_health(model):
    with client(model) as http:
        assert http.get("/health").json() == {"status": "ok"}
        listed = http.get("/v1/models").json()
        assert listed["object"] == "list"
        assert listed["data"][0]["id"] == "demo-sft"
        assert listed["data"][0]["chat"] is True
        assert http.get("/v1/models/demo-sft").json() == listed["data"][0]
        assert http.get("/v1/models/gpt-9").status_code == 404


def test_whole_answer(model, monkeypatch):
    seen = sampling_of(model, monkeypatch)
    reply = post(model, {"temperature": 0.2, "top_p": 0.5, "seed": 7, "max_tokens": 100})
    answer = reply.json()
    assert reply.status_code == 200
    assert answer["object"] == "chat.completion"
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "你好，世界！", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    prompt = len(model.chat_prompt(ASK["messages"]))
    assert answer["usage"] == {"prompt_tokens": prompt, "completion_tokens": 18, "total_tokens": prompt + 18}
    sampling = seen["config"]
    assert (sampling.temperature, sampling.top_p, sampling.seed, sampling.max_tokens) == (0.2, 0.5, 7, 100)
    assert seen["ends"] == {1, 2, 3}


def test_every_setting_arrives(model, monkeypatch):
    seen = sampling_of(model, monkeypatch)
    settings = {
        "top_k": 5,
        "min_p": 0.1,
        "repetition_penalty": 0.25,
        "repetition_decay": 0.5,
        "no_repeat_ngram": 9,
        "presence_penalty": -1,
        "frequency_penalty": 1.5,
    }
    body = {**settings, "logit_bias": {"40": -100, "41": 3.5}, "stop_token_ids": [77], "seed": -1, "n": 2, "best_of": 3}
    assert post(model, body).status_code == 200
    assert {key: getattr(seen["config"], key) for key in settings} == settings
    assert seen["rules"].bias == {40: -100, 41: 3.5}
    assert seen["config"].seed == 2**64 - 1
    assert (seen["n"], seen["best_of"], seen["ends"]) == (2, 3, {1, 2, 3, 77})
    assert post(model, {}).status_code == 200
    assert seen["config"].top_k == 0
    assert seen["config"].seed != 0  # drawn anew for each


def test_stream(model):
    reply = post(model, {"stream": True, "stream_options": {"include_usage": True}})
    assert reply.headers["content-type"].startswith("text/event-stream")
    *frames, usage = events(reply)
    assert frames[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    pieces = [f["choices"][0]["delta"].get("content", "") for f in frames]
    assert "".join(pieces) == "你好，世界！"
    assert len([p for p in pieces if p]) == 6  # a character at a time, never a part of one
    assert frames[-1]["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 18
    assert all(f["usage"] is None for f in frames)
    assert {f["id"] for f in frames} == {usage["id"]}
    assert all("usage" not in frame for frame in events(post(model, {"stream": True})))


def test_several_answers(model):
    answer = post(model, {"n": 3}).json()
    assert [c["index"] for c in answer["choices"]] == [0, 1, 2]
    assert {c["message"]["content"] for c in answer["choices"]} == {"你好，世界！"}
    assert answer["usage"]["completion_tokens"] == 3 * 18
    frames = events(post(model, {"n": 2, "stream": True, "stop": "，"}))
    for index in range(2):
        own = [f["choices"][0] for f in frames if f["choices"][0]["index"] == index]
        assert "".join(c["delta"].get("content", "") for c in own) == "你好"
        assert own[-1]["finish_reason"] == "stop"


@pytest.mark.parametrize("way", [{"beams": 3}, {"tree": 2}, {"n": 2, "best_of": 4}, {"beams": 3, "n": 2}])
@pytest.mark.parametrize("stream", [False, True])
def test_ways_of_searching(model, way, stream):
    reply = post(model, {**way, "stream": stream})
    assert reply.status_code == 200
    if stream:
        found = "".join(c["delta"].get("content", "") for f in events(reply) for c in f["choices"] if c["index"] == 0)
    else:
        found = reply.json()["choices"][0]["message"]["content"]
        assert len(reply.json()["choices"]) == way.get("n", 1)
    assert found == "你好，世界！"


def test_limits_of_length(model):
    short = post(model, {"max_completion_tokens": 6}).json()["choices"][0]
    assert (short["message"]["content"], short["finish_reason"]) == ("你好", "length")
    assert post(model, {"max_tokens": 9999}, max_tokens=3).json()["choices"][0]["message"]["content"] == "你"
    prompt = len(model.chat_prompt(ASK["messages"]))
    with client(model, SampleConfig(max_context=prompt + 3)) as http:  # the context ends first
        choice = http.post("/v1/chat/completions", json=ASK).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("你", "length")
    with client(model, SampleConfig(max_context=prompt)) as http:
        assert "max_context" in http.post("/v1/chat/completions", json=ASK).json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("stop", "text"), [("世", "你好，"), (["不", "，世"], "你好"), ("没有", "你好，世界！")])
def test_stop_strings(model, stop, text, stream):
    reply = post(model, {"stop": stop, "stream": stream})
    if stream:
        found = "".join(f["choices"][0]["delta"].get("content", "") for f in events(reply))
    else:
        found = reply.json()["choices"][0]["message"]["content"]
    assert found == text


def test_log_probabilities_of_a_chat(model):
    body = {"logprobs": True, "top_logprobs": 2, "stop": "世"}
    content = post(model, body).json()["choices"][0]["logprobs"]["content"]
    assert bytes(b for entry in content for b in entry["bytes"]).decode() == "你好，"
    assert all(entry["logprob"] == pytest.approx(0, abs=1e-6) for entry in content)
    assert content[0]["top_logprobs"][0] == {"token": "\ufffd", "logprob": content[0]["logprob"], "bytes": [0xE4]}
    assert content[0]["top_logprobs"][1] == {"token": "<|pad|>", "logprob": -100, "bytes": None}
    frames = events(post(model, {**body, "stream": True}))
    told = [f["choices"][0]["logprobs"] for f in frames]
    assert [entry for part in told if part for entry in part["content"]] == content
    assert post(model, {"logprobs": True}).json()["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []


def test_completion(model):
    answer = post(model, {"prompt": "你好", "logprobs": 1, "max_tokens": 6}, "completions").json()
    choice = answer["choices"][0]
    assert (answer["object"], choice["text"], choice["finish_reason"]) == ("text_completion", "，世", "length")
    assert choice["logprobs"]["tokens"][0] == "bytes:\\xef"
    assert choice["logprobs"]["text_offset"] == [0, 0, 0, 1, 1, 1]
    assert choice["logprobs"]["top_logprobs"][0] == {"bytes:\\xef": 0}
    frames = events(post(model, {"prompt": "你好", "stream": True, "echo": True}, "completions"))
    assert "".join(f["choices"][0]["text"] for f in frames) == "你好，世界！"
    assert frames[-1]["choices"][0]["finish_reason"] == "stop"


def test_completions_of_several_prompts(model):
    ids = model.tokenizer.encode("你好")
    for prompt in (["你好", "你"], [ids, ids[:3]]):
        answer = post(model, {"prompt": prompt, "n": 2, "max_tokens": 3, "echo": True}, "completions").json()
        texts = [(c["index"], c["text"]) for c in answer["choices"]]
        assert texts == [(0, "你好，"), (1, "你好，"), (2, "你好"), (3, "你好")]
    answer = post(model, {"prompt": ids, "max_tokens": 3}, "completions").json()
    assert answer["choices"][0]["text"] == "，"
    assert answer["usage"]["prompt_tokens"] == 6
    echo = post(model, {"prompt": "你好", "max_tokens": 0, "echo": True}, "completions").json()["choices"][0]
    assert (echo["text"], echo["finish_reason"]) == ("你好", "length")


def test_answers_of_a_form(model):
    reply = post(model, {"regex": "[0-9]{3}-(是|否)"}).json()["choices"][0]["message"]["content"]
    assert reply[:3].isdigit()
    assert reply[3:] in ("-是", "-否")
    schema = {"type": "object", "properties": {"好": {"type": "boolean"}}, "required": ["好"]}
    schema["additionalProperties"] = False  # a model that draws at random would never end
    form = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
    found = json.loads(post(model, {"response_format": form}).json()["choices"][0]["message"]["content"])
    assert isinstance(found["好"], bool)
    text = post(model, {"response_format": {"type": "json_object"}}).json()["choices"][0]["message"]["content"]
    assert text.startswith("{")
    assert (
        post(model, {"response_format": {"type": "text"}}).json()["choices"][0]["message"]["content"] == "你好，世界！"
    )


@pytest.mark.parametrize(
    ("body", "parameter", "words"),
    [
        ({"tools": [{"type": "function"}]}, "tools", "no tools"),
        ({"functions": [{}]}, "functions", "no functions"),
        ({"audio": {}}, "audio", "text only"),
        ({"colour": "blue"}, "colour", "not supported"),
        ({"n": 0}, "n", "greater"),
        ({"n": 33}, "n", "less"),
        ({"temperature": -1}, "temperature", "greater"),
        ({"temperature": "hot"}, "temperature", "number"),
        ({"temperature": True}, "temperature", "number"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role", "'user'"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.0.type", "images"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages.0.content", "string"),
        ({"messages": [{"role": "user", "content": "长" * 3000}]}, "messages", "at most 2048"),
        ({"seed": 2**70}, "seed", "less"),
        ({"stop": ["x"] * 17}, "stop", "at most 16"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x", "integer"),
        ({"logit_bias": {"9999": 1}}, None, "0 … 271"),
        ({"beams": 2, "logprobs": True}, "logprobs", "beam"),
        ({"beams": 2, "tree": 2}, None, "one of them"),
        ({"n": 3, "best_of": 2}, None, "best_of"),
        ({"regex": "("}, None, "regex"),
        ({"regex": "a", "response_format": {"type": "json_object"}}, "regex", "one form"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "json_object"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": 3}}}}, None, "schema"),
    ],
)
def test_what_is_not_supported_is_refused(model, body, parameter, words):
    reply = post(model, body)
    error = reply.json()["error"]
    assert reply.status_code == 400
    assert error["type"] == "invalid_request_error"
    assert error["param"] == parameter
    assert words in error["message"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"prompt": []}, "at least 1"),
        ({"prompt": [300]}, "0 … 271"),
        ({"prompt": [-1]}, "0 … 271"),
        ({"prompt": [[]]}, "empty"),
        ({"prompt": [1, "x"]}, "integer"),
        ({"prompt": ["x"] * 100, "n": 2}, "at most 128"),
        ({"prompt": "x", "max_tokens": 0}, "echo"),
        ({"prompt": "x", "suffix": "y"}, "suffix"),
        ({}, "required"),
    ],
)
def test_completions_that_are_refused(model, body, words):
    reply = post(model, body, "completions")
    assert reply.status_code == 400
    assert words in reply.json()["error"]["message"]


def test_what_clients_send_along_is_taken(model):
    parts = [{"type": "text", "text": "你"}, {"type": "text", "text": "好"}]
    old = {"role": "assistant", "content": "好", "refusal": None, "tool_calls": None, "annotations": []}
    messages = [{"role": "developer", "content": "短"}, {"role": "user", "content": parts}, old, ASK["messages"][0]]
    body = {"messages": messages, "tools": [], "tool_choice": "none", "store": False, "user": "me", "stop": None}
    assert post(model, body).json()["choices"][0]["message"]["content"] == "你好，世界！"


def test_names_of_models(model):
    assert post(model, {"model": "demo-sft"}).status_code == 200
    assert post(model, {"model": "mine"}, name="mine").json()["model"] == "mine"
    reply = post(model, {"model": "gpt-9"})
    assert reply.status_code == 404
    assert reply.json()["error"]["code"] == "model_not_found"
    assert "demo-sft" in reply.json()["error"]["message"]


def test_a_base_model_continues_and_refuses_to_chat():
    base = FakeModel(tuned=False)
    reply = post(base, {})
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "not_a_chat_model"
    assert post(base, {"prompt": "你好，"}, "completions").json()["choices"][0]["text"] == "世界！"


def test_a_backend_that_fails_is_told_and_does_not_stop_the_server(model):
    model.fail = MemoryError("no more")
    reply = post(model, {})
    assert reply.status_code == 500
    assert "no more" in reply.json()["error"]["message"]
    stream = post(model, {"stream": True}).text.split("\n\n")
    assert json.loads(stream[1].removeprefix("data: "))["error"]["code"] == "engine_error"
    assert "[DONE]" not in "".join(stream)
    model.fail = None
    assert post(model, {}).status_code == 200


def test_what_leaves_no_token_is_the_clients_mistake(model):
    reply = post(model, {"regex": "a", "logit_bias": {str(16 + ord("a")): -100}, "top_k": 1})
    assert reply.status_code == 200  # a bias is a wish, the form is not
    model.next = lambda ids: 10**6  # the model's own fault: an index error
    assert post(model, {}).status_code == 500


def test_an_answer_that_takes_too_long(model):
    model.seconds = 0.05
    reply = post(model, {}, timeout=0.12)
    assert reply.status_code == 504
    assert reply.json()["error"]["code"] == "timeout"
    stream = post(model, {"stream": True}, timeout=0.12).text
    assert "more than 0.12 s" in stream


def test_metrics(model):
    with client(model) as http:
        for body in ({}, {"stream": True}, {"n": "x"}):
            http.post("/v1/chat/completions", json={**ASK, **body})
        http.get("/nothing")
        text = http.get("/metrics").text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert lines['congling_requests_total{path="/v1/chat/completions",status="200"}'] == "2.0"
    assert lines['congling_requests_total{path="/v1/chat/completions",status="400"}'] == "1.0"
    assert lines["congling_engine_tokens_total"] == "36.0"
    assert lines["congling_engine_pages_held"] == "0.0"
    assert lines['congling_first_token_seconds_count{path="/v1/chat/completions"}'] == "2.0"
    assert float(lines["process_open_fds"]) > 0


def test_beyond_this_machine_a_key_is_needed():
    with pytest.raises(ConfigError, match=r"host 0\.0\.0\.0 can be reached by others: set serve\.api_key"):
        load(Recipe, None, ["host=0.0.0.0"], "serve")
    assert load(Recipe, None, ["host=0.0.0.0", "api_key=k"], "serve").serve.keys == ["k"]
    assert load(Recipe, None, ['api_key=["a", "b"]'], "serve").serve.keys == ["a", "b"]
    with pytest.raises(ConfigError, match="host"):
        load(Recipe, None, ["host=0.0.0.0", "api_key=[]"], "serve")
