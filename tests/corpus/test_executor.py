import functools
import os
import signal
import subprocess
import sys
import time

import pytest

from congling.corpus.executor import Pool, map_tasks


def square(x):
    time.sleep(0.02 * (x % 3))
    return x * x


def fail(limit, x):
    if x >= limit:
        raise ValueError(f"task {x}: too large")
    return x


def process_of(x):
    time.sleep(0.05)
    return os.getpid()


def die(x):
    os.kill(os.getpid(), signal.SIGKILL)


def test_results_come_in_task_order():
    assert list(map_tasks(square, range(12), 2)) == list(map_tasks(square, range(12), 1))


def test_tasks_are_taken_as_needed():
    taken = []

    def tasks():
        for i in range(100):
            taken.append(i)
            yield i

    results = map_tasks(square, tasks(), 2)
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    assert len(taken) <= 7
    results.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_an_exception_surfaces_as_it_is(workers):
    results = map_tasks(functools.partial(fail, 2), range(5), workers)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="task 2: too large"):
        next(results)


def test_a_killed_worker_is_an_error():
    with pytest.raises(ChildProcessError, match=r"a worker process was killed.*run the same command again"):
        list(map_tasks(die, range(2), 2))


def test_workers_must_not_be_negative():
    with pytest.raises(ValueError, match="workers = -1: must be at least 1"):
        list(map_tasks(square, [1], -1))


def test_a_pool_starts_its_processes_once():
    with Pool(2) as pool:
        first = set(pool.map(process_of, range(6)))
        assert first >= set(pool.map(process_of, range(6)))
        assert os.getpid() not in first


def test_workers_leave_when_the_parent_is_killed(tmp_path):
    code = f"""
import os, sys, time
sys.path.insert(0, {str(tmp_path)!r})
from congling.corpus.executor import map_tasks
from work import sleep
if __name__ == "__main__":
    list(map_tasks(sleep, range(4), 2))
"""
    (tmp_path / "work.py").write_text(
        "import os, pathlib, time\n"
        f"def sleep(x):\n    pathlib.Path({str(tmp_path)!r}, f'{{os.getpid()}}.pid').touch()\n    time.sleep(60)\n"
    )
    (tmp_path / "main.py").write_text(code)
    parent = subprocess.Popen([sys.executable, str(tmp_path / "main.py")])
    pids = wait_for(lambda: [int(p.stem) for p in tmp_path.glob("*.pid")])
    parent.kill()
    parent.wait()
    assert wait_for(lambda: not any(is_running(pid) for pid in pids))


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    return None
