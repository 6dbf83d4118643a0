"""Strategies of the engine: n samples, beam search, and the seed's tree search. Each serves one request.

``Rules`` (biases, allowed tokens, a constraint) and the penalties of ``SampleConfig`` hold in all three. Stop strings
are found above, in the text (``infer/text.py``).
"""

from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor

from congling.infer.config import SampleConfig
from congling.infer.penalties import Rules
from congling.infer.sampler import Choice, Sampler, choose_batch, choose_each
from congling.infer.sampler_torch import adjusted
from congling.infer.strategy import Event, Finish, Outcome, Sequence, Strategy
from congling.infer.tree import TreeSearch


def make_strategy(
    config: SampleConfig,
    vocab_size: int,
    stop_ids: Collection[int] = (),
    *,
    n: int = 1,
    best_of: int | None = None,
    beams: int = 0,
    tree: int = 0,
    rules: Rules | None = None,
    logprobs: int | None = None,
) -> Strategy:
    """Sampling, unless ``beams`` or ``tree`` (branches) is given. Raises ValueError for what cannot be used."""
    if beams and tree:
        raise ValueError("beams and tree are two ways to search: give one of them")
    if (beams or tree) and best_of is not None:
        raise ValueError("best_of is for sampling; beam and tree search rank by themselves")
    if beams:
        return BeamSearch(config, vocab_size, stop_ids, beams, n, rules=rules)
    if tree:
        if n != 1:
            raise ValueError(f"tree search gives one answer, n = {n} was asked for")
        return TreeSearch(config, vocab_size, stop_ids, tree, rules=rules, logprobs=logprobs)
    return SamplingStrategy(config, vocab_size, stop_ids, n, best_of, rules, logprobs)


@dataclass
class _Answer:
    """One of the samples under way."""

    index: int
    sampler: Sampler
    count: int = 0  # tokens chosen, the stop token among them
    score: float = 0.0  # sum of their log-probabilities
    events: list[Event] = field(default_factory=list)


class SamplingStrategy:
    """``n`` independent samples; with ``best_of`` so many are drawn, and the ``n`` of the highest mean log-probability
    a token are told at the end, the best first."""

    extra_tokens = 0

    def __init__(
        self,
        config: SampleConfig,
        vocab_size: int,
        stop_ids: Collection[int] = (),
        n: int = 1,
        best_of: int | None = None,
        rules: Rules | None = None,
        logprobs: int | None = None,
    ) -> None:
        self.width = n if best_of is None else best_of
        if not 1 <= n <= self.width:
            raise ValueError(f"n = {n}, best_of = {self.width}: need 1 ≤ n ≤ best_of")
        if logprobs is not None and not 0 <= logprobs <= vocab_size:
            raise ValueError(f"logprobs = {logprobs}: must be 0 … {vocab_size}")
        (rules or Rules()).check(vocab_size)
        self._n, self._stop_ids, self._logprobs = n, frozenset(stop_ids), logprobs
        self._config, self._vocab_size, self._rules = config, vocab_size, rules
        self._ranked = self.width > n
        self._live: list[_Answer] = []
        self._ended: list[_Answer] = []
        self._stopped: set[int] = set()
        self._limit = 0  # known at the prompt

    def stop(self, index: int) -> None:
        """Lets an answer go; ranked answers are told at the end only, so none of them is stopped."""
        if not self._ranked:
            self._stopped.add(index)

    def advance(self, live: list[Sequence], logits: Tensor) -> Outcome:
        """See ``Strategy``."""
        samplers, rows = self._samplers(live)
        return self._accept(live, rows, list(choose_batch(logits, samplers, rows)))

    @classmethod
    def advance_all(
        cls, strategies: list["SamplingStrategy"], lives: list[list[Sequence]], logits: Tensor
    ) -> list[Outcome | Exception]:
        """Many requests at once: on a GPU a step costs the same for one as for all."""
        asked, samplers, rows, start = [], [], [], 0
        for strategy, live in zip(strategies, lives, strict=True):
            own, own_rows = strategy._samplers(live)
            asked.append((strategy, live, own_rows))
            samplers += own
            rows += [start + row for row in own_rows]
            start += len(live)
        choices = iter(choose_each(logits, samplers, rows))
        outcomes: list[Outcome | Exception] = []
        for strategy, live, own_rows in asked:
            own_choices = [next(choices) for _ in own_rows]
            sound = [choice for choice in own_choices if choice is not None]
            if len(sound) == len(own_choices):
                outcomes.append(strategy._accept(live, own_rows, sound))
            else:
                failed = strategy._live[own_choices.index(None)]
                outcomes.append(ValueError(failed.sampler.adjustment.trouble))
        return outcomes

    def _samplers(self, live: list[Sequence]) -> tuple[list[Sampler], list[int]]:
        """Samplers of the answers still open, and the row of logits that each reads."""
        if not self._limit:
            prompt, logprobs = live[0].ids, self._logprobs
            self._limit = self._config.limit(len(prompt))
            if self._ranked and logprobs is None:
                logprobs = 0  # the ranking needs them
            first = Sampler(self._config, prompt, self._vocab_size, 0, self._rules, logprobs)
            self._live = [_Answer(i, first.fork(i) if i else first) for i in range(self.width)]
            rows = [0] * self.width
        else:
            rows = list(range(len(live)))
        open_ = [(a, row) for a, row in zip(self._live, rows, strict=True) if a.index not in self._stopped]
        self._live = [answer for answer, _ in open_]
        return [answer.sampler for answer in self._live], [row for _, row in open_]

    def _accept(self, live: list[Sequence], rows: list[int], choices: list[Choice]) -> Outcome:
        grow: list[tuple[Sequence, int]] = []
        events: list[Event] = []
        going = []
        for answer, row, choice in zip(self._live, rows, choices, strict=True):
            event = self._step(answer, choice)
            events.append(event)
            if event.finish is None:
                going.append(answer)
                grow.append((live[row], choice.token))
        self._live = going
        if self._ranked:
            events = [] if going else self._rank()
        return Outcome(grow, [], events, not going)

    def _step(self, answer: _Answer, choice: Choice) -> Event:
        answer.count += 1
        answer.score += choice.logprob or 0.0
        finish: Finish | None = None
        if choice.token in self._stop_ids:
            event = Event(answer.index, finish="stop")
        else:
            if answer.sampler.adjustment.complete:
                finish = "stop"
            elif answer.count >= self._limit:
                finish = "length"
            event = Event(answer.index, choice.token, choice.logprob, list(choice.top), finish)
        if self._ranked:
            answer.events.append(event)
            if event.finish is not None:
                self._ended.append(answer)
        return event

    def _rank(self) -> list[Event]:
        best = sorted(self._ended, key=lambda answer: (-answer.score / answer.count, answer.index))[: self._n]
        events = []
        for rank, answer in enumerate(best):
            for event in answer.events:
                event.index = rank
                if self._logprobs is None:
                    event.logprob = None
            answer.events[-1].score = answer.score / answer.count
            events += answer.events
        return events


@dataclass
class _Beam:
    sampler: Sampler
    tokens: list[int]
    score: float  # sum of log-probabilities, with what penalties and biases add


class BeamSearch:
    """The likeliest answers, by keeping the ``width`` best beginnings; told at the end, the best of ``n`` first.

    An answer's score is the sum of its log-probabilities (its stop token's too), penalties and biases added to them,
    divided by its length in tokens to the power ``length_penalty``: 0 favours short answers, 1 (the mean a token) is
    fair, more favours long ones. Temperature and top-k, top-p, min-p play no part. It ends when no beginning can become
    better than the n-th best answer.
    """

    extra_tokens = 0

    def __init__(
        self,
        config: SampleConfig,
        vocab_size: int,
        stop_ids: Collection[int] = (),
        width: int = 4,
        n: int = 1,
        length_penalty: float = 1.0,
        rules: Rules | None = None,
    ) -> None:
        if not 1 <= n <= width:
            raise ValueError(f"beams = {width}, n = {n}: need 1 ≤ n ≤ beams")
        (rules or Rules()).check(vocab_size)
        self.width, self._n, self._length_penalty = width, n, length_penalty
        self._config, self._vocab_size, self._stop_ids, self._rules = config, vocab_size, frozenset(stop_ids), rules
        self._beams: list[_Beam] = []
        self._ended: list[tuple[float, list[int], Finish]] = []
        self._limit = 0  # known at the prompt

    def stop(self, index: int) -> None:
        """Nothing to let go: answers come at the end."""

    def advance(self, live: list[Sequence], logits: Tensor) -> Outcome:
        """See ``Strategy``."""
        if not self._limit:
            self._limit = self._config.limit(len(live[0].ids))
            self._beams = [_Beam(Sampler(self._config, live[0].ids, self._vocab_size, 0, self._rules), [], 0.0)]
        grow: list[tuple[Sequence, int]] = []
        beams: list[_Beam] = []
        first = self._beams[0].sampler.adjustment
        for score, row, token in self._best(logits):
            parent = self._beams[row]
            tokens = [*parent.tokens, token]
            if token in self._stop_ids:
                self._end(score, tokens[:-1], len(tokens), "stop")
            elif len(beams) < self.width:
                beam = _Beam(parent.sampler.fork(), tokens, score)
                beam.sampler.push(token)
                if beam.sampler.adjustment.complete or len(tokens) >= self._limit:
                    finish: Finish = "stop" if beam.sampler.adjustment.complete else "length"
                    self._end(score, tokens, len(tokens), finish)
                else:
                    beams.append(beam)
                    grow.append((live[row], token))
        self._beams = beams
        if grow and not self._settled():
            return Outcome(grow, [], [], False)
        if not self._ended:
            raise ValueError(first.trouble)
        return Outcome([], [], self._tell(), True)

    def _best(self, logits: Tensor) -> list[tuple[float, int, int]]:
        """(score, beam, token) of the best ways on: enough of each beam that ``width`` are no stop tokens."""
        values = adjusted(logits.log_softmax(-1), [beam.sampler.adjustment for beam in self._beams])
        best = values.topk(min(self.width + len(self._stop_ids), values.shape[1]))
        found = [
            (beam.score + value, row, token)
            for row, beam in enumerate(self._beams)
            for value, token in zip(best.values[row].tolist(), best.indices[row].tolist(), strict=True)
            if value > -torch.inf
        ]
        return sorted(found, key=lambda way: (-way[0], way[1], way[2]))

    def _end(self, score: float, ids: list[int], length: int, finish: Finish) -> None:
        self._ended.append((score / length**self._length_penalty, ids, finish))
        self._ended.sort(key=lambda answer: -answer[0])
        del self._ended[self._n :]

    def _settled(self) -> bool:
        """No beginning can become better than what has ended: scores only fall, lengths count at their best."""
        if len(self._ended) < self._n:
            return False
        best = max(beam.score for beam in self._beams)
        lengths = (len(self._beams[0].tokens) + 1, self._limit)
        return max(best / length**self._length_penalty for length in lengths) <= self._ended[-1][0]

    def _tell(self) -> list[Event]:
        return [
            Event(rank, ids=ids, score=score, finish=finish) for rank, (score, ids, finish) in enumerate(self._ended)
        ]
