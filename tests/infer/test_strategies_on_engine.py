"""Every strategy on the real engine, several at once, gives what it gives alone; an own model through all of it."""

import json

import numpy as np
import pytest

from congling.infer.config import EngineConfig, SampleConfig
from congling.infer.constrain import Constraint
from congling.infer.engine import Engine
from congling.infer.model import Model
from congling.infer.penalties import Rules
from congling.infer.request import Request
from congling.infer.search import BeamSearch, SamplingStrategy
from congling.infer.tree import TreeSearch
from congling.tokenizer.tokenizer import Tokenizer
from congling.tokenizer.vocabulary import Vocabulary
from infer import toy
from infer.doubles import MemoryBackend, V, logits_behind
from infer.drive import Driver

CONFIG = SampleConfig(max_tokens=12, seed=4, temperature=1.0, top_p=0.95)
STOP = {3, 4}


class Letters:
    """49 letters and an end."""

    vocab_size, token_bytes = V, np.array([0] + [1] * (V - 1))

    def encode(self, text):
        return [byte - 64 for byte in (text if isinstance(text, bytes) else text.encode())]

    def decode_bytes(self, ids):
        return bytes(64 + i for i in ids if i)


def strategies():
    rules = Rules(constraint=Constraint.from_regex("[A-F]{3,9}(X|YZ)", Letters(), {0}))
    return [
        SamplingStrategy(CONFIG, V, STOP, n=3, logprobs=2),
        SamplingStrategy(CONFIG, V, STOP, n=2, best_of=4),
        BeamSearch(CONFIG, V, STOP, 4, 2),
        TreeSearch(CONFIG, V, STOP, 3, 2, 4),
        SamplingStrategy(CONFIG, V, {0}, n=2, rules=rules),
        BeamSearch(CONFIG, V, {0}, 3, 3, rules=rules),
        TreeSearch(CONFIG, V, {0}, 2, 2, 3, rules=rules),
    ]


def test_strategies_share_the_engine():
    prompts = [[1, *range(30, 41)], [1, 20], [1, *range(30, 43)], [1, 49, 48, 47], [1, 5], [1, 6], [1, 7, 8]]
    engine = Engine(MemoryBackend(), EngineConfig(memory_mb=60, max_batch=64))
    requests = [Request(p, strategy, CONFIG.max_tokens) for p, strategy in zip(prompts, strategies(), strict=True)]
    handles = [engine.submit(request) for request in requests]
    told = [list(handle.events()) for handle in handles]
    for events, prompt, strategy in zip(told, prompts, strategies(), strict=True):
        assert events == Driver(strategy, logits_behind).run(prompt)
    assert {Letters().decode_bytes(event.ids)[-1:] for event in told[5]} <= {b"X", b"Z"}


def test_a_model_answers_by_every_way():
    tokenizer = Tokenizer(Vocabulary("congling", [], [], []))
    model = Model(toy.transformer(), tokenizer, live=True)
    schema = {"type": "object", "properties": {"好": {"enum": ["北京", "上海"]}}, "required": ["好"],
              "additionalProperties": False}  # fmt: skip
    rules = Rules(constraint=Constraint.from_json_schema(schema, tokenizer))
    other = Tokenizer(Vocabulary("congling", ["北京"], [-1], [1]))
    config = SampleConfig(max_tokens=60)
    for options in ({}, {"beams": 3}, {"tree": 2}):
        text = model.generate("从前", config, rules=rules, **options)
        assert json.loads(text)["好"] in ("北京", "上海")
        wrong = Rules(constraint=Constraint.from_regex("a", other))
        with pytest.raises(ValueError, match="made for 273 ids, the model has 272"):
            model.generate("从前", config, rules=wrong, **options)


def test_one_request_without_a_way_on_does_not_disturb_others():
    """No letter of this vocabulary is an x: that comes to light behind the first token."""
    engine = Engine(MemoryBackend(), EngineConfig(memory_mb=60))
    rules = Rules(constraint=Constraint.from_regex("Ax|Ay", Letters(), {0}))
    lost, sound = (engine.submit(Request([1, 2], SamplingStrategy(CONFIG, V, rules=r), 12)) for r in (rules, None))
    assert len(list(sound.events())) == 12
    assert [event.error for event in lost.events()] == ["", "regex 'Ax|Ay': no token of the model meets it"]
