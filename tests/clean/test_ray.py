"""The stage on a Ray cluster of two nodes of this machine: the bytes of a local run, also when a worker is killed."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from clean.stage import corpus_bytes, raw_files, run_stage

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    before = signal.getsignal(signal.SIGTERM)
    two_nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    two_nodes.add_node(num_cpus=1)
    ray.init(address=two_nodes.address, log_to_driver=False, configure_logging=False)
    yield two_nodes
    ray.shutdown()
    two_nodes.shutdown()
    signal.signal(signal.SIGTERM, before)  # it leaves its own behind


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("step", ["read_file", "finish_part"])
def test_same_bytes_as_local_though_a_worker_is_killed(tmp_path, cluster, step):
    assert len([node for node in ray.nodes() if node["Alive"]]) == 2
    raw = raw_files(tmp_path / "raw")
    run_stage(tmp_path / "local", raw, workers=1)
    killed: list[int] = []
    thread = threading.Thread(target=_kill_one, args=(f"ray::{step}", killed))
    thread.start()
    run_stage(tmp_path / "ray", raw, executor="ray")
    thread.join()
    assert killed
    assert corpus_bytes(tmp_path / "ray") == corpus_bytes(tmp_path / "local")


def _kill_one(name: str, killed: list[int]) -> None:
    """Kills the first process of that name."""
    deadline = time.monotonic() + 60
    while not killed and time.monotonic() < deadline:
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if (process / "cmdline").read_text().startswith(name):
                    os.kill(int(process.name), signal.SIGKILL)
                    killed.append(int(process.name))
                    return
            except OSError:
                continue
        time.sleep(0.001)
