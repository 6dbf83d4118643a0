"""Training on a Ray cluster of this machine: the same bytes as on threads, also when a worker is killed on the way."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from tokenizer.test_training import clean_stage, sentences, train

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster():
    before = signal.getsignal(signal.SIGTERM)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()
    signal.signal(signal.SIGTERM, before)  # it leaves its own behind


@pytest.mark.filterwarnings("ignore")
def test_same_bytes_as_threads_though_a_worker_dies(tmp_path, cluster):
    clean = clean_stage(tmp_path / "clean", sentences(600), shard_bytes=4000)
    train(tmp_path / "local", clean)
    killed = []

    def kill_workers() -> None:
        deadline = time.monotonic() + 60
        while not killed and time.monotonic() < deadline:
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    if (process / "cmdline").read_text().startswith("ray::_read_and_run"):
                        os.kill(int(process.name), signal.SIGKILL)
                        killed.append(process.name)
                        return
                except OSError:
                    continue
            time.sleep(0.001)

    thread = threading.Thread(target=kill_workers)
    thread.start()
    train(tmp_path / "ray", clean, executor="ray")
    thread.join()
    assert killed
    assert (tmp_path / "ray" / "vocabulary.txt").read_bytes() == (tmp_path / "local" / "vocabulary.txt").read_bytes()


def test_a_damaged_shard_is_one_line(tmp_path, cluster):
    clean = clean_stage(tmp_path / "clean", sentences(50))
    file = next(clean.glob("corpus-*.parquet"))
    raw = bytearray(file.read_bytes())
    raw[8 : len(raw) // 2] = bytes(len(raw) // 2 - 8)  # the text, not the index at the end
    file.write_bytes(raw)
    with pytest.raises(ValueError, match=r"corpus-00000\.parquet: damaged") as caught:
        train(tmp_path / "ray", clean, executor="ray")
    assert "\n" not in str(caught.value)


def test_without_the_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    clean = clean_stage(tmp_path / "clean", sentences(50))
    with pytest.raises(ValueError, match="Ray is not installed"):
        train(tmp_path / "ray", clean, executor="ray")
