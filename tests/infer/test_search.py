"""Samples, beam search and tree search on logits from a table; the engine is a short loop (``drive``)."""

import itertools
import math

import pytest
import torch

from congling.infer.config import SampleConfig
from congling.infer.penalties import Rules
from congling.infer.sampler import Sampler
from congling.infer.search import BeamSearch, SamplingStrategy, make_strategy
from congling.infer.strategy import Sequence
from infer.drive import Driver, answers, random_logits

STOP = {0}
CONFIG = SampleConfig(max_tokens=8, seed=2, top_p=1.0)


def plain(logits_of, config, prompt, index=0, size=6):
    """One sample, token by token."""
    sampler, ids = Sampler(config, prompt, size, index), list(prompt)
    while len(ids) - len(prompt) < config.max_tokens:
        token = sampler.choose(logits_of(ids)).token
        if token in STOP:
            return ids[len(prompt) :], "stop"
        ids.append(token)
    return ids[len(prompt) :], "length"


def test_samples_are_those_of_the_sampler():
    logits_of = random_logits(6)
    events = Driver(SamplingStrategy(CONFIG, 6, STOP, n=5), logits_of).run([3, 1])
    expected = {index: plain(logits_of, CONFIG, [3, 1], index) for index in range(5)}
    assert answers(events) == expected
    assert {finish for _, finish in expected.values()} == {"stop", "length"}
    assert all(event.logprob is None for event in events)


def test_context_ends_an_answer():
    config = SampleConfig(max_tokens=50, max_context=7)
    events = Driver(SamplingStrategy(config, 6), random_logits(6)).run([3, 1, 2])
    assert [len(events), events[-1].finish] == [4, "length"]


def test_stopped_answers_are_let_go():
    strategy = SamplingStrategy(CONFIG, 6, n=3)
    live = [Sequence([1])]
    outcome = strategy.advance(live, torch.zeros(1, 6))
    assert len(outcome.grow) == 3
    strategy.stop(1)
    outcome = strategy.advance([Sequence([1, token]) for _, token in outcome.grow], torch.zeros(3, 6))
    assert [event.index for event in outcome.events] == [0, 2]
    strategy.stop(0), strategy.stop(2)
    outcome = strategy.advance([Sequence([1, 1]), Sequence([1, 1])], torch.zeros(2, 6))
    assert (outcome.grow, outcome.events, outcome.done) == ([], [], True)


def test_many_requests_advance_at_once():
    logits_of = random_logits(6)

    def begin():
        return [SamplingStrategy(CONFIG, 6, n=2), SamplingStrategy(CONFIG, 6, rules=Rules(allowed=[4], banned=[1]))]

    together, alone = begin(), begin()
    lives = [[Sequence([1, 2])], [Sequence([3])]]
    logits = torch.stack([logits_of([1, 2]), logits_of([3])])
    for outcome, strategy, live, row in zip(
        SamplingStrategy.advance_all(together, lives, logits), alone, lives, logits, strict=True
    ):
        assert outcome == strategy.advance(live, row.unsqueeze(0))
    logits[1] = torch.nan
    outcomes = SamplingStrategy.advance_all(begin(), lives, logits)
    assert len(outcomes[0].grow) == 2
    assert isinstance(outcomes[1], ValueError)


def test_best_of_tells_the_likeliest_first():
    logits_of = random_logits(6)
    driver = Driver(SamplingStrategy(CONFIG, 6, STOP, n=3, best_of=7, logprobs=0), logits_of)
    told = answers(driver.run([3, 1]))

    def mean(ids, finish):
        line, total = [3, 1], 0.0
        tokens = [*ids, 0] if finish == "stop" else ids
        for token in tokens:
            total += logits_of(line).log_softmax(-1)[token].item()
            line.append(token)
        return total / len(tokens)

    samples = [plain(logits_of, CONFIG, [3, 1], index) for index in range(7)]
    ranked = sorted(samples, key=lambda sample: -mean(*sample))
    assert [told[i] for i in range(3)] == ranked[:3]


def exhaustive(logits_of, prompt, size, limit, length_penalty):
    """Every answer of at most ``limit`` tokens over ``size`` ids, with its score, the best first."""
    found = []
    for length in range(limit + 1):
        for ids in itertools.product(range(1, size), repeat=length):
            line, total = list(prompt), 0.0
            for token in [*ids, 0][: min(length + 1, limit)]:
                total += logits_of(line).double().log_softmax(-1)[token].item()
                line.append(token)
            found.append((total / min(length + 1, limit) ** length_penalty, list(ids)))
    return sorted(found, key=lambda answer: -answer[0])


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0, -1.0])
def test_a_wide_beam_finds_what_exhaustive_search_finds(length_penalty):
    config = SampleConfig(max_tokens=4, repetition_penalty=0)
    for seed in range(4):
        logits_of = random_logits(4, seed)
        expected = exhaustive(logits_of, [2], 4, 4, length_penalty)[:5]
        beam = BeamSearch(config, 4, STOP, width=64, n=5, length_penalty=length_penalty)
        events = Driver(beam, logits_of).run([2])
        assert [(event.index, event.ids) for event in events] == [(i, ids) for i, (_, ids) in enumerate(expected)]
        assert [event.score for event in events] == pytest.approx([score for score, _ in expected], abs=1e-5)


def test_beams_follow_the_plain_rule():
    """Width 2, by hand: greedy takes 1 (0.6), which ends with 0.18; 2 (0.4) ends with 0.4."""
    table = {(): [0, 0.6, 0.4, 0], (1,): [0.3, 0.2, 0.3, 0.2], (2,): [1, 0, 0, 0]}
    table |= {(1, a): [1, 0, 0, 0] for a in range(4)}
    driver = Driver(
        BeamSearch(SampleConfig(repetition_penalty=0), 4, STOP, 2, 2, 0.0),
        lambda ids: torch.tensor(table[ids[1:]]).log(),
    )
    first, second = driver.run([3])
    assert (first.ids, first.score, first.finish) == ([2], pytest.approx(math.log(0.4)), "stop")
    assert (second.ids, second.score) == ([1], pytest.approx(math.log(0.18)))
    assert driver.steps == 2  # [1 2] has 0.18 too: it cannot become better than the second


def test_beam_keeps_rules_and_limits():
    config = SampleConfig(max_tokens=5, repetition_penalty=0, no_repeat_ngram=2)
    events = Driver(BeamSearch(config, 6, STOP, 3, 3, rules=Rules(banned=[0, 2])), random_logits(6)).run([1])
    for event in events:
        line = [1, *event.ids]
        assert len(event.ids) == 5
        assert event.finish == "length"
        assert not {0, 2} & set(event.ids)
        assert len(set(itertools.pairwise(line))) == 5
    assert sorted(event.score for event in events) == [event.score for event in reversed(events)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "1 ≤ n ≤ best_of"),
        ({"n": 3, "best_of": 2}, "n = 3, best_of = 2"),
        ({"beams": 2, "n": 3}, "beams = 2, n = 3"),
        ({"beams": 2, "tree": 2}, "one of them"),
        ({"beams": 2, "best_of": 2}, "best_of is for sampling"),
        ({"tree": 2, "n": 2}, "one answer, n = 2"),
        ({"logprobs": 7}, "must be 0 … 6"),
        ({"rules": Rules(allowed=[])}, "no token stays allowed"),
    ],
)
def test_settings_that_cannot_be_used(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_strategy(CONFIG, 6, STOP, **arguments)
