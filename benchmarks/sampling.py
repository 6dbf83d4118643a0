"""Microseconds a token for choosing it, at 65,536 ids, one core: numba beside torch, settings beside each other.

Usage: python benchmarks/sampling.py [seed vocabulary for the constraint's masks]

Logits are random, with the entropy of a small model's (4 nats); the text has 1,000 tokens, which are all penalised.
"""

import sys
import time
from statistics import median

import numpy as np
import torch

from common import store
from congling.infer import sampler as module
from congling.infer.config import SampleConfig
from congling.infer.penalties import Rules
from congling.infer.sampler import Sampler, choose_batch
from congling.infer.search import BeamSearch
from congling.infer.strategy import Sequence

V, TEXT, ROUNDS = 65_536, 1_000, 60
SETTINGS = {
    "greedy": {"temperature": 0.0},
    "default (top-p 0.9, repetition)": {},
    "default, log-probabilities": {"logprobs": 0},
    "default, 5 alternatives": {"logprobs": 5},
    "all penalties": {"presence_penalty": 0.5, "frequency_penalty": 0.2},
    "no repeated 3 tokens": {"no_repeat_ngram": 3},
    "top-k 50": {"top_k": 50, "top_p": 1.0},
    "top-k 50, top-p 0.9": {"top_k": 50},
    "min-p 0.05": {"min_p": 0.05, "top_p": 1.0},
    "no limits": {"top_p": 1.0, "repetition_penalty": 0.0},
}


def model_like_logits(rng):
    """[V]: falling with the logarithm of a rank, ids shuffled."""
    logits = -1.3 * np.log(np.arange(1, V + 1)) + 0.7 * rng.standard_normal(V)
    return torch.from_numpy(rng.permutation(logits).astype(np.float32))


def microseconds(settings, logits, prompt, rounds):
    """Median over places of a text, everything included that a token costs."""
    settings = dict(settings)
    logprobs = settings.pop("logprobs", None)
    sampler = Sampler(SampleConfig(**settings), prompt, V, logprobs=logprobs)
    times = []
    for n in range(rounds):
        row = logits[n % len(logits)]
        start = time.perf_counter()
        sampler.choose(row)
        times.append(time.perf_counter() - start)
    return round(1e6 * median(times[5:]), 1)


def batch_microseconds(logits, prompt):
    samplers = [Sampler(SampleConfig(), prompt, V, n) for n in range(len(logits))]
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        choose_batch(logits, samplers)
        times.append(time.perf_counter() - start)
    return round(1e6 * median(times[5:]) / len(logits), 1)


def beam_microseconds(logits, prompt, width=4):
    strategy = BeamSearch(SampleConfig(max_tokens=ROUNDS), V, (), width)
    live, rows, times = [Sequence(prompt)], logits[:1], []
    while True:
        start = time.perf_counter()
        outcome = strategy.advance(live, rows)
        times.append(time.perf_counter() - start)
        if outcome.done:
            return round(1e6 * median(times[5:]), 1)
        live = [Sequence([*parent.ids, token]) for parent, token in outcome.grow]
        rows = logits[: len(live)]


def constraint_figures(vocabulary):
    """A schema over a real vocabulary: making it, and the mask of a place."""
    from congling.infer.constrain import Constraint
    from congling.tokenizer.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_seed(vocabulary)
    schema = {"type": "object", "properties": {"城市": {"type": "string"}, "n": {"type": "integer"}}}
    figures = {}
    for label in ("vocabulary and schema, s", "schema, s"):
        start = time.perf_counter()
        constraint = Constraint.from_json_schema(schema, tokenizer, [0])
        figures[label] = round(time.perf_counter() - start, 4)
    matcher, rng, times = constraint.start(), np.random.default_rng(0), []
    while len(times) < 300:
        start = time.perf_counter()
        words = matcher.words()
        times.append(time.perf_counter() - start)
        allowed = np.unpackbits(words.view(np.uint8), bitorder="little")[: tokenizer.vocab_size].nonzero()[0]
        matcher.push(int(rng.choice(allowed)))
        if matcher.complete:
            matcher = constraint.start()
    figures["mask, µs"], figures["mask, worst µs"] = round(1e6 * median(times), 1), round(1e6 * max(times), 1)
    start = time.perf_counter()
    Rules(constraint=constraint).check(tokenizer.vocab_size)
    figures["rules checked, µs"] = round(1e6 * (time.perf_counter() - start), 1)
    return figures


def main(arguments):
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    logits = torch.stack([model_like_logits(rng) for _ in range(16)])
    prompt = rng.integers(0, V, TEXT).tolist()
    p = logits[0].double().softmax(-1)
    figures = {"vocabulary": V, "entropy, nats": round(float(-(p * p.log()).sum()), 2), "µs a token": {}}
    for label, settings in SETTINGS.items():
        figures["µs a token"][label] = {"numba": microseconds(settings, logits, prompt, 5 * ROUNDS)}
    figures["µs a token"]["default, 16 rows in a call"] = {"numba": batch_microseconds(logits, prompt)}
    module._kernels = lambda: None
    for label, settings in SETTINGS.items():
        figures["µs a token"][label]["torch"] = microseconds(settings, logits, prompt, ROUNDS)
    figures["µs a token"]["default, 16 rows in a call"]["torch"] = batch_microseconds(logits, prompt)
    figures["beam search of width 4, µs a step"] = beam_microseconds(logits, prompt)
    if arguments:
        figures["constraint"] = constraint_figures(arguments[0])
    store("sampling", figures)


if __name__ == "__main__":
    main(sys.argv[1:])
