"""The server under 32 streaming clients beside one, its times to the first token, and whether its memory stays flat.

One client and many take turns, in three rounds (a long run: in one): the machine's speed may change while this runs.

Usage: python benchmarks/server.py [MODEL] [seconds=600] [clients=32] [max_tokens=128] [key=value of serve …]
Without MODEL: the preset jerry-0.18b with random weights (folder /tmp/congling-benchmark).
"""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

from common import speed, store
from server_process import holdings, random_model, serving

LONG = 300  # seconds from which on the run is about memory
CLIENT = Path(__file__).with_name("server_client.py")


def measure(port, clients, seconds, max_tokens, seed):
    command = [sys.executable, str(CLIENT), *map(str, (port, clients, seconds, max_tokens, seed))]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def watch(pid, samples, stop):
    """What the process holds, six times a minute."""
    start = time.monotonic()
    while not stop.wait(10):
        samples.append({"at": round(time.monotonic() - start), **holdings(pid)})


def main(words):
    settings = dict(word.split("=", 1) for word in words if "=" in word)
    model = next((word for word in words if "=" not in word), None) or random_model("/tmp/congling-benchmark")
    seconds, clients, max_tokens = (
        int(settings.pop(key, default)) for key, default in (("seconds", 600), ("clients", 32), ("max_tokens", 128))
    )
    rest = [f"{key}={value}" for key, value in settings.items()]
    rounds, start = (3 if seconds < LONG else 1), time.monotonic()
    with serving(model, f"engine.max_batch={clients}", *rest) as (process, port):
        measure(port, clients, min(10, seconds / 6).__ceil__(), max_tokens, 1)  # all memory that the first ones take
        samples, stop = [{"at": 0, **holdings(process.pid)}], threading.Event()
        watcher = threading.Thread(target=watch, args=(process.pid, samples, stop))
        watcher.start()
        one, many = [], []
        for turn in range(rounds):
            one.append(measure(port, 1, max(seconds // (10 * rounds), 5), max_tokens, 2 + turn))
            many.append(measure(port, clients, seconds // rounds, max_tokens, 12 + turn))
        stop.set()
        watcher.join()
        samples.append({"at": round(time.monotonic() - start), **holdings(process.pid)})
    figures = {
        "model": Path(model).name,
        "settings": rest,
        "one": one,
        "many": many,
        "speedup": round(speed(many) / speed(one), 2),
        "memory": samples[:: max(len(samples) // 12, 1)],
        "grown_mb": round(samples[-1]["rss_mb"] - samples[len(samples) // 2]["rss_mb"], 1),
    }
    store("server" if seconds < LONG else "server-long", figures)  # the long one is about memory


if __name__ == "__main__":
    main(sys.argv[1:])
