"""Runs a strategy as the engine does, on logits from a function of the tokens; and counts what it takes."""

import torch

from congling.infer.strategy import Sequence


class Driver:
    """After ``run``: events, the number of steps, and the rows of logits computed."""

    def __init__(self, strategy, logits_of):
        self.strategy, self.logits_of = strategy, logits_of
        self.steps = self.rows = 0

    def run(self, prompt):
        live, events = [Sequence(list(prompt))], []
        while True:
            self.steps, self.rows = self.steps + 1, self.rows + len(live)
            logits = torch.stack([self.logits_of(tuple(sequence.ids)) for sequence in live])
            outcome = self.strategy.advance(live, logits)
            logits.fill_(torch.nan)  # the next step overwrites them
            events += outcome.events
            if outcome.done:
                return events
            live = grown(outcome)
            assert live
            assert len(live) + len(outcome.hold) <= self.strategy.width


def grown(outcome):
    """The children: a parent that is not held becomes its first child, further ones are new objects."""
    held, before = {id(sequence) for sequence in outcome.hold}, {}
    live = []
    for parent, token in outcome.grow:
        if id(parent) in held or id(parent) in before:
            child = Sequence([*before.get(id(parent), parent.ids), token])
        else:
            before[id(parent)] = list(parent.ids)
            parent.ids.append(token)
            child = parent
        live.append(child)
    return live


def answers(events):
    """{index: (ids, finish)} of events told token by token."""
    found = {}
    for event in events:
        ids, _ = found.get(event.index, ([], None))
        found[event.index] = ([*ids, event.token] if event.token is not None else ids, event.finish)
    return found


def random_logits(size, seed=0, scale=2.0):
    """A fixed random model: logits [size] from the last two tokens."""
    table = scale * torch.randn(size, size, size, generator=torch.Generator().manual_seed(seed))
    return lambda ids: table[ids[-2] if len(ids) > 1 else 0, ids[-1]].clone()
