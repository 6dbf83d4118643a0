"""The seed's tree search (SEED §6, "MC"): a few tokens come into question, each is tried out, the best is kept.

One decision a token of the answer: the ``branches`` likeliest tokens each get ``rollouts`` short samples behind them,
all in the same steps of the engine, on shared pages. The token whose rollouts the model itself finds likeliest, by the
mean log-probability a token, is taken; the logits behind it are there already. So a token costs ``depth`` steps of
branches · rollouts rows, where trying out one after the other would take branches · rollouts · depth steps.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor

from congling.infer.config import SampleConfig
from congling.infer.penalties import Rules
from congling.infer.sampler import Choice, Sampler, choose_batch, first_few
from congling.infer.sampler_torch import adjusted
from congling.infer.strategy import Event, Finish, Outcome, Sequence


@dataclass
class _Branch:
    """A token that comes into question, and how the rollouts behind it went."""

    choice: Choice
    sampler: Sampler  # its state behind the token
    ends: bool  # the token ends the answer: nothing to roll out
    sequence: Sequence | None = None
    logits: Tensor | None = None  # [V] behind the token, for the next decision
    values: list[float] = field(default_factory=list)  # mean log-probability a token of each rollout

    def value(self) -> float:
        own = self.choice.logprob or 0.0
        return sum(self.values) / len(self.values) if self.values else own


@dataclass
class _Rollout:
    branch: _Branch
    sampler: Sampler
    score: float  # sum of log-probabilities, that of the branch's token among them
    count: int

    def end(self) -> None:
        self.branch.values.append(self.score / self.count)


class TreeSearch:
    """One answer, told token by token. Rollouts are sampled with the settings of ``config``; at temperature 0 one is
    enough. Where only one token is allowed, nothing is tried out."""

    def __init__(
        self,
        config: SampleConfig,
        vocab_size: int,
        stop_ids: Collection[int] = (),
        branches: int = 4,
        rollouts: int = 2,
        depth: int = 8,
        rules: Rules | None = None,
        logprobs: int | None = None,
    ) -> None:
        if min(branches, rollouts, depth) < 1:
            raise ValueError(f"branches = {branches}, rollouts = {rollouts}, depth = {depth}: must be at least 1")
        (rules or Rules()).check(vocab_size)
        self._config, self._vocab_size, self._stop_ids = config, vocab_size, frozenset(stop_ids)
        self._branches, self._depth, self._rules, self._logprobs = branches, depth, rules, logprobs
        self._rollouts = 1 if config.temperature == 0 else rollouts
        self.width, self.extra_tokens = branches * (self._rollouts + 1), depth
        self._trunk: Sampler | None = None
        self._tried: list[_Branch] = []
        self._under_way: list[_Rollout] = []
        self._limit, self._stopped = 0, False

    def stop(self, index: int) -> None:
        """A stop string was met: the search ends at the next step."""
        self._stopped = True

    def advance(self, live: list[Sequence], logits: Tensor) -> Outcome:
        """See ``Strategy``."""
        if self._stopped:
            return Outcome([], [], [], True)
        if self._trunk is None:
            prompt = live[0].ids
            self._limit = self._config.limit(len(prompt))
            self._trunk = Sampler(self._config, prompt, self._vocab_size, 0, self._rules)
            return self._branch_out(live[0], logits[0], [])
        if not self._under_way:
            return self._begin_rollouts(live, logits)
        return self._go_on(live, logits, self._under_way)

    def _branch_out(self, sequence: Sequence, logits: Tensor, events: list[Event]) -> Outcome:
        """The next decision, behind ``sequence``: its likeliest tokens become branches."""
        assert self._trunk is not None
        self._tried = self._candidates(logits, self._trunk)
        going = [branch for branch in self._tried if not branch.ends]
        if len(self._tried) == 1 or not going:  # nothing to decide
            return self._decide(events, behind=sequence)
        return Outcome([(sequence, branch.choice.token) for branch in going], [], events, False)

    def _candidates(self, logits: Tensor, trunk: Sampler) -> list[_Branch]:
        values = adjusted(logits.unsqueeze(0), [trunk.adjustment])[0]
        if not torch.isfinite(values.max()):
            values = adjusted(logits.unsqueeze(0), [trunk.adjustment], bans=False)[0]
        logs = logits.log_softmax(-1)
        best = values.topk(min(self._branches, len(values)))
        pairs = list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        tokens = [token for token, value in first_few(pairs, self._branches) if value > -torch.inf]
        if not tokens:
            raise ValueError(trunk.adjustment.trouble)
        top = _alternatives(logs, self._logprobs or 0)
        return [self._branch(trunk, Choice(token, float(logs[token]), top)) for token in tokens]

    def _branch(self, trunk: Sampler, choice: Choice) -> _Branch:
        sampler = trunk.fork()
        sampler.push(choice.token)
        return _Branch(choice, sampler, choice.token in self._stop_ids or sampler.adjustment.complete)

    def _begin_rollouts(self, live: list[Sequence], logits: Tensor) -> Outcome:
        """The branches' tokens are in their sequences: the first tokens of their rollouts."""
        going = [branch for branch in self._tried if not branch.ends]
        kept, rollouts, rows = logits.clone(), [], []
        for row, (branch, sequence) in enumerate(zip(going, live, strict=True)):
            branch.sequence, branch.logits = sequence, kept[row]
            if len(self._tried) == 1:  # it was taken without a trial
                return self._branch_out(sequence, kept[row], [])
            for number in range(self._rollouts):
                sampler = branch.sampler.fork(1 + row * self._rollouts + number)
                sampler.logprobs = 0
                rollouts.append(_Rollout(branch, sampler, branch.choice.logprob or 0.0, 1))
                rows.append(row)
        return self._go_on([live[row] for row in rows], logits, rollouts, rows)

    def _go_on(
        self, live: list[Sequence], logits: Tensor, rollouts: list[_Rollout], rows: list[int] | None = None
    ) -> Outcome:
        """One more token for each rollout; the decision when all have ended."""
        grow, self._under_way = [], []
        choices = choose_batch(logits, [rollout.sampler for rollout in rollouts], rows)
        for rollout, sequence, choice in zip(rollouts, live, choices, strict=True):
            rollout.score += choice.logprob or 0.0
            rollout.count += 1
            over = choice.token in self._stop_ids or rollout.sampler.adjustment.complete
            if over or rollout.count > self._depth:
                rollout.end()
            else:
                self._under_way.append(rollout)
                grow.append((sequence, choice.token))
        held = [branch.sequence for branch in self._tried if branch.sequence is not None]
        return Outcome(grow, held, [], False) if grow else self._decide([])

    def _decide(self, events: list[Event], behind: Sequence | None = None) -> Outcome:
        """Takes the best branch, of equals the likelier, and begins the next decision.

        behind: where the branch still has to grow, when there was nothing to try out.
        """
        best = max(self._tried, key=_Branch.value)  # the first of the largest
        self._trunk = best.sampler
        event = self._event(best)
        if event.finish is not None:
            return Outcome([], [], [*events, event], True)
        if behind is not None:
            self._tried = [best]
            return Outcome([(behind, best.choice.token)], [], [*events, event], False)
        assert best.sequence is not None
        assert best.logits is not None
        return self._branch_out(best.sequence, best.logits, [*events, event])

    def _event(self, best: _Branch) -> Event:
        token, logprob, top = best.choice
        finish: Finish | None = None
        if token in self._stop_ids:
            return Event(0, finish="stop")
        if best.ends:
            finish = "stop"
        elif best.sampler.place >= self._limit:
            finish = "length"
        return Event(0, token, None if self._logprobs is None else logprob, list(top), finish)


def _alternatives(logs: Tensor, count: int) -> tuple[tuple[int, float], ...]:
    if not count:
        return ()
    best = logs.topk(min(count, len(logs)))
    return first_few(list(zip(best.indices.tolist(), best.values.tolist(), strict=True)), count)
