"""The official client talks to the server over a real socket."""

import json

import openai
import pytest

from serve.fake_model import FakeModel
from serve.http_tools import served

MESSAGES = [{"role": "user", "content": "你好"}]


@pytest.fixture
def talk():
    model = FakeModel()
    with served(model, api_key="sesam") as (port, _):
        yield openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="sesam", max_retries=0)
    assert model.idle


def test_models(talk):
    assert [m.id for m in talk.models.list()] == ["demo-sft"]
    assert talk.models.retrieve("demo-sft").owned_by == "congling"
    with pytest.raises(openai.NotFoundError):
        talk.models.retrieve("gpt-9")


def test_chat(talk):
    answer = talk.chat.completions.create(
        model="demo-sft", messages=MESSAGES, n=2, logprobs=True, top_logprobs=3, extra_body={"top_k": 10}
    )
    assert [c.message.content for c in answer.choices] == ["你好，世界！"] * 2
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].logprobs.content[0].bytes == [0xE4]
    assert len(answer.choices[0].logprobs.content[0].top_logprobs) == 3
    assert answer.usage.completion_tokens == 36


def test_streamed_chat(talk):
    stream = talk.chat.completions.create(
        model="demo-sft", messages=MESSAGES, stream=True, stream_options={"include_usage": True}, logprobs=True
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "你好，世界！"
    assert chunks[-1].usage.completion_tokens == 18
    assert sum(len(c.choices[0].logprobs.content) for c in chunks if c.choices and c.choices[0].logprobs) == 18
    with talk.chat.completions.stream(model="demo-sft", messages=MESSAGES) as events:
        assert events.get_final_completion().choices[0].message.content == "你好，世界！"


def test_completions(talk):
    answer = talk.completions.create(model="demo-sft", prompt=["你好", "你"], echo=True, max_tokens=3)
    assert [c.text for c in answer.choices] == ["你好，", "你好"]
    stream = talk.completions.create(model="demo-sft", prompt="你好", stream=True, stop=["界"], seed=1)
    assert "".join(c.choices[0].text for c in stream) == "，世"


def test_forms(talk):
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answer = talk.chat.completions.create(model="demo-sft", messages=MESSAGES, response_format=form)
    assert json.loads(answer.choices[0].message.content) in ({"n": 1}, {"n": 2})


def test_errors_are_the_clients_own(talk):
    with pytest.raises(openai.BadRequestError, match="no tools") as caught:
        tools = [{"type": "function", "function": {"name": "f"}}]
        talk.chat.completions.create(model="demo-sft", messages=MESSAGES, tools=tools)
    assert caught.value.param == "tools"
    assert caught.value.code == "unsupported_parameter"
    with pytest.raises(openai.NotFoundError):
        talk.chat.completions.create(model="gpt-9", messages=MESSAGES)
    with pytest.raises(openai.AuthenticationError):
        talk.with_options(api_key="wrong").models.list()


def test_a_stream_that_breaks_off_raises():
    model = FakeModel(forever=True)
    model.seconds = 0.02
    with served(model, timeout=0.2) as (port, _):
        talk = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="any", max_retries=0)
        with pytest.raises(openai.APIError, match=r"more than 0\.2 s"):
            for _ in talk.chat.completions.create(model="demo-sft", messages=MESSAGES, stream=True):
                pass
    assert model.idle
