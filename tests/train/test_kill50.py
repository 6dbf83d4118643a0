"""Killed at 50 random moments, also inside a save, and resumed each time: the same bits as without a kill."""

import json
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch

from congling.reporter import read_metrics
from congling.train.checkpoint import Checkpoint, Checkpoints
from congling.train.journal import JOURNAL
from train.killing import Moment, run
from train.tiny_job import Counting

STEPS = 24
SETTINGS = {"tokens": 64 * STEPS, "checkpoint_every": 3, "log_every": 1, "keep_checkpoints": 1, "guard": "skip"}
CHANGES = {  # position in the data: what is asked for when it is reached
    64 * 5: {"batch_tokens": 128, "seq_len": 16},
    64 * 12: {"seq_len": 32, "lr": 4e-3, "transition_steps": 3},
}
GUARDED = {**SETTINGS, "guard": "rewind", "guard_window": 4, "guard_deviations": 3.0, "guard_patience": 2}
BAD = (64 * 15, 64 * 18)  # positions of spoilt batches
KILLS, KILLS_IN_A_RUN = 50, 10


def last(folder: Path) -> Checkpoint:
    found = Checkpoints(folder / "checkpoints", Counting.fingerprint, 1).latest()
    assert found is not None
    return found


def rows(folder: Path) -> list[dict]:
    """The rows of metrics but for what is measured in seconds."""
    kept = ("kind", "step", "tokens", "loss", "lr", "seq_len", "grad_norm")
    return [{key: row.get(key) for key in kept} for row in read_metrics(folder / "metrics.jsonl")]


def assert_same(folder: Path, reference: Path) -> None:
    """The last checkpoints hold the same bits, and the rows of metrics are the same, each once."""
    ours, theirs = last(folder), last(reference)
    assert ours.step == theirs.step
    for found, expected in ((ours.weights, theirs.weights), (ours.optimizer, theirs.optimizer)):
        assert found.keys() == expected.keys()
        assert [name for name, value in found.items() if not torch.equal(value, expected[name])] == []
    assert sorted(ours.state.items()) == sorted(theirs.state.items())
    assert rows(folder) == rows(reference)
    assert [p.name for p in (folder / "checkpoints").iterdir() if p.name.startswith(".")] == []


def random_moment(rng: random.Random, counts: dict[str, int], milliseconds: float) -> Moment:
    """Within the first third of a run, so that several kills fit into one."""
    kind = rng.choices(("batch", "disk", "time"), (3, 5, 2))[0]
    number = milliseconds if kind == "time" else counts[kind]
    return Moment(kind, rng.randint(1, max(int(number / 3), 1)), rng.random() < 0.5)


def killed_run(folder: Path, rng: random.Random, counts, settings=SETTINGS, **options) -> list[Moment]:
    """Kills and resumes until the training has ended; returns the moments of the kills."""
    kills = []
    for _ in range(KILLS_IN_A_RUN):
        moment = random_moment(rng, counts, 120)
        if not run(folder, settings, moment, **options):
            return kills
        kills.append(moment)
    assert not run(folder, settings, **options)
    return kills


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The folder of a whole run, and how many batches and things done to the disk there were."""
    folder = tmp_path_factory.mktemp("whole")
    assert not run(folder, SETTINGS)
    return folder, json.loads((folder / "counts.json").read_text())


def test_killed_50_times(tmp_path, reference):
    whole, counts = reference
    kills: list[Moment] = []
    seed = 0
    while len(kills) < KILLS:
        rng = random.Random(seed)
        settings = {**SETTINGS, "loader_threads": seed % 2, "checkpoint_every": rng.choice((1, 2, 3))}
        folder = tmp_path / str(seed)
        try:
            kills += killed_run(folder, rng, counts, settings)
            assert_same(folder, whole)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        shutil.rmtree(folder)
        seed += 1
    kinds = Counter(moment.kind for moment in kills)
    assert min(kinds[kind] for kind in ("batch", "disk", "time")) >= 3, kinds


@pytest.mark.parametrize("seed", range(2))
def test_killed_across_live_changes(tmp_path, reference, seed):
    """Batch and length change while it runs; a run that reads the same journal from the start is the reference."""
    rng, (_, counts) = random.Random(100 + seed), reference
    kills = killed_run(tmp_path / "killed", rng, counts, changes=CHANGES)
    assert len(kills) >= 3
    (tmp_path / "whole").mkdir()
    shutil.copy(tmp_path / "killed" / JOURNAL, tmp_path / "whole" / JOURNAL)
    assert not run(tmp_path / "whole", SETTINGS)
    assert_same(tmp_path / "killed", tmp_path / "whole")
    found = [row["seq_len"] for row in rows(tmp_path / "whole") if row["kind"] == "train"]
    assert found == sorted(found)
    assert {8, 32} <= set(found) <= {8, 16, 32}  # after a kill, both changes may come before the same step
    assert len(rows(tmp_path / "whole")) < len(rows(reference[0]))  # fewer, larger steps


@pytest.mark.parametrize("seed", range(2))
def test_killed_across_a_rewind(tmp_path, seed):
    """Some batches are spoilt, the guard goes back to a checkpoint: killed runs decide alike."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert not run(whole, GUARDED, bad=BAD)
    kills = killed_run(
        killed, random.Random(200 + seed), json.loads((whole / "counts.json").read_text()), GUARDED, bad=BAD
    )
    assert len(kills) >= 3
    assert_same(killed, whole)
    entries = [json.loads(line) for line in (whole / JOURNAL).read_text().splitlines()]
    assert "rewind" in [entry["kind"] for entry in entries]
    assert (killed / JOURNAL).read_text() == (whole / JOURNAL).read_text()
