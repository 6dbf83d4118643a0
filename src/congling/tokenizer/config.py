"""Sections ``[tokenizer]`` and ``[tokenize]``."""

from typing import Literal, Self

from pydantic import model_validator

from congling.config import Config, option

WITH_ASCII = 16 + 256 + 1024  # ids from which on a vocabulary holds it


class TokenizerConfig(Config):
    """How the vocabulary is learned (the seed's rounds, SEED §2)."""

    vocab_size: int = option(65_536, "ids in all: 16 special, 256 bytes, the rest pieces", ge=273, le=2**24)
    max_piece_length: int = option(7, "longest piece, in characters", ge=1, le=16)
    min_frequency: float = option(1e-6, "a candidate occurs at least so often, of all characters", ge=0, lt=1)
    min_count: int = option(3, "and at least so many times", ge=1)
    joining: Literal["han", "words", "any"] = option(
        "words", "characters that share a piece: han (the seed's), words (of letters too, as in BPE), any (but digits)"
    )
    score: Literal["length", "frequency"] = option(
        "length", "of a piece: its share of the pieces of the same length (the seed's), or of all"
    )
    token_penalty: float = option(0.0, "nats that each token costs besides: more of it, fewer tokens", ge=0, le=20)
    prune: Literal["count", "loss"] = option("count", "drop what is used least, or what costs least to do without")
    character_coverage: float = option(
        0.9995, "share of the text whose characters always have a piece, if half of the pieces do for it", gt=0, le=1
    )
    max_rounds: int = option(12, "rounds of segment and count before the shrinking", ge=1)
    stable_share: float = option(0.001, "stop the rounds when fewer pieces than this share drop out", ge=0, lt=1)
    shrink: float = option(0.5, "factor from one size to the next on the way to the target", gt=0, lt=1)
    counting: Literal["deterministic", "sample"] = option("deterministic", "count the best path, or a sampled one")
    sample_alpha: float = option(0.5, "sample: sharpness of the distribution over paths", gt=0)
    executor: Literal["local", "ray"] = option(
        "local", "threads of this process, or tasks of a Ray cluster that sees the same files", affects_result=False
    )
    threads: int = option(2, "threads (local)", ge=1, affects_result=False)

    @property
    def always(self) -> list[int]:
        """Code points that have a piece even if they do not occur: all of ASCII that is written, unless the vocabulary
        is too small for it."""
        return [ord(c) for c in "\n\t"] + list(range(0x20, 0x7F)) if self.vocab_size >= WITH_ASCII else []

    @model_validator(mode="after")
    def _minimum(self) -> Self:
        if self.vocab_size > 65_536 and self.vocab_size % 128:
            raise ValueError(f"vocab_size {self.vocab_size}: above 65,536 it must be a multiple of 128")
        return self


class TokenizeConfig(Config):
    """How the corpus becomes tokens."""

    valid_fraction: float = option(0.01, "share of the documents held out, chosen by a hash of their text", ge=0, lt=1)
    shard_tokens: int = option(100_000_000, "tokens of a shard", gt=0)
    threads: int = option(2, "threads", ge=1, affects_result=False)


class InspectConfig(Config):
    """What ``congling tokenizer inspect`` shows."""

    page: str = option(
        "", "write a page there, with rounds, usage, coverage and runner-up paths; empty: print the text"
    )
    files: tuple[str, ...] = option((), "page: .txt or .jsonl(.zst) files, a domain each, whose bytes a token it shows")
