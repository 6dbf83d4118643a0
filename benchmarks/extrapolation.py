"""Trained on inputs of at most 64 symbols, measured at 64 … 1,024: our positions against five others.

`python benchmarks/extrapolation.py FOLDER [tasks=reverse,copy] [seeds=1] [positions=…]` trains each with `congling
probe recipes/probe.toml` (finished ones are not run again), stores the table and draws docs/extrapolation.svg.
"""

import json
import subprocess
import sys
from pathlib import Path
from statistics import mean

from common import store
from congling.evaluate.probes import Symbols, extrapolation
from congling.model.folder import load_model
from congling.tokenizer.tokenizer import Tokenizer

ROOT = Path(__file__).parents[1]
POSITIONS = {
    "distance_decay_heads": "decay (ours)", "rope": "RoPE", "alibi": "ALiBi", "none": "NoPE",
    "sinusoidal": "sinusoidal", "learned": "learned",
}  # fmt: skip
LENGTHS, SEQUENCES = (64, 128, 256, 512, 1024), 64
KINDS = ("exact", "symbols")
# Learned positions need a row for every place of the longest probe; those beyond training keep their starting values.
EXTRA = {"learned": ["model.max_len=4096"]}
COLOURS = ("#c0392b", "#2471a3", "#b7950b", "#1e8449", "#7d3c98", "#616a6b")


def train(folder, task, position, seed):
    """Figures of one run: {length: {exact, symbols}}, and its held-out loss."""
    name = f"{task}-{position}-{seed}"
    settings = [f"run.dir={folder}", f"run.name={name}", f"run.seed={seed}", f"probe.task={task}",
                f"model.position={position}", *EXTRA.get(position, ())]  # fmt: skip
    command = [sys.executable, "-m", "congling", "probe", "recipes/probe.toml", *settings]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    manifest = json.loads((folder / name / "probe" / "manifest.json").read_text())
    return {
        "scaled": manifest["summary"]["probes"], "plain": plain(folder / name / "probe", task),
        "loss": manifest["summary"]["loss"], "seconds": round(manifest["seconds"]),
    }  # fmt: skip


def plain(folder, task):
    """The same model without the factor ln(keys)/ln(130) on its scores."""
    file = folder / "plain.json"
    if not file.exists():
        model, tokenizer = load_model(folder), Tokenizer.load(folder)
        for layer in model.layers:
            layer.attention.position.log_scale_from = 0
        symbols = Symbols.of(tokenizer, max(LENGTHS))
        found = extrapolation(model, task, LENGTHS, SEQUENCES, symbols)
        file.write_text(json.dumps({str(n): score._asdict() for n, score in found.items()}))
    return json.loads(file.read_text())


def averages(runs, how, kind):
    return {str(n): round(mean(r[how][str(n)][kind] for r in runs), 5) for n in LENGTHS}


def collect(folder, tasks, positions, seeds):
    """{task: {position: {scaled and plain: {exact, symbols: {length: mean over seeds}}, loss, seconds}}}"""
    table = {}
    for task in tasks:
        for position in positions:
            runs = [train(folder, task, position, seed) for seed in seeds]
            table.setdefault(task, {})[position] = {
                **{how: {kind: averages(runs, how, kind) for kind in KINDS} for how in ("scaled", "plain")},
                "exact_of_each_seed_at_1024": [round(r["scaled"]["1024"]["exact"], 4) for r in runs],
                "loss": round(mean(r["loss"] for r in runs), 5),
                "seconds": round(mean(r["seconds"] for r in runs)),
            }
            print(task, position, table[task][position], flush=True)
    return table


def best(row):
    return max((row["scaled"], row["plain"]), key=lambda found: [sum(found[kind].values()) for kind in KINDS])


def draw(table):
    """Small charts beside each other, one a task and measure: share right (0–1) against length (log₂). A line is the
    better of a method's two figures, with the factor on the scores and without, by exact sequences, then symbols."""
    wide, high, left, top = 250, 190, 44, 34
    charts = [(task, kind) for task in table for kind in KINDS]
    parts = []
    for number, (task, kind) in enumerate(charts):
        x0, y0 = left + number * (wide + left), top
        title = f"{task}: " + ("whole sequences exact" if kind == "exact" else "symbols right")
        parts.append(f'<text x="{x0}" y="{y0 - 14}" class="t">{title}</text>')
        for share in (0, 0.25, 0.5, 0.75, 1):
            y = y0 + high * (1 - share)
            parts.append(f'<line x1="{x0}" x2="{x0 + wide}" y1="{y}" y2="{y}" class="g"/>')
            parts.append(f'<text x="{x0 - 6}" y="{y + 4}" class="y">{share:.0%}</text>')
        xs = [x0 + 8 + (wide - 16) * n / (len(LENGTHS) - 1) for n in range(len(LENGTHS))]
        parts += [f'<text x="{x}" y="{y0 + high + 16}" class="x">{n}</text>' for x, n in zip(xs, LENGTHS, strict=True)]
        for colour, position in zip(COLOURS, POSITIONS, strict=True):
            if position in table[task]:
                values = best(table[task][position])[kind].values()
                points = " ".join(f"{x:.1f},{y0 + high * (1 - v):.1f}" for x, v in zip(xs, values, strict=True))
                parts.append(f'<polyline points="{points}" stroke="{colour}"/>')
    width, base = left + len(charts) * (wide + left), top + high + 40
    for number, (colour, label) in enumerate(zip(COLOURS, POSITIONS.values(), strict=True)):
        x = left + number * (width - left) / len(POSITIONS)
        parts.append(f'<line x1="{x}" x2="{x + 16}" y1="{base}" y2="{base}" style="stroke:{colour};stroke-width:3"/>')
        parts.append(f'<text x="{x + 20}" y="{base + 4}" class="l">{label}</text>')
    style = (
        "text{font:11px sans-serif;fill:#333}.t{font-weight:bold}.y{text-anchor:end}.x{text-anchor:middle}"
        ".g{stroke:#ddd}polyline{fill:none;stroke-width:2}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {base + 14}"><style>{style}</style>'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'
    )


def main():
    options = {"tasks": "reverse", "seeds": "1", "positions": ",".join(POSITIONS)}
    options |= dict(word.split("=") for word in sys.argv[2:])
    tasks, positions = options["tasks"].split(","), options["positions"].split(",")
    table = collect(Path(sys.argv[1]).resolve(), tasks, positions, [int(s) for s in options["seeds"].split(",")])
    store("extrapolation", {"seeds": options["seeds"], "table": table})
    (ROOT / "docs" / "extrapolation.svg").write_text(draw(table), encoding="utf-8")


if __name__ == "__main__":
    main()
