"""Section ``[evaluate]``."""

from congling.config import Config, option


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
