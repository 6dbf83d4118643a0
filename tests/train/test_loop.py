import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from congling.model.loss import IGNORE
from congling.reporter import read_metrics
from congling.train.loop import Interrupted, Trainer
from train.tiny_job import Counting, make_job, train, weights

GOLDEN = [3.838, 3.676, 3.522, 3.503, 3.429, 3.363]  # at steps 4, 8, 10, 12, 16, 20


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A whole run: its weights, summary and rows of metrics."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("whole")
    job, summary = train(folder)
    torch.set_num_threads(threads)
    return weights(job), summary, read_metrics(folder / "metrics.jsonl")


def same(job, expected) -> bool:
    return all(torch.equal(value, expected[name]) for name, value in weights(job).items())


def test_golden_curve(reference):
    """A change of these numbers is a change of the training: explain it in docs/log.md."""
    _, summary, rows = reference
    found = [row["loss"] for row in rows if row["kind"] == "train"]
    assert found == pytest.approx(GOLDEN, abs=0.02)
    assert summary["loss"] < found[-1] < found[0] - 0.4


def test_rows_of_metrics(reference):
    _, summary, rows = reference
    train_rows = [row for row in rows if row["kind"] == "train"]
    assert [row["step"] for row in train_rows] == [4, 8, 10, 12, 16, 20]  # 10: the length changes
    assert [row["seq_len"] for row in train_rows] == [8, 8, 8, 16, 16, 16]
    assert [row["optimizer"] for row in train_rows] == ["adamw"] + ["muon"] * 5
    assert [(row["step"], row["tokens"]) for row in rows if row["kind"] == "valid"] == [
        (8, 512),
        (16, 1024),
        (20, 1280),
    ]
    assert [row["text"] for row in rows if row["kind"] == "sample"] == ["甲乙"] * 3
    for row in train_rows:
        assert row["bits_per_byte"] == pytest.approx(row["loss"] / 0.6931471805599453 / 3)  # every token is 3 bytes
        assert row["tokens_per_second"] > 0
        assert row["grad_norm"] > 0
    assert summary["steps"] == 20
    assert summary["tokens_per_second"] > 0
    assert summary["bits_per_byte"] == pytest.approx(rows[-2]["bits_per_byte"])


@pytest.mark.parametrize("stops", [(3, 9), (10,), (17, 18)])
def test_stopped_runs_end_with_the_same_bits_and_rows(tmp_path, reference, stops):
    for stop in stops:

        def ask(position, stop=stop):
            if position >= 64 * stop:
                os.kill(os.getpid(), signal.SIGTERM)

        with pytest.raises(Interrupted, match="the same command goes on"):
            train(tmp_path, source=Counting(ask))
    job, summary = train(tmp_path)
    assert same(job, reference[0])
    assert summary["loss"] == reference[1]["loss"]
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [(r["kind"], r["step"]) for r in rows] == [(r["kind"], r["step"]) for r in reference[2]]
    assert [r["loss"] for r in rows if r["kind"] == "valid"] == [
        r["loss"] for r in reference[2] if r["kind"] == "valid"
    ]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_killed_twice_ends_with_the_same_bits(tmp_path, reference):
    script = Path(__file__).parent / "tiny_job.py"
    for step in (7, 15):
        done = subprocess.run([sys.executable, script, tmp_path, str(64 * step)], capture_output=True, text=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
    job, _ = train(tmp_path, log_every=1)
    assert same(job, reference[0])
    rows = [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl") if row["kind"] == "train"]
    assert rows == list(range(1, 21))  # what was written after the last checkpoint was taken back


@pytest.mark.parametrize("clip", [0.0, 0.05, 100.0])
def test_gradients_are_means_and_clipped(tmp_path, clip):
    job = make_job(tmp_path, grad_clip=clip)
    for parameter in job.model.parameters():
        parameter.grad = torch.full_like(parameter, 2.0)
    size = sum(parameter.numel() for parameter in job.model.parameters())
    expected = 2 * size**0.5 / 8
    assert Trainer(job)._scale_and_clip(8) == pytest.approx(expected)
    after = torch.nn.utils.get_total_norm([parameter.grad for parameter in job.model.parameters()])
    assert float(after) == pytest.approx(min(expected, clip or expected), rel=1e-5)


def test_a_finished_training_measures_without_new_rows(tmp_path, reference):
    train(tmp_path)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    job, summary = train(tmp_path)
    assert same(job, reference[0])
    assert summary["loss"] == reference[1]["loss"]
    assert summary["tokens_per_second"] is None
    assert read_metrics(tmp_path / "metrics.jsonl") == rows


def test_display_and_checkpoints_do_not_change_the_training(tmp_path, reference):
    job, _ = train(tmp_path, log_every=1, valid_every=1, sample_every=3, checkpoint_every=20, checkpoint_seconds=1e-9)
    assert same(job, reference[0])


def poison(model, steps):
    """Makes the loss of some steps NaN, as a bad batch would."""
    real, calls = model.loss, []

    def loss(*args):
        total, count = real(*args)
        if model.training:  # two micro-batches a step
            calls.append(1)
            total = total * float("nan") if (len(calls) - 1) // 2 in steps else total
        return total, count

    model.loss = loss


def test_a_bad_step_never_reaches_the_weights(tmp_path):
    job = make_job(tmp_path, log_every=1)
    poison(job.model, {5, 12})
    trainer, seen = Trainer(job), {}
    step = trainer._step

    def watched(number, interval):
        before = {**weights(job), **{k: v.clone() for k, v in trainer.optimizer.state().items()}}
        step(number, interval)
        after = {**weights(job), **trainer.optimizer.state()}
        seen[number] = all(torch.equal(value, after[name]) for name, value in before.items())

    trainer._step = watched
    summary = trainer.run()
    assert [number for number, unchanged in seen.items() if unchanged] == [5, 12]
    assert summary["skipped_steps"] == 2
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows if row["kind"] == "note"] == [6, 13]
    assert 6 not in [row["step"] for row in rows if row["kind"] == "train"]
    assert all(torch.isfinite(value).all() for value in weights(job).values())


def test_too_many_bad_steps_stop_the_training(tmp_path):
    job = make_job(tmp_path, max_bad_steps=3)
    poison(job.model, {6, 7, 8, 9})
    with pytest.raises(ValueError, match=r"3 steps in a row without a finite gradient; lower lr"):
        Trainer(job).run()
    assert job.checkpoints.latest().step == 8  # with the weights of step 6


def test_nothing_to_learn_is_an_error(tmp_path):
    class Masked(Counting):
        def batch(self, position, num_rows, seq_len):
            batch = super().batch(position, num_rows, seq_len)
            batch.targets.fill_(IGNORE)
            return batch

    with pytest.raises(ValueError, match="step 1 has no target to learn"):
        train(tmp_path, source=Masked())


def test_micro_batches_only_split_the_sum(tmp_path):
    job, whole = train(tmp_path / "a", dropout=0.0, micro_batch_tokens=64)
    other, split = train(tmp_path / "b", dropout=0.0, micro_batch_tokens=16)
    assert split["loss"] == pytest.approx(whole["loss"], abs=1e-3)
    for name, value in weights(job).items():
        torch.testing.assert_close(value, weights(other)[name], rtol=1e-2, atol=2e-3)


def test_other_threads_are_said(tmp_path):
    with pytest.raises(Interrupted):
        train(tmp_path, source=Counting(lambda position: os.kill(os.getpid(), signal.SIGTERM)))
    torch.set_num_threads(2)
    job = make_job(tmp_path, tokens=64 * 2)
    warned = []
    job.reporter.warn = warned.append
    Trainer(job).run()
    assert warned == ["1 threads before, 2 now: the last bits may differ"]
