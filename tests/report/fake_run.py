"""A run folder as the stages leave it, with invented figures: the whole life, or its beginning."""

import json
import math
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from congling import artifact
from congling.config import Config
from congling.recipe import Recipe
from congling.reporter import Metrics

PLANTED = "<script>document.title='owned'</script><img src=http://example.invalid/x onerror=alert(1)>&\"'"
BEGUN = 1_790_000_000.0  # seconds since the epoch
SECONDS = {"fetch": 21, "clean": 6.2, "tokenizer": 17.4, "tokenize": 0.7, "pretrain": 412, "sft": 96, "evaluate": 31}
MEMORY = {"clean": 6.1e8, "tokenizer": 3.5e8, "tokenize": 3e8, "pretrain": 1.42e9, "sft": 1.2e9, "evaluate": 7e8}
INPUTS = {
    "clean": ("fetch",),
    "tokenizer": ("clean",),
    "tokenize": ("clean", "tokenizer"),
    "pretrain": ("tokenize",),
    "sft": ("pretrain",),
    "evaluate": ("tokenize", "pretrain", "sft"),
}
TEXTS = ("从前日的的了，是一", "从前有一个人的时候，他们的国家", "从前，有个孩子住在山下的村子里，每天去河边放牛。")


def make_run(root: Path, upto: str = "evaluate", begun: str | None = None, name: str = "demo") -> Path:
    """Writes ``root/name`` with finished stages up to ``upto``, and the metrics of ``begun`` if it is given."""
    recipe, folder, started = Recipe(), root / name, BEGUN
    for stage, seconds in SECONDS.items():
        path = root / "data" if stage == "fetch" else folder / stage
        inputs = {i: root / "data" if i == "fetch" else folder / i for i in INPUTS.get(stage, ())}
        sections: dict[str, Config] = {stage: getattr(recipe, stage)}
        with artifact.stage(path, stage, sections, inputs, 1) as (_, summary):
            METRICS.get(stage, lambda path: None)(path)
            summary.update(SUMMARIES[stage], **({"peak_memory": int(MEMORY[stage])} if stage in MEMORY else {}))
            if stage == "clean":
                _write_rejects(path)
            if stage == "evaluate":
                artifact.write_json(path / "evaluation.json", SUMMARIES[stage])
        manifest = json.loads((path / "manifest.json").read_bytes())
        artifact.write_json(path / "manifest.json", {**manifest, "started": started, "seconds": float(seconds)})
        started += seconds
        if stage == upto:
            break
    if begun is not None:
        (folder / begun).mkdir()
        artifact.write_json(folder / begun / "state.json", {"key": "0", "format": 1})
        METRICS[begun](folder / begun)
        with open(folder / begun / "metrics.jsonl", "a") as file:
            file.write('{"kind": "train", "st')  # torn by a kill
    return folder


def _write_rejects(path: Path) -> None:
    rows = [{"id": 0, "text": "短", "source": "a.jsonl", "reason": "too_short", "detail": "characters 1 < 10"}]
    pq.write_table(pa.Table.from_pylist(rows), path / "rejects-00000.parquet")


def _rounds(path: Path) -> None:
    metrics, pieces = Metrics(path / "metrics.jsonl"), 184_220
    for step in range(1, 10):
        shares = {"1": 5940, "2": pieces * 0.45, "3": pieces * 0.3, "4": pieces * 0.2, "5": pieces * 0.05}
        counts = {key: int(value) for key, value in shares.items()}
        metrics.write("round", step=step, pieces=pieces, pieces_by_length=counts, bytes_per_token=4.9 - step * 0.16)
        pieces = max(8192, int(pieces * 0.62))


def _training(path: Path, tokens: int, lengths: tuple[int, ...], start: float, end: float, prompts: list[str]) -> None:
    rng, metrics, rows = random.Random(1), Metrics(path / "metrics.jsonl"), 300
    for row in range(1, rows + 1):
        share = row / rows
        loss = end + (start - end) * math.exp(-5 * share) + rng.gauss(0, 0.04)
        seen = {"step": row * 10, "tokens": tokens * row // rows}
        length = lengths[min(int(share * len(lengths)), len(lengths) - 1)]
        rate = 41_000 / (1 + length / 900) + rng.gauss(0, 600)
        found = {"loss": loss, "bits_per_byte": loss / math.log(2) / 3.344}
        lr = 2e-3 * min(row / 15, 1) * (0.5 + 0.5 * math.cos(math.pi * share)) + 1e-5
        more = {"lr": lr, "seq_len": length, "grad_norm": 0.4 + math.exp(-9 * share) + rng.random() * 0.1}
        metrics.write("train", **seen, **found, **more, tokens_per_second=rate, optimizer="adamw")
        if row % 30 == 0:
            metrics.write("valid", **seen, loss=loss + 0.06, bits_per_byte=(loss + 0.06) / math.log(2) / 3.344)
            for prompt in prompts:
                metrics.write("sample", **seen, prompt=prompt, text=TEXTS[min(int(share * 3), 2)])
    metrics.write("sample", step=rows * 10, tokens=tokens, prompt=prompts[0], text=PLANTED)
    metrics.write("note", step=40, text=f"step 40 skipped: loss nan {PLANTED}")
    metrics.write("train", step=rows * 10, tokens=tokens, loss=float("nan"), bits_per_byte=None)


METRICS = {
    "tokenizer": _rounds,
    "pretrain": lambda path: _training(path, 6_000_000, (64, 128, 256), 8.9, 3.6, ["从前", "今天"]),
    "sft": lambda path: _training(path, 900_000, (256,), 3.9, 2.1, ["一心一意是什么意思？", "你好"]),
}
ROWS = [
    {
        "question": f"{idiom}是什么意思？",
        "answer": f"“{idiom}”形容做事情很专心，没有别的想法。",
        "reference": "只有一个心眼儿，没有别的考虑。",
        "bigram_f1": 0.214,
    }
    for idiom in (
        "一心一意",
        "画蛇添足",
        "守株待兔",
        "井底之蛙",
        "亡羊补牢",
        "掩耳盗铃",
        "刻舟求剑",
        "叶公好龙",
        "杯弓蛇影",
    )
]
SUMMARIES = {
    "fetch": {"files": 6, "documents": 68_770, "bytes": 23_336_119},
    "clean": {
        "files": 4,
        "documents_in": 68_770,
        "bytes_in": 23_336_119,
        "bytes_normalised": 23_212_726,
        "documents_out": 50_084,
        "bytes_out": 19_465_045,
        "reasons": {
            "garbled": {"documents": 9, "bytes": 935},
            "too_short": {"documents": 1644, "bytes": 31_056},
            "low_cjk": {"documents": 67, "bytes": 7549},
            "repetition": {"documents": 93, "bytes": 15_387},
            "a_new_rule": {"documents": 43, "bytes": 3_600},
            "duplicate": {"documents": 16_778, "bytes": 3_674_546},
            "near_duplicate": {"documents": 52, "bytes": 14_653},
        },
        "examples": {
            "garbled": [{"text": "羆ぇ...┬丁矫ネび畉...狝叭キび", "detail": "garbled share 0.1053 > 0.02"}],
            "too_short": [{"text": "服务态度好。", "detail": "characters 6 < 10"}],
            "low_cjk": [{"text": PLANTED, "detail": PLANTED}],
            "duplicate": [{"text": "酒店位置不错，早餐一般。\n下次还会再来。", "detail": "of document 1021"}],
        },
    },
    "tokenizer": {
        "size": 8192,
        "rounds": 9,
        "pieces_by_length": {"1": 5940, "2": 1737, "3": 206, "4": 29, "5": 5, "6": 2, "7": 1},
        "bytes_per_token": 3.373,
    },
    "tokenize": {
        "train": {"documents": 49_589, "tokens": 5_769_056, "bytes": 19_297_361},
        "valid": {"documents": 495, "tokens": 51_090, "bytes": 167_684},
        "bytes_per_token": 3.344,
        "vocab_size": 8192,
    },
    "pretrain": {
        "steps": 732,
        "tokens": 6_000_000,
        "parameters": 5_243_136,
        "loss": 3.71,
        "bits_per_byte": 1.602,
        "tokens_per_second": 14_563.0,
    },
    "sft": {
        "steps": 109,
        "tokens": 900_000,
        "parameters": 5_243_136,
        "bits_per_byte": 0.941,
        "tokens_per_second": 9375.0,
        "dialogues": 28_000,
    },
    "evaluate": {
        "base": {"bits_per_byte": 1.598, "nats_per_token": 3.70},
        "chat": {"bits_per_byte": 1.744, "nats_per_token": 4.04},
        "questions": {
            "count": 10,
            "bigram_f1": 0.214,
            "chinese_share": 0.992,
            "rows": [*ROWS, {"question": PLANTED, "answer": PLANTED, "reference": PLANTED, "bigram_f1": 0.0}],
        },
        "decode_tokens_per_second": 211.4,
        "samples": [
            {"prompt": "一心一意是什么意思？", "text": "形容专心致志，没有其他想法。"},
            {"prompt": "你好", "text": "你好！很高兴见到你。"},
            {"prompt": PLANTED, "text": PLANTED},
        ],
    },
}
