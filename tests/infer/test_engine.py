"""Cached decoding against decoding without a cache; batches against single requests; limits."""

import pytest
import torch

from congling.infer.config import SampleConfig
from congling.infer.engine import generate, generate_batch
from congling.infer.sampler import Sampler
from infer import toy

PROMPTS = [[1, 30, 40], [1], [1, 99, 98, 97, 96, 95, 94], [1, 50, 60, 70]]


@pytest.mark.parametrize("position", ["distance_decay_heads", "rope", "alibi"])
def test_generate_equals_decoding_without_a_cache(position):
    model = toy.transformer(position=position)
    config = SampleConfig(max_tokens=12, seed=4)
    sampler, ids = Sampler(config, PROMPTS[0], toy.V), list(PROMPTS[0])
    with torch.no_grad():
        for _ in range(12):
            ids.append(sampler.choose(model.logits(model(torch.tensor([ids])))[0, -1]))
    assert list(generate(model, PROMPTS[0], config, ())) == ids[3:]


@pytest.mark.parametrize("position", ["distance_decay_heads", "rope", "alibi"])
def test_batch_gives_the_answers_of_single_requests(position):
    model = toy.transformer(position=position)
    config = SampleConfig(max_tokens=12, seed=4)
    stop = set(range(100, 112))
    singles = [list(generate(model, prompt, config, stop)) for prompt in PROMPTS]
    assert min(map(len, singles)) < 12  # some end early
    assert generate_batch(model, PROMPTS, config, stop) == singles
    assert generate_batch(model, PROMPTS, config, stop, batch_size=3) == singles


def test_long_prompts_go_in_chunks(monkeypatch):
    model, config = toy.transformer(), SampleConfig(max_tokens=3)
    whole = list(generate(model, PROMPTS[2], config, ()))
    monkeypatch.setattr("congling.infer.engine._PREFILL", 2)
    assert list(generate(model, PROMPTS[2], config, ())) == whole


def test_stop_and_limits():
    model = toy.transformer()
    free = list(generate(model, [1], SampleConfig(max_tokens=8), ()))
    assert len(free) == 8
    first = free.index(free[5])
    assert list(generate(model, [1], SampleConfig(max_tokens=8), {free[5]})) == free[:first]
    assert len(list(generate(model, [1, 20], SampleConfig(max_tokens=8, max_context=6), ()))) == 4
    assert generate_batch(model, [], SampleConfig(), ()) == []


@pytest.mark.parametrize(
    ("prompt", "message"),
    [([], "empty prompt"), ([5, toy.V], r"0 … 271, got 5 … 272"), ([1] * 2048, "2048 tokens, max_context is 2048")],
)
def test_bad_prompts_are_errors_at_the_call(prompt, message):
    with pytest.raises(ValueError, match=message):
        generate(toy.transformer(), prompt, SampleConfig(), ())
