"""The whole loop on two ranks (as a script: one of them): batches, signals, requests and checkpoints are shared."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from congling.reporter import read_metrics
from congling.train.distributed import World
from congling.train.journal import Journal, request_change
from congling.train.loop import Trainer
from congling.train.stops import Interrupted
from train.tiny_job import Counting, make_job

LAST_ASKED, STOPPED = 64 * 5, 64 * 9  # positions


def one_rank(folder: Path, strategy: str) -> None:
    """Rank 0 is asked for a change; only rank 1 is told to stop."""
    torch.set_num_threads(1)
    world, done = World.start("cpu"), set()

    def at(position: int) -> None:
        if world.is_main and position >= LAST_ASKED and "asked" not in done:
            done.add("asked")
            request_change(folder, {"seq_len": 16, "batch_tokens": 128})
        if not world.is_main and position >= STOPPED and "told" not in done:
            done.add("told")
            os.kill(os.getpid(), signal.SIGTERM)

    job = make_job(folder, source=Counting(at), log_every=1, strategy=strategy)
    job.world = world
    try:
        Trainer(job).run()
        code = 0
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        code = 75
    world.close()
    sys.stderr.flush()
    os._exit(code)  # with sys.exit, a thread that torch left behind aborts one process in ten ("terminate called …")


def two_ranks(folder: Path, strategy: str) -> list[subprocess.CompletedProcess]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    command = [sys.executable, "-W", "ignore", __file__, str(folder), strategy]
    started = [
        subprocess.Popen(command, env={**environment, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    return [
        subprocess.CompletedProcess(command, process.returncode, stderr=error)
        for process in started
        for _, error in [process.communicate(timeout=120)]
    ]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_ranks_stop_alike_and_one_goes_on(tmp_path, strategy):
    for done in two_ranks(tmp_path / "two", strategy):
        assert done.returncode == 75, done.stderr
        assert "tiny: stopped after step 8, saved" in done.stderr
    journal = (tmp_path / "two" / "journal.jsonl").read_bytes()
    assert [entry["step"] for entry in Journal(tmp_path / "two").entries] == [6]
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "journal.jsonl").write_bytes(journal)
    for name in ("two", "one"):  # what two began and one ended, against one alone
        job = make_job(tmp_path / name, log_every=1)
        warned = []
        job.reporter.warn = warned.append
        Trainer(job).run()
        expected = ["2 ranks before, 1 now: the last bits may differ"] if name == "two" else []
        assert [text for text in warned if "ranks" in text] == expected
    two, one = (
        [r for r in read_metrics(tmp_path / name / "metrics.jsonl") if r["kind"] == "train"] for name in ("two", "one")
    )
    assert [(r["step"], r["batch_tokens"], r["seq_len"]) for r in two] == [
        (r["step"], r["batch_tokens"], r["seq_len"]) for r in one
    ]
    assert {r["batch_tokens"] for r in one} == {64, 128}
    assert [r["loss"] for r in two] == pytest.approx([r["loss"] for r in one], abs=1e-5)
    assert two[3]["grad_norms"] == pytest.approx(one[3]["grad_norms"], rel=1e-4)
    assert two[3]["update_norms"] == pytest.approx(one[3]["update_norms"], rel=1e-4)


def test_a_batch_that_the_ranks_cannot_share_is_refused_at_the_start(tmp_path):
    job = make_job(tmp_path, batch_schedule=(64, 96))
    job.world = World(device="cpu")
    trainer = Trainer(job)
    trainer.control._ranks = 2
    with pytest.raises(ValueError, match=r"batch_tokens 96 is no multiple of micro_batch_tokens 32 × 2 ranks; 128 is"):
        trainer.run()
    assert not read_metrics(tmp_path / "metrics.jsonl")


if __name__ == "__main__":
    one_rank(Path(sys.argv[1]), sys.argv[2])
