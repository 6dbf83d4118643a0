"""What is added to a request's logits before a token is chosen: penalties, biases, and which tokens are allowed.

Everything is sparse: a penalty is kept for the tokens of the text, not for all of the vocabulary.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from congling.infer.config import SampleConfig

if TYPE_CHECKING:
    from congling.infer.constrain import Constraint

Ids = NDArray[np.int64]
Deltas = NDArray[np.float32]
Words = NDArray[np.uint32]  # one bit a token, 32 a word
_NO_WORDS: Words = np.empty(0, np.uint32)


@dataclass(frozen=True)
class Rules:
    """What a request may ask for beside ``SampleConfig``. Ids count as one token each, stop ids among them."""

    bias: Mapping[int, float] = field(default_factory=dict)  # added to logits, −100 … 100
    banned: Collection[int] = ()  # never chosen
    allowed: Collection[int] | None = None  # nothing else is chosen
    constraint: "Constraint | None" = None  # a regex or a JSON schema that the answer follows

    def check(self, vocab_size: int) -> None:
        """Raises ValueError for ids outside the vocabulary, a bias out of range, and when nothing stays allowed."""
        named = [*self.bias, *self.banned, *(self.allowed or ())]
        if wrong := [i for i in named if not 0 <= i < vocab_size]:
            raise ValueError(f"logit bias, banned and allowed ids must be 0 … {vocab_size - 1}, got {wrong[0]}")
        if wild := [b for b in self.bias.values() if not (isfinite(b) and -100 <= b <= 100)]:
            raise ValueError(f"a logit bias must be −100 … 100, got {wild[0]}")
        if not self.may(vocab_size).any():
            raise ValueError("no token stays allowed: give at least one allowed id that is not banned")
        if self.constraint is not None and self.constraint.vocab_size != vocab_size:
            raise ValueError(
                f"the constraint was made for {self.constraint.vocab_size} ids, the model has {vocab_size}"
            )

    def may(self, vocab_size: int) -> NDArray[np.bool_]:
        """Which ids are allowed [V]."""
        allowed = np.full(vocab_size, self.allowed is None)
        if self.allowed is not None:
            allowed[list(self.allowed)] = True
        allowed[list(self.banned)] = False
        return allowed

    def words(self, vocab_size: int) -> Words:
        """The same, one bit an id [⌈V / 32⌉]; empty if all are."""
        if self.allowed is None and not self.banned:
            return _NO_WORDS
        return pack_bits(self.may(vocab_size))


def pack_bits(allowed: NDArray[np.bool_]) -> Words:
    """[V] to [⌈V / 32⌉]: bit i % 32 of word i // 32 is id i."""
    padded = np.zeros(-(-len(allowed) // 32) * 32, np.bool_)
    padded[: len(allowed)] = allowed
    return np.packbits(padded, bitorder="little").view("<u4").astype(np.uint32)


class Adjustment:
    """The state of one line of tokens: what to add to its next logits. ``push`` moves it on, ``fork`` copies it.

    Repetition: the seed's additive penalty (SEED §6) for tokens of prompt and answer; it fades instead of forbidding.
    Presence and frequency: for tokens of the answer, as OpenAI's API has them.
    """

    def __init__(
        self, config: SampleConfig, prompt: Sequence[int], vocab_size: int, rules: Rules | None = None
    ) -> None:
        rules = rules or Rules()
        rules.check(vocab_size)
        self._config = config
        self._line: Ids = np.array(prompt, np.int64)  # all tokens, with room behind the ``_length``
        self._length = len(prompt)
        known = np.union1d(self._line, np.fromiter(rules.bias, np.int64, len(rules.bias)))
        self._slots = {int(token): slot for slot, token in enumerate(known)}
        self._ids: Ids = known
        self._columns = np.zeros((2, len(known)))  # what is added for good; the repetition penalty, which fades
        for token, bias in rules.bias.items():
            self._columns[0, self._slots[token]] = bias
        since = np.arange(len(prompt) - 1, -1, -1, dtype=np.float64)
        penalties = config.repetition_penalty * config.repetition_decay**since
        np.add.at(self._columns[1], np.searchsorted(known, self._line), penalties)
        self._used = len(known)
        self._answered: set[int] = set()
        self._words = rules.words(vocab_size)
        self._matcher = None if rules.constraint is None else rules.constraint.start()

    @property
    def complete(self) -> bool:
        """The constraint is met and nothing but the end can follow."""
        return self._matcher is not None and self._matcher.complete

    @property
    def trouble(self) -> str:
        """Why no token can be chosen, in one line."""
        if self._matcher is not None and not self._matcher.words().any():
            return self._matcher.trouble
        return "no token can be chosen: biases and constraint forbid all, or the model's logits are not numbers"

    def sparse(self, bans: bool = True) -> tuple[Ids, Deltas]:
        """ids [n] and what to add to their logits; without the bans of ``no_repeat_ngram`` if not ``bans``."""
        deltas = self._columns[0, : self._used] - self._columns[1, : self._used]
        ids = self._ids[: self._used]
        if bans and self._config.no_repeat_ngram and len(banned := self._repeating()):
            ids = np.concatenate([ids, banned])
            deltas = np.concatenate([deltas, np.full(len(banned), -np.inf)])
        return ids, deltas.astype(np.float32)

    def words(self) -> Words:
        """Which ids are allowed, one bit each [⌈V / 32⌉]; empty if all are."""
        if self._matcher is None:
            return self._words
        words = self._matcher.words()
        return words & self._words if len(self._words) else words

    def push(self, token: int) -> None:
        """``token`` is the next of the line."""
        if self._length == len(self._line):
            self._line = np.concatenate([self._line, np.empty(max(16, self._length), np.int64)])
        self._line[self._length] = token
        self._length += 1
        slot = self._slot(token)
        self._columns[1, : self._used] *= self._config.repetition_decay
        self._columns[1, slot] += self._config.repetition_penalty
        new = token not in self._answered
        self._answered.add(token)
        self._columns[0, slot] -= self._config.frequency_penalty + self._config.presence_penalty * new
        if self._matcher is not None:
            self._matcher.push(token)

    def fork(self) -> "Adjustment":
        """An independent copy."""
        twin = object.__new__(Adjustment)
        twin.__dict__.update(self.__dict__)
        twin._line, twin._slots, twin._ids = self._line.copy(), dict(self._slots), self._ids.copy()
        twin._columns, twin._answered = self._columns.copy(), set(self._answered)
        twin._matcher = None if self._matcher is None else self._matcher.fork()
        return twin

    def _slot(self, token: int) -> int:
        slot = self._slots.get(token)
        if slot is None:
            slot = self._slots[token] = self._used
            if self._used == len(self._ids):
                more = max(16, self._used)
                self._ids = np.concatenate([self._ids, np.zeros(more, np.int64)])
                self._columns = np.concatenate([self._columns, np.zeros((2, more))], axis=1)
            self._ids[slot] = token
            self._used += 1
        return slot

    def _repeating(self) -> Ids:
        """The tokens that would end a run of ``no_repeat_ngram`` tokens which is in the line already."""
        size, line = self._config.no_repeat_ngram - 1, self._line[: self._length]
        starts = self._length - size  # of runs that have a token behind them
        if starts < 1:
            return line[:0]
        same = np.ones(starts, np.bool_)
        for k in range(size):
            same &= line[k : k + starts] == line[starts + k]
        return np.unique(line[size:][same])
