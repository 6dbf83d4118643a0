"""Penalties against a plain dense computation; rules and their errors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from congling.infer.config import SampleConfig
from congling.infer.penalties import Adjustment, Rules

V = 40


def dense(adjustment):
    """[V]: what is added to each logit."""
    out = np.zeros(V)
    ids, deltas = adjustment.sparse()
    np.add.at(out, ids, deltas)
    words = adjustment.words()
    if len(words):
        allowed = np.unpackbits(words.view(np.uint8), bitorder="little")[:V]
        out[allowed == 0] = -np.inf
    return out


def reference(config, prompt, answer, rules):
    out, line = np.zeros(V), [*prompt, *answer]
    for age, token in enumerate(reversed(line)):
        out[token] -= config.repetition_penalty * config.repetition_decay**age
    for token in range(V):
        count = answer.count(token)
        out[token] -= config.frequency_penalty * count + config.presence_penalty * (count > 0)
        out[token] += rules.bias.get(token, 0)
        n = config.no_repeat_ngram
        run = [*line[len(line) - n + 1 :], token]
        if n and len(run) == n and any(line[i : i + n] == run for i in range(len(line) - n + 1)):
            out[token] = -np.inf
        if token in rules.banned or (rules.allowed is not None and token not in rules.allowed):
            out[token] = -np.inf
    return out


@settings(deadline=None, max_examples=40)
@given(
    prompt=st.lists(st.integers(0, 5), min_size=1, max_size=12),
    answer=st.lists(st.integers(0, V - 1), max_size=40),
    short=st.lists(st.integers(0, 3), max_size=12),
    decay=st.sampled_from([0.0, 0.5, 0.98, 1.0]),
    ngram=st.integers(0, 3),
    rules=st.sampled_from([Rules(), Rules({3: 2.5, 39: -7.0}, [1]), Rules(allowed=[0, 1, 2, 33])]),
)
def test_sparse_penalties_equal_dense_ones(prompt, answer, short, decay, ngram, rules):
    config = SampleConfig(
        repetition_penalty=0.6,
        repetition_decay=decay,
        presence_penalty=0.3,
        frequency_penalty=0.2,
        no_repeat_ngram=ngram,
    )
    adjustment = Adjustment(config, prompt, V, rules)
    for n, token in enumerate(answer + short):
        if n == 5:
            twin, kept = adjustment.fork(), dense(adjustment)
        adjustment.push(token)
    np.testing.assert_allclose(dense(adjustment), reference(config, prompt, answer + short, rules), atol=1e-5)
    if len(answer + short) > 5:
        np.testing.assert_array_equal(dense(twin), kept)


def test_the_seeds_penalty_by_hand():
    config = SampleConfig(repetition_penalty=1.0, repetition_decay=0.5)
    assert dense(Adjustment(config, [2, 0, 2], V))[:3].tolist() == [-0.5, 0.0, -1.25]


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (Rules(bias={V: 1.0}), "0 … 39, got 40"),
        (Rules(banned=[-1]), "0 … 39, got -1"),
        (Rules(bias={1: 101.0}), "−100 … 100, got 101"),
        (Rules(bias={1: float("nan")}), "−100 … 100, got nan"),
        (Rules(allowed=[]), "no token stays allowed"),
        (Rules(allowed=[3], banned=[3]), "no token stays allowed"),
    ],
)
def test_rules_that_cannot_be_used(rules, message):
    with pytest.raises(ValueError, match=message):
        Adjustment(SampleConfig(), [0], V, rules)
