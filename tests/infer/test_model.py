"""The public Model: text in, text out."""

import pytest
import torch

from congling.infer.config import SampleConfig
from congling.infer.model import Model
from infer import toy

ASK = [{"role": "user", "content": "你好"}]
SHORT = SampleConfig(max_tokens=16)


def test_logits_of_every_position():
    model = toy.model()
    logits = model.logits([1, 20, 30])
    assert (logits.shape, logits.dtype) == ((3, toy.V), torch.float32)
    torch.testing.assert_close(model.logits([1, 20]), logits[:2])


def test_streamed_equals_whole_and_a_seed_repeats():
    model = toy.model()
    assert "".join(model.chat(ASK, SHORT, stream=True)) == model.chat(ASK, SHORT)
    assert "".join(model.generate("从前", SHORT, stream=True)) == model.generate("从前", SHORT)
    other = SHORT.model_copy(update={"seed": 1})
    assert model.chat(ASK, SHORT) != model.chat(ASK, other)


def test_batch_of_dialogues():
    model = toy.model()
    dialogues = [ASK, [{"role": "user", "content": "再见，朋友"}]]
    assert model.chat_batch(dialogues, SHORT) == [model.chat(d, SHORT) for d in dialogues]


def test_answers_end_at_the_end_marker():
    model = toy.model()
    greedy = SampleConfig(temperature=0, repetition_penalty=0)
    hidden = model.transformer(torch.tensor([model._chat_prompt(ASK)]))[0, -1]
    model.transformer.embedding.data[3] = 10 * hidden.detach()  # <|im_end|>, tied: now the likeliest answer
    assert model.chat(ASK, greedy) == ""


def test_bad_requests_are_errors_at_the_call():
    model = toy.model()
    with pytest.raises(ValueError, match="role 'robot'"):
        model.chat([{"role": "robot", "content": "?"}], stream=True)
    with pytest.raises(ValueError, match="max_context is 4"):
        model.chat(ASK, SampleConfig(max_context=4), stream=True)


def test_load_names_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match="no model in it"):
        Model.load(tmp_path)
