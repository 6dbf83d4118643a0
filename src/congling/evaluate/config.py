"""Section ``[evaluate]``."""

from typing import Literal

from congling.config import Config, option

ProbeTask = Literal["copy", "reverse", "add"]


def probe_len(task: ProbeTask, length: int) -> int:
    """T, the ids of a probe with inputs of ``length``."""
    return 3 * length + 5 if task == "add" else 2 * length + 3


class EvaluateConfig(Config):
    """What is measured of the finished models."""

    valid_tokens: int = option(200_000, "held-out tokens for bits per byte, at most", gt=0)
    seq_len: int = option(256, "length of the windows for bits per byte, in tokens", gt=1)
    questions: tuple[str, ...] = option((), "dialogue files with reference answers; empty: the fetched held-out ones")
    max_questions: int = option(64, "questions asked, at most", ge=0)
    max_tokens: int = option(80, "length of an answer, in tokens", gt=0)
    prompts: tuple[str, ...] = option(
        ("一心一意是什么意思？", "请解释成语“画蛇添足”。", "你好"), "questions shown as samples at the end"
    )
    probes: tuple[ProbeTask, ...] = option((), "tasks to measure: exact copying, reversing, adding")
    probe_lengths: tuple[int, ...] = option((64, 128, 256, 512, 1024), "lengths of their inputs, in symbols")
    probe_sequences: int = option(64, "sequences a length", gt=0)
    probe_alphabet: int = option(1024, "symbols that their inputs are drawn from", gt=1)
    probe_repeats: bool = option(False, "whether a symbol may come twice in an input")
