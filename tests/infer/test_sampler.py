"""Hand-computed cases of the sampler, and its laws."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from congling.infer.config import SampleConfig
from congling.infer.sampler import Sampler, prompt_penalties, restrict

LOGITS = torch.tensor([0.5, 0.25, 0.125, 0.125]).log()


def kept(logits, top_k=0, top_p=1.0):
    return restrict(logits, top_k, top_p).isfinite().nonzero().flatten().tolist()


@pytest.mark.parametrize(
    ("top_k", "top_p", "expected"),
    [
        (0, 1.0, [0, 1, 2, 3]),
        (1, 1.0, [0]),
        (2, 1.0, [0, 1]),
        (0, 0.4, [0]),
        (0, 0.6, [0, 1]),
        (0, 0.8, [0, 1, 2, 3]),  # the third and the fourth are equal: both stay
        (2, 0.7, [0, 1]),  # of the two kept, renormalised to 2/3 and 1/3
        (2, 0.6, [0]),
        (9, 1.0, [0, 1, 2, 3]),
    ],
)
def test_top_k_and_top_p(top_k, top_p, expected):
    assert kept(LOGITS, top_k, top_p) == expected
    shuffled = LOGITS[[3, 1, 0, 2]]
    assert kept(shuffled, top_k, top_p) == sorted([2, 1, 3, 0][i] for i in expected)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), size=st.sampled_from([3, 50, 3000]), top_p=st.floats(0.01, 0.99))
def test_nucleus_is_the_smallest_that_reaches_top_p(seed, size, top_p):
    logits = 2 * torch.randn(size, generator=torch.Generator().manual_seed(seed))
    probabilities = torch.softmax(logits.double(), -1)
    chosen = kept(logits, top_p=top_p)
    mass = probabilities[chosen].sum().item()
    assert mass >= top_p - 1e-5
    assert mass - probabilities[chosen].min().item() < top_p + 1e-5
    assert probabilities.argmax().item() in chosen


def test_penalties_add_up_and_fade():
    assert prompt_penalties([2, 0, 2], 3, 1.0, 0.5).tolist() == [0.5, 0.0, 1.25]
    config = SampleConfig(temperature=0, repetition_penalty=1.0, repetition_decay=0.5)
    sampler = Sampler(config, [0], 3)
    logits = torch.tensor([1.5, 1.0, 0.2])
    # penalties before each step: (1, 0, 0), (.5, 1, 0), (1.25, .5, 0), (.625, 1.25, 0)
    assert [sampler.choose(logits) for _ in range(4)] == [1, 0, 1, 0]


def test_drawn_tokens_follow_the_distribution():
    config = SampleConfig(temperature=0.5, top_p=1, repetition_penalty=0, seed=3)
    sampler = Sampler(config, [0], 4)
    counts = torch.bincount(torch.tensor([sampler.choose(LOGITS) for _ in range(4000)]), minlength=4) / 4000
    expected = torch.softmax(LOGITS * 2, -1)
    assert (counts - expected).abs().max() < 4 * math.sqrt(0.25 / 4000)


def test_a_request_has_its_own_randomness():
    config = SampleConfig(top_p=1, seed=5)

    def draw(other):
        sampler = Sampler(config, [0], 4)
        if other:
            torch.manual_seed(0)
            Sampler(config, [0], 4).choose(LOGITS)
        return [sampler.choose(LOGITS) for _ in range(20)]

    assert draw(other=False) == draw(other=True)
