import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from congling.model.loss import IGNORE
from congling.reporter import read_metrics
from congling.train import record
from congling.train.cost import flops_per_token
from congling.train.loop import Trainer
from congling.train.stops import Interrupted, OutOfMemory, smaller_micro_batch
from train.tiny_job import Counting, make_job, tiny_model, train, weights

GOLDEN = [3.832, 3.678, 3.514, 3.447, 3.398, 3.338]  # at steps 4, 8, 10, 12, 16, 20


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
        assert row["grad_norm"] == pytest.approx(sum(x * x for x in row["grad_norms"].values()) ** 0.5)
        assert all(0 < x < 1 for x in row["update_norms"].values())  # of the weights' norm
        assert set(row["grad_norms"]) == set(row["update_norms"]) >= {"embedding", "attention", "feed_forward"}
        assert row["seconds_left"] == pytest.approx((1280 - row["tokens"]) / row["tokens_per_second"])
        assert row["memory"] > 1e7
        assert row["batch_tokens"] == 64
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
    trainer, seen = Trainer(job), []
    trainer.optimizer.step = lambda *_, **__: seen.extend(p.grad.clone() for p in job.model.parameters()) or {}
    trainer._update(trainer.control.schedule.at(0, 0), 8, expected)
    assert float(torch.nn.utils.get_total_norm(seen)) == pytest.approx(min(expected, clip or expected), rel=1e-5)


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
        found = real(*args)
        if model.training:  # two micro-batches a step
            calls.append(1)
            bad = float("nan") if (len(calls) - 1) // 2 in steps else 1
            found = found._replace(objective=found.objective * bad, nats=found.nats * bad)
        return found

    model.loss = loss


def test_a_bad_step_never_reaches_the_weights(tmp_path):
    job = make_job(tmp_path, log_every=1)
    poison(job.model, {5, 12})
    trainer, seen = Trainer(job), []
    step = trainer._step

    def watched(plan, bar):
        before = {**weights(job), **{k: v.clone() for k, v in trainer.optimizer.state().items()}}
        accepted = step(plan, bar)
        after = {**weights(job), **trainer.optimizer.state()}
        seen.append(all(torch.equal(value, after[name]) for name, value in before.items()))
        assert accepted != seen[-1]
        return accepted

    trainer._step = watched
    summary = trainer.run()
    assert [number for number, unchanged in enumerate(seen) if unchanged] == [5, 12]
    assert (summary["skipped_steps"], summary["steps"], summary["tokens"]) == (2, 22, 64 * 20)  # made up for
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["event"]) for row in rows if row["kind"] == "note"] == [(6, "skip"), (13, "skip")]
    assert [(e["kind"], e["step"]) for e in trainer.control.journal.entries] == [("skip", 6), ("skip", 13)]
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


# -- memory, disk ------------------------------------------------------------------------------------------------------


def no_memory(kind: str) -> None:
    """Raises what a device without memory does; the CPU's allocator really."""
    if kind == "cuda":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    if kind == "python":
        raise MemoryError
    torch.empty(1 << 60, dtype=torch.uint8)


@pytest.mark.parametrize("kind", ["cuda", "cpu", "python"])
def test_out_of_memory_saves_and_says_what_to_lower(tmp_path, reference, kind):
    def at(position):
        if position >= 64 * 11:
            no_memory(kind)

    job = make_job(tmp_path, source=Counting(at))
    with pytest.raises(OutOfMemory) as caught:
        Trainer(job).run()
    assert str(caught.value) == (
        "tiny: out of memory in step 12 at length 16, saved after step 11; lower micro_batch_tokens from 32 to 16: "
        "begin again with it, or ask `congling control RUN micro_batch_tokens=16`, and the same command goes on"
    )
    assert job.checkpoints.latest().step == 11
    assert same(train(tmp_path)[0], reference[0])  # nothing of the step that failed is in it


def test_out_of_memory_within_an_update_does_not_save_half_of_it(tmp_path):
    job = make_job(tmp_path)
    trainer = Trainer(job)
    step = trainer.optimizer.step

    def torn(number, lr, **options):
        if number == 5:
            with torch.no_grad():
                job.model.embedding.mul_(2)
            no_memory("cuda")
        return step(number, lr, **options)

    trainer.optimizer.step = torn
    with pytest.raises(OutOfMemory, match="in step 6 at length 8, the last checkpoint is intact; lower"):
        trainer.run()
    assert job.checkpoints.latest().step == 4


def test_other_errors_are_not_taken_for_want_of_memory(tmp_path):
    def at(position):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        train(tmp_path, source=Counting(at))


@pytest.mark.parametrize(
    ("batch", "micro", "length", "ranks", "expected"),
    [(64, 32, 8, 1, 16), (96, 96, 8, 1, 48), (72, 72, 8, 1, 24), (64, 32, 8, 2, 16), (64, 8, 8, 1, None)],
)
def test_smaller_micro_batches_divide_the_batch(batch, micro, length, ranks, expected):
    found = smaller_micro_batch(batch, micro, length, ranks)
    assert found == expected
    assert found is None or (batch % (found * ranks) == 0 and found % length == 0)


def test_a_full_disk_does_not_end_the_training(tmp_path, reference):
    """Neither checkpoints nor rows can be written from step 8 to 16."""
    full = {"now": False}

    def at(position):
        full["now"] = 64 * 8 <= position + 64 < 64 * 16

    job = make_job(tmp_path, source=Counting(at), log_every=1)
    save, write = job.checkpoints.save, job.metrics.write

    def unless_full(action):
        def act(*args, **values):
            if full["now"]:
                raise OSError(errno.ENOSPC, "No space left on device")
            action(*args, **values)

        return act

    job.checkpoints.save, job.metrics.write = unless_full(save), unless_full(write)
    warned = []
    job.reporter.warn = warned.append
    Trainer(job).run()
    assert same(job, reference[0])
    assert sum("not saved" in text for text in warned) == 3  # at 8, 10, 12
    assert sum("metrics are not written" in text for text in warned) == 1
    assert job.checkpoints.steps() == [16, 20]


def test_stopped_on_a_full_disk(tmp_path):
    job = make_job(tmp_path, source=Counting(lambda position: os.kill(os.getpid(), signal.SIGTERM)))

    def full(checkpoint):
        raise OSError(errno.ENOSPC, "No space left on device")

    job.checkpoints.save = full
    with pytest.raises(Interrupted, match="not saved, the last checkpoint is intact"):
        Trainer(job).run()


# -- what changes nothing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 3])
def test_loader_threads_change_nothing(tmp_path, reference, threads):
    job, _ = train(tmp_path, loader_threads=threads)
    assert same(job, reference[0])
    assert not [t for t in threading.enumerate() if t.name.startswith("congling-loader")]


def test_batches_grow_with_the_phases(tmp_path):
    train(tmp_path, batch_schedule=(32, 128), log_every=1)
    rows = [row for row in read_metrics(tmp_path / "metrics.jsonl") if row["kind"] == "train"]
    assert [row["batch_tokens"] for row in rows] == [32] * 20 + [128] * 5
    assert rows[-1]["tokens"] == 64 * 20


def test_compiled_layers_train_alike(tmp_path, reference):
    with torch.compiler.set_stance("force_eager"):  # the wiring; what the compiler makes of it is seen on a GPU
        job, _ = train(tmp_path, compile="on")
    assert same(job, reference[0])


def test_utilisation_is_measured_when_the_training_is_long_enough(monkeypatch):
    peaks = []
    monkeypatch.setattr(record, "device_peak", lambda device, dtype: peaks.append(device) or 1e9)
    architecture = tiny_model().architecture
    found = record.Utilisation(architecture, torch.device("cpu"), torch.float32, ranks=2)
    assert found.at(1000.0, 16) is None
    assert not peaks  # tiny trainings do not pay for it
    monkeypatch.setattr(record, "_MEASURE_AFTER", 0.0)
    assert found.at(1000.0, 16) == pytest.approx(1000 * flops_per_token(architecture, 16) / 2e9)
    found.at(2000.0, 16)
    assert len(peaks) == 1
