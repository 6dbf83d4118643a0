"""Sections ``[tokenizer]`` and ``[tokenize]``."""

from typing import Literal, Self

from pydantic import model_validator

from congling.config import Config, option


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
    threads: int = option(2, "threads", ge=1, affects_result=False)

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
