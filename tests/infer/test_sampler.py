"""Hand-computed cases of the sampler, its laws, and both of its kernels beside each other."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from congling.infer import sampler as module
from congling.infer.config import SampleConfig
from congling.infer.penalties import Rules
from congling.infer.sampler import Sampler, choose_batch

LOGITS = torch.tensor([0.5, 0.25, 0.125, 0.125]).log()
PLAIN = {"temperature": 1.0, "top_p": 1.0, "repetition_penalty": 0.0}


@pytest.fixture(params=["numba", "torch"])
def kernels(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(module, "_kernels", lambda: None)


def kept(logits, **settings):
    """The tokens that can be drawn: 64 numbers spread over [0, 1)."""
    found = set()
    for n in range(64):
        sampler = Sampler(SampleConfig(**{**PLAIN, **settings}), [0], len(logits))
        sampler.uniform = lambda n=n: n / 64
        found.add(sampler.choose(logits).token)
    return sorted(found)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0, 1, 2, 3]),
        ({"top_k": 1}, [0]),
        ({"top_k": 2}, [0, 1]),
        ({"top_k": 3}, [0, 1, 2, 3]),  # the third and the fourth are equal: both stay
        ({"top_p": 0.4}, [0]),
        ({"top_p": 0.6}, [0, 1]),
        ({"top_p": 0.8}, [0, 1, 2, 3]),
        ({"top_k": 2, "top_p": 0.7}, [0, 1]),  # of the two kept, renormalised to 2/3 and 1/3
        ({"top_k": 2, "top_p": 0.6}, [0]),
        ({"top_k": 9}, [0, 1, 2, 3]),
        ({"min_p": 0.6}, [0]),
        ({"min_p": 0.4}, [0, 1]),
        ({"min_p": 0.2}, [0, 1, 2, 3]),
        ({"top_p": 0.9, "min_p": 0.4}, [0, 1]),  # top-p keeps all: min-p does not change whose mass counts
        ({"top_k": 3, "top_p": 0.6, "min_p": 0.1}, [0, 1]),
        ({"temperature": 0.0}, [0]),
        ({"temperature": 1e-6, "top_p": 0.9}, [0]),
    ],
)
def test_top_k_top_p_min_p(kernels, settings, expected):
    assert kept(LOGITS, **settings) == expected
    order = [3, 1, 0, 2]
    assert kept(LOGITS[order], **settings) == sorted(order.index(i) for i in expected)


def test_the_first_of_equals_is_the_likeliest(kernels):
    logits = torch.tensor([0.0, 2.0, 1.0, 2.0])
    assert Sampler(SampleConfig(**{**PLAIN, "temperature": 0.0}), [0], 4).choose(logits).token == 1


@pytest.mark.parametrize(
    ("settings", "allowed"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"top_k": 4}, [0, 2, 3, 4]),
        ({"top_p": 0.8}, [0, 2, 3]),
        ({"min_p": 0.1, "temperature": 0.7}, [0, 3]),
    ],
)
def test_drawn_tokens_follow_the_distribution(settings, allowed):
    logits = torch.tensor([1.0, -0.5, 0.3, 2.0, 0.0, -3.0])
    config = SampleConfig(**{**PLAIN, **settings}, seed=3)
    p = torch.softmax(logits.double() / config.temperature, -1).numpy()
    p = np.where(np.isin(np.arange(6), allowed), p, 0) / p[allowed].sum()
    sampler, count = Sampler(config, [0], 6), 6000
    counts = np.bincount([sampler.choose(logits).token for _ in range(count)], minlength=6)
    assert counts[p == 0].sum() == 0
    chi_square = ((counts - count * p)[p > 0] ** 2 / (count * p[p > 0])).sum()
    assert chi_square < 20.5  # 5 degrees of freedom: 1 in 1,000


def test_randomness_depends_on_seed_index_and_place_alone():
    config = SampleConfig(**PLAIN, seed=5)

    def draw(index=0, others=0, **changes):
        samplers = [Sampler(config.model_copy(update=changes), [0], 4, index + n) for n in range(1 + others)]
        return [choose_batch(LOGITS.repeat(1 + others, 1), samplers)[0].token for _ in range(40)]

    assert draw() == draw(others=3)
    assert len({tuple(draw(index)) for index in range(4)} | {tuple(draw(seed=6))}) == 5
    numbers = [Sampler(config, [0], 4, index).uniform() for index in range(2000)]
    assert abs(np.mean(numbers) - 0.5) < 0.02
    assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 0.07


SETTINGS = [
    {},
    {"temperature": 0.7, "top_p": 0.9},
    {"temperature": 1.3, "top_p": 0.99},
    {"top_k": 40},
    {"top_k": 2000, "top_p": 0.8},
    {"min_p": 0.05},
    {"top_k": 300, "top_p": 0.95, "min_p": 0.02, "temperature": 0.9},
    {"temperature": 0.0, "presence_penalty": 0.5},
    {"repetition_penalty": 0.6, "frequency_penalty": 0.3, "presence_penalty": -0.2, "top_p": 0.9},
    {"no_repeat_ngram": 2, "top_k": 5},
]


@pytest.mark.parametrize("size", [3, 70, 5000])
def test_numba_and_torch_choose_the_same(monkeypatch, size):
    generator = torch.Generator().manual_seed(size)
    prompt = torch.randint(size, (30,), generator=generator).tolist()
    rules = Rules(bias={0: 3.0, 1: -100.0}, banned=[2])
    samplers = [[Sampler(SampleConfig(**{**PLAIN, **s}), prompt, size, 7, rules, 3) for s in SETTINGS] for _ in "ab"]
    for _ in range(25):
        logits = 3 * torch.randn(len(SETTINGS), size, generator=generator)
        quick = choose_batch(logits, samplers[0])
        with monkeypatch.context() as patch:
            patch.setattr(module, "_kernels", lambda: None)
            plain = choose_batch(logits, samplers[1])
        assert [c.token for c in quick] == [c.token for c in plain]
        expected = logits.double().log_softmax(-1)
        for row, (a, b) in enumerate(zip(quick, plain, strict=True)):
            assert a.logprob == pytest.approx(expected[row, a.token].item(), abs=1e-5)
            assert a.logprob == pytest.approx(b.logprob, abs=1e-5)
            assert [i for i, _ in a.top] == [i for i, _ in b.top] == expected[row].topk(3).indices.tolist()


def test_log_probabilities_are_the_models_own(kernels):
    config = SampleConfig(temperature=0.0, top_k=1, repetition_penalty=5.0)
    choice = Sampler(config, [0], 4, rules=Rules(bias={1: -9.0}), logprobs=2).choose(LOGITS)
    assert choice.token == 2
    assert choice.logprob == pytest.approx(math.log(0.125))
    assert [i for i, _ in choice.top] == [0, 1]
    assert [math.exp(p) for _, p in choice.top] == pytest.approx([0.5, 0.25])
    assert Sampler(config, [0], 4).choose(LOGITS).logprob is None


def test_allowed_and_banned_ids(kernels):
    config = SampleConfig(**PLAIN)
    drawn = {Sampler(config, [0], 4, n, Rules(allowed=[1, 2, 3], banned=[2])).choose(LOGITS).token for n in range(40)}
    assert drawn == {1, 3}
    with pytest.raises(ValueError, match="not numbers"):
        Sampler(config, [0], 4, 0, Rules(allowed=[1])).choose(torch.tensor([0.0, -torch.inf, 0, 0]))
    with pytest.raises(ValueError, match="not numbers"):
        Sampler(config, [0], 4).choose(torch.full((4,), torch.nan))


def test_no_repeat_ngram_gives_way_where_it_leaves_nothing(kernels):
    sampler = Sampler(SampleConfig(temperature=0.0, no_repeat_ngram=1), [0, 1], 4, rules=Rules(allowed=[0, 1]))
    assert sampler.choose(LOGITS).token == 0


def test_forks_do_not_disturb_each_other():
    config = SampleConfig(temperature=0.0, repetition_penalty=2.0)
    sampler = Sampler(config, [3], 4)
    twin = sampler.fork()
    assert [sampler.choose(LOGITS).token for _ in range(3)] == [twin.choose(LOGITS).token for _ in range(3)]
    assert (sampler.fork(5).index, sampler.fork(5).place, sampler.index) == (5, 3, 0)


def test_without_numba():
    code = """
import sys
sys.modules["numba"] = None
import torch
from congling.infer.config import SampleConfig
from congling.infer.sampler import Sampler
sampler = Sampler(SampleConfig(seed=1), [0], 4)
print([sampler.choose(torch.tensor([1.0, 2.0, 0.5, 0.0])).token for _ in range(12)])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    sampler = Sampler(SampleConfig(seed=1), [0], 4)
    drawn = [sampler.choose(torch.tensor([1.0, 2.0, 0.5, 0.0])).token for _ in range(12)]
    assert done.stdout.strip() == str(drawn), done.stderr
