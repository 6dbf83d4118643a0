"""The public Model: text in, text out."""

import pytest
import torch

from congling.infer.config import EngineConfig, SampleConfig
from congling.infer.model import Model, make_backend
from congling.infer.penalties import Rules
from congling.infer.torch_backend import TorchBackend
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
    hidden = model.transformer(torch.tensor([model.chat_prompt(ASK)]))[0, -1]
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


def test_a_request_gives_the_same_text_whatever_was_asked_before():
    """Prefixes are taken over only where that cannot be seen; the CPU kernels promise the same bits in any batch."""
    settings = SampleConfig(temperature=1.5, top_p=1.0, max_tokens=40, seed=7)
    talk = [{"role": "system", "content": "你" * 20}, *ASK]
    alone = toy.model().chat(talk, settings)
    model = toy.model()
    longer = [*talk, {"role": "assistant", "content": alone}, {"role": "user", "content": "再说"}]
    fresh = toy.model().chat(longer, settings)
    streams = [model.chat([{"role": "user", "content": text}], settings, stream=True) for text in ("一", "二三四五六")]
    for stream in streams:
        next(stream)  # both go on beside what follows
    assert model.chat(talk, settings) == alone
    assert model.chat(longer, settings) == fresh
    assert model.chat(talk, settings) == alone
    assert model.engine.stats.reused_tokens >= 64
    assert model.chat(longer, settings, exact=False)  # may differ: it takes over what decoding wrote


def test_a_model_in_training_is_read_anew():
    model = Model(toy.transformer(), toy.Bytes(), live=True)
    before = model.chat(ASK, SHORT)
    model.transformer.embedding.data = model.transformer.embedding.data.flip(0).contiguous()
    assert model.chat(ASK, SHORT) == Model(model.transformer, toy.Bytes(), live=True).chat(ASK, SHORT) != before
    assert model._engine is None
    assert model.chat_batch([ASK, ASK], SHORT) == [model.chat(ASK, SHORT)] * 2


def test_a_stream_that_is_left_frees_its_memory():
    model = toy.model()
    stream = model.chat(ASK, SampleConfig(max_tokens=100), stream=True)
    assert model.engine.stats.running == 0  # nobody has read yet
    next(stream)
    assert model.engine.stats.pages_held > 0
    stream.close()
    model.engine.step()
    assert (model.engine.stats.pages_held, model.engine.stats.running) == (0, 0)


def test_beams_trees_and_rules():
    model = toy.model()
    greedy = SampleConfig(temperature=0, repetition_penalty=0, max_tokens=6)
    assert isinstance(model.generate("从前", greedy, beams=3), str)
    assert isinstance(model.generate("从前", greedy, tree=2), str)
    allowed = Rules(allowed={16 + b for b in b"abc"})
    assert set(model.generate("从前", SHORT, rules=allowed)) <= set("abc")
    with pytest.raises(ValueError, match="two ways to search"):
        model.generate("从前", greedy, beams=2, tree=2)


def test_learned_positions_end_the_answer():
    model = Model(toy.transformer(position="learned", max_len=20), toy.Bytes())
    assert len(model.request([1] * 15, SHORT).prompt) == 15
    assert model.request([1] * 15, SHORT).max_tokens == 5
    with pytest.raises(ValueError, match=r"the places of the model are 20; shorten it$"):
        model.request([1] * 20, SHORT)


def test_precisions_that_torch_does_not_have(monkeypatch):
    monkeypatch.setattr("congling.infer.cpu.available", lambda: False)
    assert isinstance(make_backend(toy.transformer(), EngineConfig()), TorchBackend)
    assert make_backend(toy.transformer(), EngineConfig(precision="bf16")).transformer.embedding.dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"engine.precision = int4: only on a CPU with numba"):
        make_backend(toy.transformer(), EngineConfig(precision="int4"))
