"""The demo as its user runs it: time and peak memory of each stage, bits per byte, rates of training and decoding.

Runs ``congling run recipes/demo.toml`` in an empty folder (what was fetched before is used again when it is there), or
reads a finished run given as argument. The result goes to benchmarks/results/ and, with ``--readme``, into the READMEs.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import RESULTS, store

ROOT = Path(__file__).parents[1]
STAGES = ("fetch", "clean", "tokenizer", "tokenize", "pretrain", "sft", "evaluate")


def run_demo() -> tuple[Path, float]:
    """Runs the demo with numba's cache empty; returns its folder and the seconds it took."""
    folder = Path(tempfile.mkdtemp(prefix="congling-demo-"))
    command = [sys.executable, "-m", "congling", "run", str(ROOT / "recipes/demo.toml"), f"run.dir={folder}"]
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder / "numba")}
    start = time.perf_counter()
    subprocess.run([*command, f"run.data={folder / 'data'}"], check=True, env=environment, cwd=folder)
    return folder / "demo", time.perf_counter() - start


def figures(run: Path, seconds: float | None) -> dict:
    """What the manifests of a run say."""
    stages = {}
    for name in STAGES:
        folder = run / name if name != "fetch" else _fetched(run)
        if (folder / "manifest.json").exists():
            manifest = json.loads((folder / "manifest.json").read_text())
            stages[name] = {"seconds": manifest["seconds"], "peak_memory": manifest["summary"]["peak_memory"]}
            stages[name]["summary"] = {k: v for k, v in manifest["summary"].items() if isinstance(v, int | float)}
    evaluation = json.loads((run / "evaluate" / "evaluation.json").read_text())
    questions = evaluation["questions"] or {}
    return {
        "stages": stages,
        "seconds": seconds or sum(s["seconds"] for s in stages.values()),
        "peak_memory": max(s["peak_memory"] for s in stages.values()),
        "bits_per_byte": {name: evaluation[name]["bits_per_byte"] for name in ("base", "chat")},
        "train_tokens_per_second": stages["pretrain"]["summary"]["tokens_per_second"],
        "decode_tokens_per_second": evaluation["decode_tokens_per_second"],
        "questions": {k: questions.get(k) for k in ("count", "bigram_f1", "chinese_share")},
        "samples": evaluation["samples"],
    }


def _fetched(run: Path) -> Path:
    """Where the run's data set lies: beside the runs, or beside their folder."""
    found = [parent / "data" / "demo" for parent in (run.parent, run.parent.parent)]
    return next((folder for folder in found if folder.exists()), found[0])


def readme_block(result: dict, chinese: bool) -> str:
    """The figures as a table for the README."""
    found = result["figures"]
    minutes, memory = found["seconds"] / 60, found["peak_memory"] / 1e9
    names = " | ".join(found["stages"])
    times = " | ".join(f"{s['seconds']:.0f} s" for s in found["stages"].values())
    peaks = " | ".join(f"{s['peak_memory'] / 1e9:.1f} GB" for s in found["stages"].values())
    hardware = result["hardware"]
    base, chat = found["bits_per_byte"]["base"], found["bits_per_byte"]["chat"]
    train, decode = found["train_tokens_per_second"], found["decode_tokens_per_second"]
    if chinese:
        head = (
            f"实测（{result['date'][:10]}，{hardware['cpu']}，{hardware['cores']} 核）：整个演示 {minutes:.1f} 分钟，"
            f"内存峰值 {memory:.1f} GB。"
        )
        tail = (
            f"留出文本上的比特每字节：基座 {base:.2f}，对话 {chat:.2f}。"
            f"训练 {train:.0f} token/秒，生成 {decode:.0f} token/秒。"
        )
        rows = f"| 阶段 | {names} |", f"| 时间 | {times} |", f"| 内存峰值 | {peaks} |"
    else:
        head = (
            f"Measured ({result['date'][:10]}, {hardware['cpu']}, {hardware['cores']} cores): the whole demo in "
            f"{minutes:.1f} minutes, {memory:.1f} GB at its peak."
        )
        tail = (
            f"Bits per byte on held-out text: base {base:.2f}, chat {chat:.2f}. Training {train:.0f} tokens/s, "
            f"decoding {decode:.0f} tokens/s."
        )
        rows = f"| stage | {names} |", f"| time | {times} |", f"| peak memory | {peaks} |"
    line = "|---|" + "---|" * len(found["stages"])
    return "\n".join([head, "", rows[0], line, *rows[1:], "", tail])


def update_readmes() -> None:
    """Writes the newest stored result between the markers of both READMEs."""
    result = json.loads(max(RESULTS.glob("demo-*.json")).read_text())
    for name, chinese in (("README.md", False), ("README.zh-CN.md", True)):
        file = ROOT / name
        before, _, rest = file.read_text(encoding="utf-8").partition("<!-- figures -->\n")
        after = rest.partition("<!-- /figures -->")[2]
        block = f"<!-- figures -->\n{readme_block(result, chinese)}\n<!-- /figures -->"
        file.write_text(before + block + after, encoding="utf-8")


if __name__ == "__main__":
    words = [a for a in sys.argv[1:] if a != "--readme"]
    run, seconds = (Path(words[0]), None) if words else run_demo()
    store("demo", figures(run, seconds))
    if "--readme" in sys.argv:
        update_readmes()
