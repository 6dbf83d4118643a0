import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from congling.train.config import LoopConfig
from congling.train.schedule import Change, Schedule

SMALL = {"tokens": 1100, "batch_tokens": 100, "micro_batch_tokens": 100, "lengths": (2, 4), "lr": 1.0, "lr_final": 0.2}


def lr(step: int, **changes) -> float:
    return Schedule(LoopConfig(**{**SMALL, "warmup_steps": 0, **changes})).at(step, 100 * step).lr


def walk(schedule) -> list:
    """All plans of a training in which no step is left out."""
    step = tokens = 0
    found = []
    while not schedule.finished(step, tokens):
        found.append(schedule.at(step, tokens))
        step, tokens = step + 1, tokens + found[-1].batch_tokens
    return found


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
    plans = walk(schedule)
    assert [plan.seq_len for plan in plans] == [2, 2] + [20] * 9
    assert [step for step, plan in enumerate(plans) if plan.ends_phase] == [1, 10]
    assert [plan.last for plan in plans] == [False] * 10 + [True]


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
    plans = walk(schedule)
    lengths = [plan.seq_len for plan in plans]
    assert len(plans) == steps
    assert lengths == sorted(lengths)
    assert all(0 < plan.lr <= schedule.config.lr for plan in plans)
    assert plans[-1].ends_phase


def test_wsd_along_a_root():
    found = [lr(step, schedule="wsd", cooldown_share=0.4, cooldown_shape="sqrt") for step in (6, 7, 10)]
    assert found == pytest.approx([1, 0.2 + 0.8 * (1 - 0.25**0.5), 0.2])


def test_the_seeds_wave_goes_down_to_a_tenth_and_stands_still_in_the_cooldown():
    waves = {"schedule": "seed", "wave_steps": 4, "cooldown_share": 0.2, "lr_final": 0.0}
    assert [lr(step, **waves) for step in range(9)] == pytest.approx([1, 0.55, 0.1, 0.55, 1, 0.55, 0.1, 0.55, 1])
    assert [lr(step, **waves) for step in (9, 10)] == pytest.approx([0.5, 0])


def test_a_batch_for_each_phase():
    grown = Schedule(LoopConfig(**{**SMALL, "batch_schedule": (100, 200)}))
    plans = walk(grown)
    assert [plan.batch_tokens for plan in plans] == [100] * 5 + [200] * 3  # the middle of the sixth lies beyond 550
    assert [plan.seq_len for plan in plans] == [2] * 5 + [4] * 3
    assert plans[-1].lr < 0.3


def test_live_changes_stand_until_the_next():
    changes = [Change(2, batch_tokens=200), Change(4, seq_len=4), Change(5, seq_len=2, batch_tokens=100)]
    plans = walk(Schedule(LoopConfig(**{**SMALL, "lengths": (2, 4), "length_shares": (1.0, 0.0)}), changes))
    assert [(plan.batch_tokens, plan.seq_len) for plan in plans] == [(100, 2)] * 2 + [(200, 2)] * 2 + [(200, 4)] + [
        (100, 2)
    ] * 3
    assert [n for n, plan in enumerate(plans) if plan.ends_phase] == [3, 4, 7]
    assert sum(plan.batch_tokens for plan in plans) == 1100


def test_a_change_of_length_keeps_the_tokens_a_step():
    (before, after) = (Schedule(LoopConfig(**SMALL), [Change(1, seq_len=4)]).at(step, 100 * step) for step in (0, 1))
    assert (before.seq_len, after.seq_len) == (2, 4)
    assert before.batch_tokens == after.batch_tokens


def test_a_live_rate_moves_along_the_s_curve():
    changes = [Change(2, lr=2.0, transition_steps=4), Change(4, lr=0.5)]
    constant = LoopConfig(**{**SMALL, "schedule": "constant", "warmup_steps": 0})
    alone = [Schedule(constant, changes[:1]).at(step, 100 * step).lr for step in range(7)]
    assert alone == pytest.approx([1, 1, 1.125, 1.5, 1.875, 2, 2])
    both = [Schedule(constant, changes).at(step, 100 * step).lr for step in range(6)]
    assert both == pytest.approx([1, 1, 1.125, 1.5, 0.5, 0.5])  # at once, from wherever it was
    wsd = Schedule(LoopConfig(**{**SMALL, "schedule": "wsd", "warmup_steps": 0}), changes[:1])
    assert wsd.at(9, 900).lr == pytest.approx(0.2 + 1.8 / 2)  # the cooldown begins at the new peak
    assert wsd.at(10, 1000).lr == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"lengths": ()}, "lengths"),
        ({"lengths": (3, 4)}, "lengths"),
        ({"lengths": (64,), "micro_batch_tokens": 100, "batch_tokens": 100}, "micro_batch_tokens 100"),
        ({"batch_tokens": 5000}, "batch_tokens 5000"),
        ({"length_shares": (1.0,)}, "length_shares"),
        ({"batch_schedule": (8192,)}, "batch_schedule"),
        ({"batch_schedule": (8192, 8192, 5000)}, "batch_schedule 5000 is no multiple of micro_batch_tokens 4096"),
        ({"guard": "on"}, "guard"),
        ({"guard_window": 1}, "guard_window"),
        ({"betas": (1.0, 0.9)}, "betas"),
        ({"muon_step": -1}, "muon_step"),
        ({"lr": float("nan")}, "lr"),
    ],
)
def test_impossible_values_are_refused(changes, named):
    with pytest.raises(ValidationError, match=named):
        LoopConfig(**changes)
