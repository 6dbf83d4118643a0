"""Where the figures of the benchmark scripts go: printed, and stored with date, hardware, versions and commit."""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
_LIBRARIES = ("torch", "numpy", "numba", "pyarrow")
_FLAGS = ("avx512_bf16", "amx_bf16", "avx512_vnni", "avx2")


def store(name: str, figures: dict) -> Path:
    """Prints ``figures`` and writes them to ``results/<name>-<date>.json`` (the newest of a day stands)."""
    now = datetime.now(UTC)
    result = {
        "name": name,
        "date": now.isoformat(timespec="seconds"),
        "hardware": hardware(),
        "versions": {"python": platform.python_version(), **{n: version(n) for n in _LIBRARIES}},
        "commit": _commit(),
        "figures": figures,
    }
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}-{now:%Y-%m-%d}.json"
    file.write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures, ensure_ascii=False, indent=1))
    print(f"stored: {file}")
    return file


def speed(rounds: list[dict]) -> float:
    """Tokens a second of several measurements together."""
    return sum(r["tokens"] for r in rounds) / sum(r["seconds"] for r in rounds)


def hardware() -> dict:
    """Processor, cores, memory in bytes, and the instruction sets that matter here."""
    lines = dict(
        (part.strip() for part in line.split(":", 1))
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if ":" in line
    )
    return {
        "cpu": lines.get("model name", platform.processor()),
        "cores": os.cpu_count(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "flags": [flag for flag in _FLAGS if flag in lines.get("flags", "").split()],
    }


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=RESULTS.parent)
    return done.stdout.strip()
