"""The rules: what a document must be like to stay.

A rule measures one number of a document and holds it against limits of the recipe: a number, or a quantile of the
corpus. The order of ``RULES`` is the order of the funnel: a document is dropped for the first rule it breaks.

Quantiles cost no second reading: the measures of all documents that keep to the fixed limits are counted into
histograms, which add up over files; a quantile is read off their sum.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from congling.clean.config import CleanConfig
from congling.clean.normalise import Normalised
from congling.clean.statistics import REPEATED_GRAMS, TOP_GRAMS, TOP_SAMPLE, Statistics

BINS = 2048  # of a histogram: 0.05 % of a share, 1 % of a count
_OCTAVES = 28  # counts up to 2^28 have bins of their own

Value = Callable[[Normalised, Statistics], NDArray[np.float64]]


@dataclass(frozen=True)
class Rule:
    """What is measured, and which keys of the recipe limit it."""

    name: str  # the reason
    what: str
    zh: str
    value: Value  # [N]
    low: str | None = None
    high: str | None = None
    log: bool = False  # the bins are those of a count, not of a share


def _share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.minimum(part / np.maximum(whole, 1), 1)


def _of_characters(name: str) -> Value:
    return lambda text, counts: _share(getattr(counts, name), counts.characters)


def _top(k: int) -> Value:
    """Letters in further occurrences of the most frequent n-gram. They may overlap, in 哈哈哈, and be more than all."""
    n = TOP_GRAMS[k]
    return lambda text, counts: _share(n * counts.top[:, k], np.minimum(counts.letters, TOP_SAMPLE))


def _repeated(k: int) -> Value:
    return lambda text, counts: _share(counts.repeated[:, k], counts.letters)


def _characters(text: Normalised, counts: Statistics) -> NDArray[np.float64]:
    return counts.characters.astype(np.float64)


RULES: tuple[Rule, ...] = (
    Rule("garbled", "garbled share", "乱码占比", lambda t, c: _share(t.garbled, t.characters), high="max_garbled"),
    Rule("mojibake", "mojibake share", "错码占比", lambda t, c: _share(t.mojibake, t.characters), high="max_mojibake"),
    Rule("too_short", "characters", "字数", _characters, low="min_chars", log=True),
    Rule("too_long", "characters", "字数", _characters, high="max_chars", log=True),
    Rule("low_cjk", "cjk share", "汉字占比", _of_characters("han"), low="min_cjk"),
    Rule("high_ascii", "ascii letter share", "英文字母占比", _of_characters("ascii_letters"), high="max_ascii"),
    Rule("high_digits", "digit share", "数字占比", _of_characters("digits"), high="max_digits"),
    Rule("high_punctuation", "punctuation share", "标点占比", _of_characters("punctuation"), high="max_punctuation"),
    Rule("commas", "comma and full stop share", "逗号句号占比", _of_characters("commas"), "min_commas", "max_commas"),
    Rule("list_page", "share in short lines", "列表行占比", _of_characters("listed"), high="max_listed"),
    Rule("link_page", "share in lines with links", "链接行占比", _of_characters("linked"), high="max_linked"),
    Rule("stuffing", "share in word lists", "词语堆砌占比", _of_characters("stuffed"), high="max_stuffed"),
    Rule("teasers", "share in cut-off lines", "“阅读全文”行占比", _of_characters("teasers"), high="max_teasers"),
    Rule(
        "unfinished",
        "share without a sentence's end",
        "无句末标点占比",
        _of_characters("unfinished"),
        high="max_unfinished",
    ),
    Rule(
        "repeated_lines",
        "repeated line share",
        "重复行占比",
        _of_characters("repeated_lines"),
        high="max_repeated_lines",
    ),
    Rule(
        "repeated_paragraphs",
        "repeated paragraph share",
        "重复段落占比",
        _of_characters("repeated_paragraphs"),
        high="max_repeated_paragraphs",
    ),
    *(
        Rule(f"top_{n}gram", f"most frequent {n}-gram share", f"最频繁的{n}字串占比", _top(k), high=f"max_top{n}")
        for k, n in enumerate(TOP_GRAMS)
    ),
    *(
        Rule(
            f"repeated_{n}grams", f"repeated {n}-gram share", f"重复{n}字串占比", _repeated(k), high=f"max_repeated{n}"
        )
        for k, n in enumerate(REPEATED_GRAMS)
    ),
)
# All reasons in the order of the funnel: what the reader finds, the rules, what is found with all documents known.
REASONS = (
    *("bad_encoding", "bad_json", "no_text", "damaged_file", "too_large"),
    *(rule.name for rule in RULES),
    *("lexicon", "duplicate", "near_duplicate", "advert", "contaminated", "low_quality"),
)
FIRST_RULE = REASONS.index(RULES[0].name)


def measures(normal: Normalised, counts: Statistics) -> NDArray[np.float32]:
    """What each rule measures in N documents, [N, R]."""
    values = np.empty((len(counts.characters), len(RULES)), np.float32)
    for r, rule in enumerate(RULES):
        values[:, r] = rule.value(normal, counts)
    return values


def fixed_limits(config: CleanConfig) -> NDArray[np.float64]:
    """Least and largest value of each rule, [R, 2]; -inf or inf where there is none, or it is a quantile."""
    limits = np.tile([-np.inf, np.inf], (len(RULES), 1))
    for r, side, limit in _limits(config):
        limits[r, side] = limits[r, side] if isinstance(limit, str) else limit
    return limits


def has_quantiles(config: CleanConfig) -> bool:
    """Whether a limit is a quantile."""
    return any(isinstance(limit, str) for _, _, limit in _limits(config))


def resolve_limits(config: CleanConfig, histograms: NDArray[np.int64]) -> NDArray[np.float64]:
    """``fixed_limits`` with the quantiles of ``histograms`` [R, BINS] filled in.

    They are rounded outwards to the edge of a bin, so that no more documents go than asked for: many may have the same
    value, such as a share of 0. A rule that saw no document has no limit.
    """
    limits = fixed_limits(config)
    for r, side, limit in _limits(config):
        if isinstance(limit, str) and histograms[r].any():
            edges, value = bin_edges(RULES[r]), quantile(histograms[r], RULES[r], float(limit[1:]))
            limits[r, side] = edges[np.searchsorted(edges, value, "left" if side else "right") - 1 + side]
    return limits


def _limits(config: CleanConfig) -> list[tuple[int, int, Any]]:
    """(rule, 0 for low or 1 for high, limit) of all limits."""
    keys = [(r, side, key) for r, rule in enumerate(RULES) for side, key in enumerate((rule.low, rule.high)) if key]
    return [(r, side, getattr(config, key)) for r, side, key in keys]


def judge(values: NDArray[np.float32], limits: NDArray[np.float64]) -> NDArray[np.int16]:
    """The first rule that each of N documents breaks, -1 where it breaks none; values [N, R], limits [R, 2]."""
    low, high = limits.astype(np.float32).T  # as the values were rounded
    broken = (values < low) | (values > high)
    return np.where(broken.any(1), broken.argmax(1), -1).astype(np.int16)


def detail(rule: int, value: float, limits: NDArray[np.float64]) -> str:
    """For example ``cjk share 0.12 < 0.3``; limits [2] of the rule."""
    sign, limit = ("<", limits[0]) if value < np.float32(limits[0]) else (">", limits[1])
    return f"{RULES[rule].what} {format_number(value)} {sign} {format_number(limit)}"


def format_number(value: float) -> str:
    """At most four decimals, and none that say nothing."""
    return f"{value:.4f}".rstrip("0").rstrip(".")


def histogram(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """How many of N documents are in each bin, [R, BINS], of values [N, R]. Histograms add up."""
    bins = values * BINS
    for r, rule in enumerate(RULES):
        if rule.log:
            bins[:, r] = np.searchsorted(bin_edges(rule), values[:, r], "right") - 1
    counts = np.zeros((len(RULES), BINS), np.int64)
    _count_bins(bins, counts)
    return counts


@njit(nogil=True, cache=True)
def _count_bins(bins: NDArray[np.float32], counts: NDArray[np.int64]) -> None:
    for d in range(len(bins)):
        for r in range(len(counts)):
            counts[r, min(max(int(bins[d, r]), 0), BINS - 1)] += 1


def bin_edges(rule: Rule) -> NDArray[np.float64]:
    """Edges [BINS + 1]: of bin b, edges[b] ≤ value < edges[b + 1]. The last bins take what is beyond, too."""
    steps = np.arange(BINS + 1) / BINS
    return 2 ** (_OCTAVES * steps) if rule.log else steps


def quantile(counts: NDArray[np.int64], rule: Rule, q: float) -> float:
    """The value that a share q of the documents of a histogram [BINS] lie below, within one bin (interpolated)."""
    below = np.concatenate([[0], np.cumsum(counts)])
    rank = max(q * below[-1], 1e-9)  # the least of all is in a bin, too
    bin = min(int(np.searchsorted(below[1:], rank)), BINS - 1)
    edges = bin_edges(rule)[bin : bin + 2]
    return float(edges[0] + (edges[1] - edges[0]) * (rank - below[bin]) / max(int(counts[bin]), 1))
