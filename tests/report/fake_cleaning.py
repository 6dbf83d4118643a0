"""A finished clean stage with invented figures."""

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from congling import artifact
from congling.clean.adverts import Boilerplate
from congling.clean.config import CleanConfig
from congling.clean.quality.classifier import Classifier
from congling.clean.repeats import Phrases
from congling.clean.rules import RULES, histogram
from report.fake_run import PLANTED

TEXT = "从前有一个人，住在山下的村子里，每天去河边放牛。村里的人都说他老实。\n"


def make_cleaning(root: Path, *, rich: bool = True, reasons: int = 12, length: int = 300) -> Path:
    """Writes ``root/demo/clean``; ``rich``: with everything that can be in it. Returns the folder of the stage."""
    folder = root / "demo" / "clean"
    names = [*(rule.name for rule in RULES[:reasons]), "advert", "contaminated", "duplicate", "near_duplicate"]
    options = (
        {"decontaminate": ("eval/cmmlu.jsonl",), "labels": ("labels.jsonl",), "advert_list": "a.txt"}
        if rich
        else {"adverts": "off"}
    )
    with artifact.stage(folder, "clean", {"clean": CleanConfig(**options)}, {}, 1) as (_, summary):
        evidence = folder / "evidence"
        evidence.mkdir()
        _histograms(evidence)
        artifact.write_json(evidence / "report.json", _report(names, rich, length))
        if rich:
            _boilerplate(evidence)
            _classifier(evidence)
            np.savez(evidence / "evals.npz", names="cmmlu 17\nx\ny", too_short=1)
        _shards(folder)
        summary.update(_summary(names, rich))
    return folder


def _histograms(evidence: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.beta(0.3, 9, (20_000, len(RULES))).astype(np.float32)
    limits = np.tile([-np.inf, np.inf], (len(RULES), 1))
    for r, rule in enumerate(RULES):
        if rule.log:
            values[:, r] = np.exp(rng.normal(5.5, 1.6, len(values))).astype(int)
        elif rule.low:
            values[:, r] = rng.beta(9, 2, len(values))
        limits[r] = (10 if rule.log else 0.4, np.inf) if rule.low else (-np.inf, 1e5 if rule.log else 0.31)
    stays = (values >= limits[:, 0]).all(1) & (values <= limits[:, 1]).all(1)
    np.savez(evidence / "histograms.npz", before=histogram(values), after=histogram(values[stays]))
    np.save(evidence / "limits.npy", limits)


def _boilerplate(evidence: Path) -> None:
    phrases = [f"点击关注公众号第{n}期" for n in range(60)]
    lines = {0: f"版权所有{PLANTED}\t保留一切权利", 2: "上一篇\u2028下一篇返回目录"}
    found = Boilerplate(
        Phrases(phrases, np.arange(60, 0, -1)), np.arange(5, dtype=np.uint64), np.array([400, 3, 90, 3, 3]), 5, lines
    )
    found.save(evidence / "boilerplate.npz")
    found.save_list(evidence / "adverts.tsv")


def _classifier(evidence: Path) -> None:
    """As 300 labels would make it."""
    text = pa.array([f"{'好文章写得好' if n % 3 else '加微信买东西'}{n}号文本" for n in range(300)], pa.large_string())
    labels = np.where(np.arange(300) % 3, np.where(np.arange(300) % 7, 2, 1), 0)
    found = Classifier.train(text, labels, 1).keeping("mid", text)
    pair = {"annotators": ["甲", PLANTED], "both": 40, "share": 0.85, "kappa": 0.71}
    found.report["people"] = {"annotators": {"甲": 200, PLANTED: 140}, "agreement": [pair]}
    found.report["teacher"] = {"model": "runs/x/sft", "documents": 20_000, "accuracy": 0.9, "student_alone": 0.8}
    found.save(evidence / "classifier.npz")


def _report(names: list[str], rich: bool, length: int) -> dict:
    def sample(id: int, reason: str) -> dict:
        text = (PLANTED + TEXT * 40)[:length]
        return {
            "random": id,
            "id": id,
            "text": text,
            "source": "crawl/0.jsonl",
            "detail": reason and f"{reason} {PLANTED}",
        }

    examples = {name: [sample(100 * n + i, name) for i in range(20)] for n, name in enumerate(["", *names])}
    return {
        "files": {"raw/0.jsonl": 68_770},
        "examples": examples,
        "groups": [[3, 812], [4, 95], [7, 1], [9999, 1]] if rich else [],
        "group_sizes": [[1, 120], [2, 31], [3, 9], [95, 1], [812, 1]] if rich else [],
        "items": {"cmmlu 17": 3, PLANTED: 2} if rich else {},
        "scores": [random.Random(1).randrange(1, 9000) for _ in range(20)] if rich else [0] * 20,
    }


def _shards(folder: Path) -> None:
    rows = [{"id": i, "text": f"{i}，{PLANTED}{TEXT * 9}", "source": "0.jsonl"} for i in range(7)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "corpus-00000.parquet", row_group_size=3)
    gone = [{"id": 7, "text": "短", "source": "0.jsonl", "reason": "advert", "detail": ""}]
    pq.write_table(pa.Table.from_pylist(gone), folder / "rejects-00000.parquet")


def _summary(names: list[str], rich: bool) -> dict:
    return {
        "files": 4,
        "documents_in": 68_770,
        "bytes_in": 23_336_119,
        "bytes_normalised": 23_212_726,
        "documents_out": 50_084,
        "bytes_out": 19_065_045,
        "characters_out": 6_000_000,
        "documents_cut": 812 if rich else 0,
        "bytes_cut": 91_133 if rich else 0,
        "normalised": {"spaces": 9120, "fullwidth": 2411, "html": 411, "control": 0, "a_new_change": 3},
        "masked": {"phone": 131, "id": 2, "bank": 0, "email": 88, "ip": 4, "account": 61},
        "reasons": {name: {"documents": 9 + 171 * n, "bytes": 9000 + 23_000 * n} for n, name in enumerate(names)},
        "examples": {},
        "seconds": {"read": 1.61, "compare": 0.2, "boilerplate": 0.32, "finish": 0.5, "write": 0.4},
        "processor_seconds": {"read": 0.3, "normalise": 0.41, "measure": 0.33, "a new step": 0.1, "write": 0.6},
    }


if __name__ == "__main__":
    import sys

    from congling.report.cleaning import write_page

    print(write_page(make_cleaning(Path(sys.argv[1]), reasons=30, length=1200)))
