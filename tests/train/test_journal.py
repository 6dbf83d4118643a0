import errno
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from congling.reporter import read_metrics
from congling.train.control import Control
from congling.train.data import TokenWindows
from congling.train.journal import Journal, request_change
from congling.train.loop import Trainer
from congling.train.stops import Interrupted
from train.test_data import dataset
from train.tiny_job import Counting, make_job, train, weights


def requests(folder) -> list:
    return list((folder / "requests").glob("*"))


# -- the file ----------------------------------------------------------------------------------------------------------


def test_entries_come_back_once(tmp_path):
    journal = Journal(tmp_path)
    journal.record("skip", 3, reason="损失")
    journal.record("change", 5, set={"lr": 0.5, "transition_steps": 2})
    journal.record("skip", 3, reason="损失")  # a replayed step
    assert Journal(tmp_path).entries == journal.entries
    assert [entry["step"] for entry in journal.entries] == [3, 5]
    (change,) = journal.changes
    assert (change.step, change.lr, change.transition_steps, change.seq_len) == (5, 0.5, 2, None)


def test_a_torn_last_line_does_not_count(tmp_path):
    Journal(tmp_path).record("skip", 3)
    file = tmp_path / "journal.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"kind": "skip", "st')
    journal = Journal(tmp_path)
    assert [entry["step"] for entry in journal.entries] == [3]
    journal.record("skip", 4)
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [3, 4]


def test_another_broken_line_is_said(tmp_path):
    (tmp_path / "journal.jsonl").write_text('{"kind": "skip", "step": 1}\nnonsense\n{"kind": "skip", "step": 2}\n')
    with pytest.raises(ValueError, match=r"journal\.jsonl: line 2 is no entry"):
        Journal(tmp_path)


def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    journal = Journal(tmp_path)
    journal.record("skip", 3)
    before = (tmp_path / "journal.jsonl").read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        journal.record("skip", 4)
    assert (tmp_path / "journal.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "a change needs one of seq_len, batch_tokens, micro_batch_tokens, lr, transition_steps"),
        ({"tokens": 5}, "tokens cannot be changed while training"),
        ({"seq_len": 0}, "seq_len = 0: a number of tokens > 0"),
        ({"batch_tokens": 6.4e4}, "batch_tokens = 64000.0: a number of tokens"),
        ({"seq_len": True}, "seq_len = True"),
        ({"lr": float("nan")}, "lr = nan: a number > 0"),
        ({"lr": "1e-3"}, "lr = '1e-3': a number > 0"),
        ({"transition_steps": 5}, "beside lr"),
    ],
)
def test_impossible_requests_are_refused_at_once(tmp_path, values, message):
    with pytest.raises(ValueError, match=message):
        request_change(tmp_path, values)
    assert not requests(tmp_path)


# -- answers -----------------------------------------------------------------------------------------------------------


def control(tmp_path, ranks: int = 1) -> Control:
    job = make_job(tmp_path, lengths=(4, 8, 16), micro_batch_tokens=32)
    source = TokenWindows(dataset(tmp_path / "tokens", 1000), 16, seed=1)
    return Control(Journal(tmp_path), job.config, source, ranks)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('{"seq_len": 32}', "seq_len 32: the data are cut for lengths that divide 16, the longest of lengths"),
        ('{"seq_len": 12, "micro_batch_tokens": 48, "batch_tokens": 96}', "seq_len 12: the data are cut"),
        ('{"batch_tokens": 80}', r"batch_tokens 80 is no multiple of micro_batch_tokens 32 × 1 rank; 64 is"),
        ('{"micro_batch_tokens": 8}', "micro_batch_tokens 8 is no multiple of length 16; 16 is"),  # of a later phase
        ('{"lr": 1e-9}', "lr 1e-09 is below lr_final 0.001"),
        ('{"tokens": 1}', "tokens cannot be changed"),
        ("nonsense", "not JSON"),
        ("[1]", "a change needs one of"),
    ],
)
def test_what_does_not_fit_is_answered_with_the_reason(tmp_path, text, answer):
    found = control(tmp_path)
    (tmp_path / "requests").mkdir()
    (tmp_path / "requests" / "1.json").write_text(text)
    answers = []
    assert not found.take(3, 192, 192, answers.append)
    (said,) = answers
    assert said.startswith(f"request {text} refused: ")
    assert answer.split("×")[0] in said
    assert not requests(tmp_path)
    assert not found.journal.entries


def test_ranks_share_a_batch(tmp_path):
    found = control(tmp_path, ranks=2)
    found.check_all(0, 0)
    request_change(tmp_path, {"batch_tokens": 96})
    answers = []
    assert not found.take(3, 192, 192, answers.append)
    assert "batch_tokens 96 is no multiple of micro_batch_tokens 32 × 2 ranks; 128 is" in answers[0]
    with pytest.raises(ValueError, match="batch_tokens 64 is no multiple of micro_batch_tokens 32 × 3 ranks; 96 is"):
        control(tmp_path, ranks=3).check_all(0, 0)


def test_a_request_is_followed_once(tmp_path):
    found = control(tmp_path)
    file = request_change(tmp_path, {"seq_len": 16, "batch_tokens": 128})
    copy = file.read_bytes()
    assert found.take(3, 192, 192, pytest.fail)
    assert found.journal.entries == [
        {"kind": "change", "step": 3, "set": {"seq_len": 16, "batch_tokens": 128}, "request": file.name}
    ]
    plans = [found.schedule.at(step, 64 * step) for step in (2, 3)]
    assert [(plan.seq_len, plan.batch_tokens, plan.ends_phase) for plan in plans] == [(4, 64, True), (16, 128, False)]
    file.write_bytes(copy)  # killed between the entry and the deletion
    assert not control(tmp_path).take(4, 256, 256, pytest.fail)
    assert not requests(tmp_path)


# -- in the loop -------------------------------------------------------------------------------------------------------


class Asking(Counting):
    """A person who asks for changes when the training reaches some positions."""

    def __init__(self, folder, wishes, at=lambda position: None) -> None:
        super().__init__(at)
        self.folder, self.wishes = folder, dict(wishes)

    def batch(self, position, num_rows, seq_len):
        for wish in [p for p in self.wishes if position >= p]:
            request_change(self.folder, self.wishes.pop(wish))
        return super().batch(position, num_rows, seq_len)


WISHES = {
    64 * 3: {"seq_len": 8, "batch_tokens": 72, "micro_batch_tokens": 24, "lr": 2e-2, "transition_steps": 4},
    64 * 9: {"seq_len": 16, "batch_tokens": 128, "micro_batch_tokens": 64},  # at 616, which is no multiple of 16
    64 * 12: {"seq_len": 8, "batch_tokens": 64},
}
LONG = {"tokens": 64 * 30, "lengths": (8, 16)}


@pytest.fixture(scope="module")
def changed(tmp_path_factory):
    """A run in which people changed batch, length and rate: its weights, rows and folder."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("changed")
    said = []
    job = make_job(folder, source=Asking(folder, WISHES), log_every=1, **LONG)
    job.reporter.line = said.append
    Trainer(job).run()
    torch.set_num_threads(threads)
    return weights(job), read_metrics(folder / "metrics.jsonl"), folder, said


def test_changes_take_effect_between_steps(changed):
    _, rows, folder, said = changed
    train_rows = [row for row in rows if row["kind"] == "train"]
    assert [row["batch_tokens"] for row in train_rows] == [64] * 4 + [72] * 5 + [128] * 2 + [64] * 16
    assert [row["seq_len"] for row in train_rows] == [8] * 9 + [16] * 2 + [8] * 16
    assert train_rows[-1]["tokens"] == 4 * 64 + 5 * 72 + 2 * 128 + 16 * 64
    assert json.loads((folder / "checkpoints" / "step-0000027" / "manifest.json").read_text())["state"]["position"] == (
        train_rows[-1]["tokens"] + 8  # where rows of 16 may begin
    )
    assert not requests(folder)
    rates = [row["lr"] for row in train_rows]
    assert rates[3] == 1e-2 < rates[4] < rates[7] < 2e-2  # to the new peak in four steps, and down the cosine
    notes = [row["text"] for row in rows if row["kind"] == "note"]
    assert notes[1] == "from step 10 on: seq_len = 16, batch_tokens = 128, micro_batch_tokens = 64"
    assert [text for text in said if "as asked" in text] == [f"tiny: {text}, as asked" for text in notes]
    assert {p.name for p in (folder / "checkpoints").iterdir()} >= {"step-0000009", "step-0000011"}  # ends of phases


def test_killed_at_random_moments_across_the_changes(tmp_path, changed):
    """With the same journal and ``kill -9`` at random batches: the same bits, and the same rows."""
    expected, rows, folder, _ = changed
    (tmp_path / "journal.jsonl").write_bytes((folder / "journal.jsonl").read_bytes())
    script, last = Path(__file__).parent / "tiny_job.py", 64 * 30
    for position in sorted(random.Random(1).sample(range(64, last - 64), 3)):
        done = subprocess.run(
            [sys.executable, script, tmp_path, str(position), json.dumps(LONG)], capture_output=True, text=True
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
    torch.set_num_threads(1)
    job, _ = train(tmp_path, log_every=1, **LONG)
    assert all(torch.equal(value, expected[name]) for name, value in weights(job).items())
    found = read_metrics(tmp_path / "metrics.jsonl")
    assert [(r["kind"], r["step"], r.get("loss")) for r in found] == [
        (r["kind"], r["step"], r.get("loss")) for r in rows
    ]
    assert (tmp_path / "journal.jsonl").read_bytes() == (folder / "journal.jsonl").read_bytes()


def test_a_request_waits_for_the_next_run(tmp_path):
    with pytest.raises(Interrupted):
        train(tmp_path, source=Counting(lambda position: os.kill(os.getpid(), signal.SIGTERM)))
    request_change(tmp_path, {"micro_batch_tokens": 16})
    request_change(tmp_path, {"seq_len": 512})
    warned = []
    job = make_job(tmp_path)
    job.source = TokenWindows(dataset(tmp_path / "tokens", 1000, ids=torch.arange(1000) % 48), 16, seed=1)
    job.reporter.warn = warned.append
    trainer = Trainer(job)
    trainer.run()
    assert [entry["step"] for entry in trainer.control.journal.entries] == [1]
    assert "seq_len 512: the data are cut for lengths that divide 16" in warned[0] or "no multiple" in warned[0]
