"""The rules: what a document must be like to stay. Each is a function of a batch's measures and the configuration.

The order of ``RULES`` is the order of the funnel: a document is dropped for the first rule it breaks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from congling.clean.config import CleanConfig
from congling.clean.normalise import Normalised
from congling.clean.statistics import PAIR_SAMPLE, Statistics


@dataclass(frozen=True)
class Finding:
    """What a rule measured in N documents against its limit."""

    what: str
    values: NDArray[np.float64]  # [N]
    limit: float
    fails: NDArray[np.bool_]  # [N]

    def detail(self, i: int) -> str:
        """For example ``cjk share 0.12 < 0.3``."""
        sign = "<" if self.values[i] < self.limit else ">"
        return f"{self.what} {format_number(self.values[i])} {sign} {format_number(self.limit)}"


Rule = Callable[[Normalised, Statistics, CleanConfig], Finding]


def garbled(text: Normalised, counts: Statistics, config: CleanConfig) -> Finding:
    return _above("garbled share", _share(text.garbled, text.characters), config.max_garbled)


def too_short(text: Normalised, counts: Statistics, config: CleanConfig) -> Finding:
    return _below("characters", counts.characters, config.min_chars)


def too_long(text: Normalised, counts: Statistics, config: CleanConfig) -> Finding:
    return _above("characters", counts.characters, config.max_chars)


def low_cjk(text: Normalised, counts: Statistics, config: CleanConfig) -> Finding:
    return _below("cjk share", _share(counts.han, counts.characters), config.min_cjk)


def high_ascii(text: Normalised, counts: Statistics, config: CleanConfig) -> Finding:
    return _above("ascii letter share", _share(counts.ascii_letters, counts.characters), config.max_ascii)


def high_punctuation(text: Normalised, counts: Statistics, config: CleanConfig) -> Finding:
    return _above("punctuation share", _share(counts.punctuation, counts.characters), config.max_punctuation)


def repeated_lines(text: Normalised, counts: Statistics, config: CleanConfig) -> Finding:
    return _above("repeated line share", _share(counts.repeated_lines, counts.characters), config.max_repeated_lines)


def repetition(text: Normalised, counts: Statistics, config: CleanConfig) -> Finding:
    return _above("repeated 10-gram share", _share(counts.repeated_letters, counts.letters), config.max_repetition)


def repeated_pair(text: Normalised, counts: Statistics, config: CleanConfig) -> Finding:
    # Pairs overlap in 哈哈哈: their letters could be more than all.
    share = np.minimum(_share(2 * counts.pair_repeats, np.minimum(counts.letters, PAIR_SAMPLE)), 1)
    return _above("repeated pair share", share, config.max_repeated_pair)


RULES: tuple[Rule, ...] = (
    garbled,
    too_short,
    too_long,
    low_cjk,
    high_ascii,
    high_punctuation,
    repeated_lines,
    repetition,
    repeated_pair,
)
# All reasons in the order of the funnel: what the reader finds, the rules, what the comparison of documents finds.
DUPLICATE, NEAR_DUPLICATE = "duplicate", "near_duplicate"
READING = ("bad_encoding", "bad_json", "no_text")
REASONS = (*READING, *(rule.__name__ for rule in RULES), DUPLICATE, NEAR_DUPLICATE)


def judge(text: Normalised, counts: Statistics, config: CleanConfig) -> list[tuple[str, str]]:
    """(reason, detail) of each document of a batch; ("", "") for those that stay."""
    verdicts = [("", "")] * len(text.text)
    for rule in reversed(RULES):  # the first rule has the last word
        finding = rule(text, counts, config)
        for i in np.flatnonzero(finding.fails):
            verdicts[i] = (rule.__name__, finding.detail(int(i)))
    return verdicts


def _below(what: str, values: NDArray[Any], limit: float) -> Finding:
    return Finding(what, values.astype(np.float64), limit, values < limit)


def _above(what: str, values: NDArray[Any], limit: float) -> Finding:
    return Finding(what, values.astype(np.float64), limit, values > limit)


def _share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    return part / np.maximum(whole, 1)


def format_number(value: float) -> str:
    """At most four decimals, and none that say nothing."""
    return f"{value:.4f}".rstrip("0").rstrip(".")
