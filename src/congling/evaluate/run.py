"""Stage ``evaluate``: what the finished models are worth, on held-out text and questions.

Figures: bits per byte of base and chat model on the held-out documents; for questions with reference answers, the
mean F1 of character bigrams between answer and reference, and the share of Chinese characters in the answers
(a model that writes no recognisable Chinese shows here); tokens a second of single-request decoding.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

from congling import artifact
from congling.artifact import Stage
from congling.chat import read_dialogues
from congling.corpus.readers import find_files
from congling.corpus.tokens import TokenDataset
from congling.evaluate.bits import bits_per_byte
from congling.evaluate.config import EvaluateConfig, ProbeTask
from congling.evaluate.probes import Score, Symbols, extrapolation, table
from congling.infer.config import SampleConfig
from congling.infer.model import Model
from congling.reporter import Reporter


def run(stage: Stage, reporter: Reporter, config: EvaluateConfig) -> dict[str, Any]:
    """Writes ``evaluation.json``; its figures are the summary."""
    base, chat = Model.load(stage.inputs["pretrain"]), Model.load(stage.inputs["sft"])
    held_out = TokenDataset(stage.inputs["tokenize"], "valid")
    figures: dict[str, Any] = {}
    for name, model in (("base", base), ("chat", chat)):
        bits, nats = bits_per_byte(
            model.transformer, held_out, model.tokenizer.token_bytes, config.seq_len, config.valid_tokens
        )
        figures[name] = {"bits_per_byte": bits, "nats_per_token": nats}
        reporter.line(f"{name}: {bits:.3f} bits per byte on held-out documents")
    figures["questions"] = ask(chat, _questions(stage, config), config, reporter)
    figures["decode_tokens_per_second"] = decode_speed(chat)
    figures["samples"] = samples(chat, config)
    if config.probes:
        figures["probes"] = {name: _probes(model, config) for name, model in (("base", base), ("chat", chat))}
    artifact.write_json(stage.path / "evaluation.json", figures)
    return figures


def probe(folder: Path, config: EvaluateConfig) -> Iterator[str]:
    """The probes of any model folder, as lines for people; all tasks where ``config.probes`` names none."""
    config = config if config.probes else config.model_copy(update={"probes": get_args(ProbeTask)})
    for task, found in _probes(Model.load(folder), config).items():
        yield from table(task, found)


def _probes(model: Model, config: EvaluateConfig) -> dict[ProbeTask, dict[int, Score]]:
    symbols = Symbols.of(model.tokenizer, config.probe_alphabet)
    return {
        task: extrapolation(
            model.transformer, task, config.probe_lengths, config.probe_sequences, symbols, config.probe_repeats
        )
        for task in config.probes
    }


def ask(model: Model, dialogues: Sequence[list[dict[str, str]]], config: EvaluateConfig, reporter: Reporter) -> Any:
    """Greedy answers to the first question of each dialogue, compared with the reference; None without questions."""
    greedy = SampleConfig(temperature=0.0, max_tokens=config.max_tokens)
    rows = []
    with reporter.progress("questions", len(dialogues), "questions") as bar:
        for dialogue in dialogues:
            question, reference = dialogue[0]["content"], dialogue[1]["content"]
            answer = str(model.chat([dialogue[0]], greedy))
            rows.append({"question": question, "answer": answer, "reference": reference})
            bar.advance(1)
    if not rows:
        return None
    f1 = [bigram_f1(row["answer"], row["reference"]) for row in rows]
    text = "".join(row["answer"] for row in rows)
    return {
        "count": len(rows),
        "bigram_f1": sum(f1) / len(f1),
        "chinese_share": chinese_share(text),
        "rows": [{**row, "bigram_f1": score} for row, score in zip(rows, f1, strict=True)],
    }


def bigram_f1(answer: str, reference: str) -> float:
    """F1 of the two multisets of character bigrams, 0–1; equal texts give 1, even when shorter than two characters."""
    if answer == reference:
        return 1.0
    ours, theirs = (Counter(pairwise(text)) for text in (answer, reference))
    shared = (ours & theirs).total()
    return 2 * shared / max(ours.total() + theirs.total(), 1)


def chinese_share(text: str) -> float:
    """Share of characters that are CJK ideographs or Chinese punctuation, 0–1."""
    known = sum("\u4e00" <= c <= "\u9fff" or "\u3000" <= c <= "\u303f" or c in "，。！？：；“”‘’（）…—" for c in text)
    return known / max(len(text), 1)


def decode_speed(model: Model, tokens: int = 128) -> float:
    """Tokens a second of one greedy request that never stops, after a warm-up; wall time."""

    def decode(count: int) -> None:
        sampling = SampleConfig(temperature=0.0, max_tokens=count)
        for _ in model.engine.submit(model.request(model.text_prompt("从前"), sampling, ends=())).events():
            pass

    decode(8)
    start = time.perf_counter()
    decode(tokens)
    return tokens / (time.perf_counter() - start)


def samples(model: Model, config: EvaluateConfig) -> list[dict[str, str]]:
    """What the chat model answers to ``config.prompts`` with a low temperature."""
    sampling = SampleConfig(temperature=0.3, max_tokens=config.max_tokens, seed=1)
    return [
        {"prompt": prompt, "text": str(model.chat([{"role": "user", "content": prompt}], sampling))}
        for prompt in config.prompts
    ]


def _questions(stage: Stage, config: EvaluateConfig) -> list[list[dict[str, str]]]:
    if config.questions:
        files = find_files(config.questions)
    else:
        folder: Path = stage.inputs["fetch"] / "dialogues_valid"
        files = sorted(folder.glob("*.jsonl"))
    dialogues = [d for file in files for d in read_dialogues(file)]
    usable = [d for d in dialogues if len(d) > 1 and (d[0]["role"], d[1]["role"]) == ("user", "assistant")]
    step = max(len(usable) // config.max_questions, 1) if config.max_questions else 1
    return usable[::step][: config.max_questions]
