"""From logits to the next token: penalties, temperature, top-k, top-p, min-p. One sampler a line of tokens.

The settings work in this order: penalties, biases and forbidden tokens on the logits; temperature; top-k; top-p among
what top-k has kept (nucleus sampling: Holtzman et al. 2020); min-p (Nguyen et al. 2024). All cut from below, and tokens
that are as likely as the last one kept stay too. At temperature 0 the likeliest token is taken, of several the first.

Randomness is a function of (seed, index of the sample, place in the answer), never of the batch or of what was drawn
before: one number u in [0, 1) a token, which takes the first token at which the mass, summed in the order of ids, is
more than u. So any device draws the same token, but for rounding (about one draw in a million).
"""

import threading
from collections.abc import Sequence
from functools import cache
from math import inf, log
from types import ModuleType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from congling.infer.config import SampleConfig
from congling.infer.penalties import Adjustment, Rules

_WORD = (1 << 64) - 1


class Choice(NamedTuple):
    """A token; its log-probability and the likeliest alternatives are those of the model's own distribution, before all
    settings (None and empty where not asked for)."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Sampler:
    """Chooses the tokens of one line: its settings, the state of its penalties, its place in the random numbers.

    index: which of several samples of the request. logprobs: None for none, else how many alternatives (0 … 20).
    """

    def __init__(
        self,
        config: SampleConfig,
        prompt: Sequence[int],
        vocab_size: int,
        index: int = 0,
        rules: Rules | None = None,
        logprobs: int | None = None,
    ) -> None:
        self.config, self.index, self.place, self.logprobs = config, index, 0, logprobs
        self.adjustment = Adjustment(config, prompt, vocab_size, rules)
        # How far below the likeliest token's logit min-p ends.
        self.drop = config.temperature * log(config.min_p) if config.min_p > 0 else -inf

    def choose(self, logits: Tensor) -> Choice:
        """The next token for logits [V] (float32, any device). Raises ValueError if no token is allowed."""
        return choose_batch(logits.unsqueeze(0), [self])[0]

    def push(self, token: int) -> None:
        """``token`` is the next, whoever chose it."""
        self.place += 1
        self.adjustment.push(token)

    def fork(self, index: int | None = None) -> "Sampler":
        """An independent copy, with random numbers of its own if another ``index`` is given."""
        twin = object.__new__(Sampler)
        twin.__dict__.update(self.__dict__)
        twin.adjustment = self.adjustment.fork()
        twin.index = self.index if index is None else index
        return twin

    def uniform(self) -> float:
        """The random number u of the present place, 0 ≤ u < 1."""
        return _uniform(self.config.seed, self.index, self.place)


def choose_batch(logits: Tensor, samplers: Sequence[Sampler], rows: Sequence[int] | None = None) -> list[Choice]:
    """The next token of each sampler, which then knows it. Raises ValueError if there is one without allowed tokens.

    logits [R, V] float32; sampler n reads row n, or ``rows[n]``. On the CPU by numba, row after row; without numba or
    on a GPU by torch, all rows at once, and only the results leave the device.
    """
    choices = choose_each(logits, samplers, rows)
    for sampler, choice in zip(samplers, choices, strict=True):
        if choice is None:
            raise ValueError(sampler.adjustment.trouble)
    return [choice for choice in choices if choice is not None]


def choose_each(logits: Tensor, samplers: Sequence[Sampler], rows: Sequence[int] | None = None) -> list[Choice | None]:
    """As ``choose_batch``, with None where no token is allowed."""
    if not samplers:
        return []
    rows = range(len(samplers)) if rows is None else rows
    choices = _choose(logits, samplers, rows, bans=True)
    # no_repeat_ngram is a wish: where it leaves nothing, it is left out.
    again = [n for n, choice in enumerate(choices) if choice is None and samplers[n].config.no_repeat_ngram]
    if again:
        second = _choose(logits, [samplers[n] for n in again], [rows[n] for n in again], bans=False)
        for n, choice in zip(again, second, strict=True):
            choices[n] = choice
    for sampler, choice in zip(samplers, choices, strict=True):
        if choice is not None:
            sampler.push(choice.token)
    return choices


def _choose(logits: Tensor, samplers: Sequence[Sampler], rows: Sequence[int], bans: bool) -> list[Choice | None]:
    kernels = _kernels() if logits.device.type == "cpu" else None
    if kernels is None:
        from congling.infer.sampler_torch import choose_rows

        taken = logits if list(rows) == list(range(len(logits))) else logits[list(rows)]
        return [choice if choice.token >= 0 else None for choice in choose_rows(taken, samplers, bans)]
    array = logits.detach().contiguous().numpy()
    found = [_choose_row(kernels, array[row], sampler, bans) for row, sampler in zip(rows, samplers, strict=True)]
    return [choice if choice.token >= 0 else None for choice in found]


@cache
def _kernels() -> ModuleType | None:
    try:
        from congling.infer import sampler_kernels
    except ImportError:  # no numba
        return None
    return sampler_kernels


class _Memory(threading.local):
    """What the kernels work in: kept from token to token, one for each thread."""

    size = 0

    def sized(self, vocab_size: int, block: int) -> tuple[NDArray, NDArray, NDArray, NDArray]:
        if self.size != vocab_size:
            blocks = -(-vocab_size // block)
            self.size = vocab_size
            spare = np.empty(blocks * block + 16, np.float32)
            start = -spare.ctypes.data % 64 // 4  # at a cache line: half of the vector loads would else touch two
            self.values = spare[start : start + blocks * block].reshape(blocks, block)
            self.maxima, self.masses = np.empty(blocks, np.float32), np.empty(blocks, np.float64)
            self.found = np.empty(blocks * block, np.int32)
        return self.values, self.maxima, self.masses, self.found


_memory = _Memory()


def _choose_row(kernels: ModuleType, logits: NDArray[np.float32], sampler: Sampler, bans: bool) -> Choice:
    config, memory = sampler.config, _memory.sized(len(logits), kernels.BLOCK)
    ids, deltas = sampler.adjustment.sparse(bans)
    settings = config.temperature, config.top_k, config.top_p, sampler.drop, sampler.uniform()
    token = kernels.choose(logits, ids, deltas, sampler.adjustment.words(), *settings, *memory)
    if sampler.logprobs is None or token < 0:
        return Choice(token)
    values, maxima, masses, found = memory
    mass = kernels.log_mass(logits, values, maxima, masses)
    top: list[tuple[int, float]] = []
    if sampler.logprobs:
        places = kernels.likeliest_few(values, maxima, min(sampler.logprobs, len(logits)), found)
        top = [(int(i), float(logits[i]) - mass) for i in places]
    return Choice(token, float(logits[token]) - mass, first_few(top, sampler.logprobs))


def first_few(top: list[tuple[int, float]], count: int) -> tuple[tuple[int, float], ...]:
    """The ``count`` likeliest of (id, log-probability), the lower id first where equal."""
    return tuple(sorted(top, key=lambda pair: (-pair[1], pair[0]))[:count])


def _uniform(*key: int) -> float:
    """A number in [0, 1) for a key of whole numbers: SplitMix64 (Steele et al. 2014), once for each."""
    state = 0
    for number in key:
        state = (state + number + 1) * 0x9E3779B97F4A7C15 & _WORD
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & _WORD
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & _WORD
        state ^= state >> 31
    return (state >> 12) * 2.0**-52
