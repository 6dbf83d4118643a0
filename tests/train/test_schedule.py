import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from congling.train.config import LoopConfig
from congling.train.schedule import Schedule

SMALL = {"tokens": 1100, "batch_tokens": 100, "micro_batch_tokens": 100, "lengths": (2, 4), "lr": 1.0, "lr_final": 0.2}


def lr(step: int, **changes) -> float:
    return Schedule(LoopConfig(**{**SMALL, "warmup_steps": 0, **changes})).lr(step)


def test_warm_up_is_the_seeds_s_curve():
    found = [lr(step, warmup_steps=4) for step in range(4)]
    assert found == pytest.approx([2 / 16, 0.5, 1 - 2 / 16, 1.0])


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [  # at steps 0, 5, 8, 9, 10 of 11
        ("cosine", [1, 0.6, 0.2 + 0.4 * (1 + math.cos(0.8 * math.pi)), 0.2 + 0.4 * (1 + math.cos(0.9 * math.pi)), 0.2]),
        ("wsd", [1, 1, 1, 0.6, 0.2]),
        ("seed", [1, 1, 1, 0.6, 0.2]),
        ("constant", [1, 1, 1, 1, 1]),
    ],
)
def test_after_the_warm_up(schedule, expected):
    found = [lr(step, schedule=schedule, cooldown_share=0.2) for step in (0, 5, 8, 9, 10)]
    assert found == pytest.approx(expected)


def test_seed_cooldown_differs_from_the_line():
    assert lr(7, schedule="seed", cooldown_share=0.4) == pytest.approx(0.2 + 0.8 * (1 - 2 * 0.25**2))
    assert lr(7, schedule="wsd", cooldown_share=0.4) == pytest.approx(0.2 + 0.8 * 0.75)


def test_phases():
    schedule = Schedule(LoopConfig(**{**SMALL, "lengths": (1 * 2, 4, 20), "length_shares": (1.0, 0.0, 4.0)}))
    assert schedule.num_steps == 11
    assert [schedule.seq_len(step) for step in range(11)] == [2, 2] + [20] * 9
    assert [step for step in range(11) if schedule.ends_phase(step)] == [1, 10]


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 300), st.lists(st.floats(0.01, 9), min_size=1, max_size=4), st.integers(0, 400))
def test_every_step_has_a_length_and_a_rate(steps, shares, warmup):
    schedule = Schedule(
        LoopConfig(
            tokens=steps * 8,
            batch_tokens=8,
            micro_batch_tokens=8,
            lengths=(2, 2, 4, 8)[-len(shares) :],
            length_shares=tuple(shares),
            warmup_steps=warmup,
        )
    )
    lengths = [schedule.seq_len(step) for step in range(steps)]
    assert schedule.num_steps == steps
    assert lengths == sorted(lengths)
    assert all(0 < schedule.lr(step) <= schedule.config.lr for step in range(steps))
    assert schedule.ends_phase(steps - 1)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"lengths": ()}, "lengths"),
        ({"lengths": (3, 4)}, "lengths"),
        ({"lengths": (64,), "micro_batch_tokens": 100, "batch_tokens": 100}, "micro_batch_tokens 100"),
        ({"batch_tokens": 5000}, "batch_tokens 5000"),
        ({"length_shares": (1.0,)}, "length_shares"),
        ({"betas": (1.0, 0.9)}, "betas"),
        ({"muon_step": -1}, "muon_step"),
        ({"lr": float("nan")}, "lr"),
    ],
)
def test_impossible_values_are_refused(changes, named):
    with pytest.raises(ValidationError, match=named):
        LoopConfig(**changes)
