"""A backend that is exact and quick, and strategies that do odd things: for tests of the engine."""

import random

import numpy as np
import torch

from congling.infer.strategy import Event, Outcome

V = 50


def logits_behind(ids) -> torch.Tensor:
    """[V] numbers that depend on every token of ``ids`` and on nothing else."""
    return torch.from_numpy(np.random.default_rng([len(ids), *ids]).normal(size=V).astype(np.float32))


class MemoryBackend:
    """Keeps the tokens themselves in its pages and reads them back: a page that is mixed up changes the logits."""

    vocab_size, page_tokens, page_bytes, max_len = V, 4, 1 << 18, 0  # four pages a MB

    def __init__(self):
        self.rows, self.fails = [], lambda batch: False

    def allocate(self, num_pages):
        self.num_pages = num_pages
        self.pages = np.full((num_pages, self.page_tokens), -1)

    def copy_page(self, source, target):
        self.pages[target] = self.pages[source]

    def forward(self, batch):
        if self.fails(batch):
            raise MemoryError("no memory left")
        self.rows.append(len(batch.ids))
        seen = []
        for s, table in enumerate(batch.tables):
            new = batch.ids[batch.starts[s] : batch.starts[s + 1]]
            for place, token in enumerate(new, batch.lengths[s]):
                self.pages[table[place // 4], place % 4] = token
            text = self.pages[table[table >= 0]].reshape(-1)
            seen += [text[: batch.lengths[s] + 1 + i] for i in range(len(new))]
        return torch.stack([logits_behind(seen[w].tolist()) for w in batch.wanted] or [torch.empty(V)])


class Greedy:
    """The likeliest token, ``count`` times; the smallest strategy there is."""

    width, extra_tokens = 1, 0

    def __init__(self, count):
        self.count = count

    def stop(self, index):
        self.count = 1

    def advance(self, live, logits):
        token = int(logits[0].argmax())
        self.count -= 1
        done = self.count == 0
        event = Event(0, token, finish="length" if done else None)
        return Outcome([] if done else [(live[0], token)], [], [event], done)


class Wanderer:
    """Grows, forks, holds and drops at random, by a seed of its own."""

    extra_tokens = 0

    def __init__(self, seed, width, rounds):
        self.rng, self.width, self.rounds = random.Random(seed), width, rounds
        self.held = []

    def stop(self, index):
        pass

    def advance(self, live, logits):
        self.rounds -= 1
        known = [(s, int(row.argmax())) for s, row in zip(live, logits, strict=True)]
        known += [(s, token) for s, token in self.held]
        self.held = [pair for pair in known if self.rng.random() < 0.2][: self.width - 1]
        room = self.width - len(self.held)
        grow = [(s, (token + self.rng.randrange(3)) % V) for s, token in self.rng.choices(known, k=room)]
        events = [Event(i, token) for i, (_, token) in enumerate(grow)]
        return Outcome(grow, [s for s, _ in self.held], events, self.rounds == 0)


class Line:
    """Stands in for a Sequence where there are no pages."""

    def __init__(self, ids):
        self.ids = list(ids)


def plainly(prompt, strategy):
    """The events of a request served alone, without pages, from whole texts."""
    live, events = [Line(prompt)], []
    while True:
        outcome = strategy.advance(live, torch.stack([logits_behind(s.ids) for s in live]))
        events += outcome.events
        if outcome.done:
            return events
        live = [Line([*s.ids, token]) for s, token in outcome.grow]
