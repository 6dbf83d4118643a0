import json
import math

import pytest
import torch

from congling.reporter import read_metrics
from congling.train.config import LoopConfig
from congling.train.guard import Guard
from congling.train.journal import Journal
from congling.train.loop import Trainer
from train.tiny_job import make_job, weights

INF, NAN = math.inf, math.nan


def guard(mode="skip", **changes) -> Guard:
    return Guard(LoopConfig(guard=mode, **{"guard_window": 8, "guard_patience": 3, **changes}))


def calm(found: Guard, steps: int, loss: float = 3.0, first: int = 0, every: int = 4) -> Guard:
    for step in range(first + 1, first + steps + 1):
        assert found.judge(loss + 0.01 * (step % 3), 1.0 + 0.1 * (step % 2)) == "ok"
        found.passed(step, checkpoint=step % every == 0)
    return found


@pytest.mark.parametrize("mode", ["off", "skip", "rewind"])
@pytest.mark.parametrize(("loss", "norm"), [(NAN, 1.0), (INF, 1.0), (3.0, NAN), (3.0, INF)])
def test_what_is_no_number_is_left_out_in_any_mode(mode, loss, norm):
    found = guard(mode)
    assert found.judge(loss, norm) == "skip"  # the first step, too
    assert found.bad_steps == 1
    assert found.judge(3.0, 1.0) == "ok"
    assert found.bad_steps == 0


def test_spikes_of_loss_and_norm():
    assert calm(guard("off"), 8).judge(9.0, 1.0) == "ok"
    assert calm(guard(), 7).judge(9.0, 1.0) == "ok"  # the warm-up
    found = calm(guard(), 8)
    assert found.judge(3.1, 9.0) == "ok"
    assert found.judge(3.5, 1.0) == "skip"
    assert found.reason == "loss 3.5 is above 3.256; the median of 8 steps is 3.015"  # 8 times 1 %
    assert found.judge(3.0, 12.0) == "skip"
    assert found.reason.startswith("gradient norm 12 is above")
    assert found.judge(0.5, 0.01) == "ok"  # low is never a spike


def test_near_zero_nothing_small_is_a_spike():
    found = guard()
    for _ in range(8):
        assert found.judge(0.001, 0.01) == "ok"
    assert found.judge(0.05, 0.9) == "ok"  # below a tenth of a nat, and not clipped
    assert found.judge(0.2, 0.01) == "skip"
    assert found.judge(0.001, 1.5) == "skip"


def test_wide_losses_widen_the_limit():
    found = guard()
    for step in range(8):
        assert found.judge(3.0 + 0.2 * (-1) ** step, 1.0) == "ok"
    assert found.judge(5.0, 1.0) == "ok"  # MAD 0.2: the limit is 3 + 8 · 1.48 · 0.2
    assert found.judge(5.5, 1.0) == "skip"


def test_a_lasting_level_is_taken_as_normal():
    found = calm(guard(), 8)
    assert [found.judge(6.0, 1.0) for _ in range(4)] == ["skip", "skip", "ok", "ok"]


def test_another_kind_of_batch_has_its_own_normal():
    found = guard()
    for _ in range(8):
        found.judge(3.0, 1.0, "64 of 8")
    assert found.judge(6.0, 1.0, "64 of 16") == "ok"
    assert found.judge(6.0, 90.0, "64 of 16") == "ok"


def test_goes_back_to_a_checkpoint_with_calm_after_it():
    found = calm(guard("rewind"), 17)  # checkpoints at 4, 8, 12, 16; 16 is too fresh
    assert found.good == 12
    assert found.needed == (12, 16)
    assert [found.judge(6.0, 1.0) for _ in range(3)] == ["skip", "skip", "rewind"]
    found.rewound()
    assert (found.good, found.rewinds, found.needed) == (12, 1, (12,))
    calm(found, 8, first=20)  # a checkpoint at 24 that proves good
    assert (found.good, found.rewinds) == (24, 0)


def test_numbers_that_are_none_lead_to_a_rewind_too():
    assert [calm(guard("rewind"), 17).judge(NAN, 1.0) for _ in range(1)] == ["skip"]
    found = calm(guard("rewind"), 17)
    assert [found.judge(NAN, NAN) for _ in range(3)] == ["skip", "skip", "rewind"]
    without = guard("rewind")
    assert [without.judge(NAN, NAN) for _ in range(5)] == ["skip"] * 5  # nowhere to go


def test_its_memory_goes_through_json():
    one = calm(guard("rewind"), 17)
    one.judge(6.0, 1.0)
    other = guard("rewind")
    other.load_state(json.loads(json.dumps(one.state())))
    assert other.state() == one.state()
    seen = [(6.0, 1.0), (3.0, 1.0), (INF, 1.0), (6.0, 2.0), (3.0, 90.0), (6.0, 1.0)]
    assert [one.judge(*values) for values in seen] == [other.judge(*values) for values in seen]
    assert one.state() == other.state()


# -- in the loop -------------------------------------------------------------------------------------------------------

GUARDED = {
    "tokens": 64 * 40,
    "guard": "rewind",
    "guard_window": 6,
    "guard_patience": 3,
    "muon_step": None,
    "lengths": (8,),
    "keep_checkpoints": 1,
    "lr": 3e-3,
}


def break_weights(job, steps) -> Trainer:
    """In these ``steps`` (1 is the first) the update goes wrong, as a bug or a bit flip would make it."""
    trainer = Trainer(job)
    step = trainer.optimizer.step

    def broken(number, lr, **options):
        found = step(number, lr, **options)
        if number + 1 in steps:
            with torch.no_grad():
                job.model.embedding.mul_(30)
        return found

    trainer.optimizer.step = broken
    return trainer


def test_broken_weights_are_taken_back(tmp_path):
    job = make_job(tmp_path, **GUARDED)
    trainer = break_weights(job, {21})
    summary = trainer.run()
    (entry,) = [e for e in Journal(tmp_path).entries if e["kind"] == "rewind"]
    assert entry["to"] == 16  # 20 was too fresh
    assert entry["step"] == 24
    assert entry["skip"] == 64 * 8
    assert summary["tokens"] == 64 * 40
    assert summary["steps"] == 48  # the eight steps after 16 are made up for, with other data
    assert summary["skipped_steps"] == 3
    assert trainer.at.position == 64 * 48
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [(r["step"], r["event"], r.get("to")) for r in rows if r["kind"] == "note"] == [
        (22, "skip", None),
        (23, "skip", None),
        (24, "skip", None),
        (24, "rewind", 16),
    ]
    assert summary["loss"] < 3.6


def test_a_rewind_that_is_killed_ends_alike(tmp_path):
    """Killed after the bad steps and after the rewind, before the next checkpoint: both are decided again."""

    class KilledError(Exception):
        pass

    def kill_once_at(job, step):
        trainer = break_weights(job, {21})
        real = trainer._step

        def stepped(plan, bar):
            if trainer.at.step == step:
                raise KilledError
            return real(plan, bar)

        trainer._step = stepped
        with pytest.raises(KilledError):
            trainer.run()

    whole = make_job(tmp_path / "whole", **GUARDED)
    break_weights(whole, {21}).run()
    for step in (23, 25, 26):
        kill_once_at(make_job(tmp_path / "killed", **GUARDED), step)
    job = make_job(tmp_path / "killed", **GUARDED)
    break_weights(job, {21}).run()
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(job).items())
    assert Journal(tmp_path / "killed").entries == Journal(tmp_path / "whole").entries
    steps = [
        [(r["kind"], r["step"]) for r in read_metrics(tmp_path / n / "metrics.jsonl")] for n in ("whole", "killed")
    ]
    assert steps[0] == steps[1]


def test_a_rewind_again_and_again_stops(tmp_path):
    trainer = break_weights(make_job(tmp_path, **{**GUARDED, "max_rewinds": 2}), range(21, 99))
    with pytest.raises(ValueError, match="the loss is high again after 2 rewinds to step 16: lower lr"):
        trainer.run()
    assert [e["step"] for e in trainer.control.journal.entries if e["kind"] == "rewind"] == [24, 28]


def test_a_rewind_without_its_checkpoint_goes_on(tmp_path):
    job = make_job(tmp_path, **GUARDED)
    job.checkpoints.save = lambda checkpoint: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    warned = []
    job.reporter.warn = warned.append
    summary = break_weights(job, {21}).run()
    assert summary["tokens"] == 64 * 40
    assert any("No space left" in text for text in warned)
    assert any("no rewind, the checkpoint of step 16 was not saved" in text for text in warned)
