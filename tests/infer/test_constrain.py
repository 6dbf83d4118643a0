"""Answers of an untrained model that must follow a regex or a JSON schema, also where tokens end inside a character."""

import json
import re

import jsonschema
import pytest
import torch

from congling.infer.config import SampleConfig
from congling.infer.constrain import Constraint
from congling.infer.penalties import Rules
from congling.infer.search import BeamSearch, SamplingStrategy, make_strategy
from congling.infer.tree import TreeSearch
from congling.tokenizer.tokenizer import Tokenizer
from congling.tokenizer.vocabulary import Vocabulary
from infer.drive import Driver, answers

PIECES = ["北京", "上海", "城市", "你好", "名字", "中国", "今天天气"]
TOKENIZER = Tokenizer(Vocabulary("congling", PIECES, [-1_000_000] * len(PIECES), [1] * len(PIECES)))
V, STOP = TOKENIZER.vocab_size, {TOKENIZER.end_id, TOKENIZER.im_end_id}
CONFIG = SampleConfig(max_tokens=4000, max_context=8000, temperature=1.0, top_p=1.0, repetition_penalty=0)
TABLE = torch.randn(V, V, generator=torch.Generator().manual_seed(0))

CITY = {
    "type": "object",
    "properties": {
        "城市": {"enum": ["北京", "上海", "広州"]},
        "人口": {"type": "integer", "minimum": 0, "maximum": 30_000_000},
        "名字": {"type": "string", "maxLength": 12},
    },
    "required": ["城市", "人口", "名字"],
    "additionalProperties": False,
}
SCHEMAS = [
    {"type": "boolean"},
    {"enum": ["你好", 3, None]},
    {"type": "string", "pattern": "^[一-龥]{2,5}$"},
    {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 4},
    CITY,
    {"type": "object", "properties": {"a": {"type": "array", "items": CITY, "maxItems": 2}}, "required": ["a"],
     "additionalProperties": False},
    {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/pair"}],
     "$defs": {"pair": {"type": "array", "prefixItems": [{"type": "boolean"}, {"const": "中国"}], "items": False,
                        "minItems": 2}}},
]  # fmt: skip


def logits_of(ids):
    return TABLE[ids[-1]].clone()


def sampled(constraint, n=4, **changes):
    config = CONFIG.model_copy(update=changes)
    strategy = SamplingStrategy(config, V, STOP, n, rules=Rules(constraint=constraint))
    found = answers(Driver(strategy, logits_of).run([TOKENIZER.end_id]))
    assert {finish for _, finish in found.values()} == {"stop"}
    return [TOKENIZER.decode_bytes(ids).decode("utf-8") for ids, _ in found.values()]


@pytest.mark.parametrize("schema", SCHEMAS, ids=str)
def test_json_of_an_untrained_model_meets_its_schema(schema):
    constraint = Constraint.from_json_schema(schema, TOKENIZER, STOP)
    texts = sampled(constraint) + sampled(constraint, 1, top_k=90) + sampled(constraint, 1, seed=1, top_p=0.9)
    for text in texts:
        jsonschema.validate(json.loads(text), schema)
        assert "\n" not in text


def test_any_object_and_the_schema_as_text():
    for text in sampled(Constraint.from_json_schema('{"type": "object"}', TOKENIZER, STOP), 2, seed=3):
        assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize("pattern", ["(你好|中国){3}", "[0-9]{4}-[0-9]{2}", "今[天明]天气.{3}!", "a*", ""])
def test_regex(pattern):
    for text in sampled(Constraint.from_regex(pattern, TOKENIZER, STOP)):
        assert re.fullmatch(pattern, text)


def test_characters_may_be_put_together_from_bytes():
    """With the pieces forbidden each character takes three byte tokens."""
    rules = Rules(banned=range(V - len(PIECES), V), constraint=Constraint.from_regex("北京|上海", TOKENIZER, STOP))
    found = answers(Driver(SamplingStrategy(CONFIG, V, STOP, 6, rules=rules), logits_of).run([1]))
    assert {TOKENIZER.decode(ids) for ids, _ in found.values()} == {"北京", "上海"}
    assert all(len(ids) == 6 for ids, _ in found.values())


def test_beam_and_tree_search_keep_it():
    rules = Rules(constraint=Constraint.from_json_schema(CITY, TOKENIZER, STOP))
    for event in Driver(BeamSearch(CONFIG, V, STOP, 3, 3, rules=rules), logits_of).run([1]):
        jsonschema.validate(json.loads(TOKENIZER.decode(event.ids)), CITY)
        assert event.finish == "stop"
    driver = Driver(TreeSearch(CONFIG, V, STOP, 3, 2, 3, rules), logits_of)
    ids, finish = answers(driver.run([1]))[0]
    jsonschema.validate(json.loads(TOKENIZER.decode(ids)), CITY)
    assert finish == "stop"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constraint.from_regex("(ab", TOKENIZER, STOP), r"regex '\(ab': unclosed group"),
        (lambda: Constraint.from_regex("(?=a)b", TOKENIZER, STOP), "look-around"),
        (lambda: Constraint.from_json_schema("{", TOKENIZER, STOP), "JSON schema: not JSON"),
        (lambda: Constraint.from_json_schema("3", TOKENIZER, STOP), "must be an object"),
        (lambda: Constraint.from_json_schema({"type": "foo"}, TOKENIZER, STOP), "Invalid type: foo"),
        (lambda: Constraint.from_json_schema({"enum": []}, TOKENIZER, STOP), "Unsatisfiable"),
        (lambda: Constraint.from_json_schema({"not": {}}, TOKENIZER, STOP), "Unimplemented keys"),
        (lambda: Constraint.from_json_schema({"$ref": "#/no"}, TOKENIZER, STOP), "does not exist"),
        (lambda: Constraint.from_regex("a", TOKENIZER, ()), "needs a stop id"),
    ],
)
def test_constraints_that_cannot_be_met_or_read(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_rules_that_contradict_the_constraint():
    rules = Rules(banned=STOP, constraint=Constraint.from_regex("a?", TOKENIZER, STOP))
    sampling = SamplingStrategy(CONFIG, V, STOP, rules=rules)
    assert answers(Driver(sampling, logits_of).run([1]))[0] == (TOKENIZER.encode("a"), "stop")
    for settings in ({}, {"beams": 2}, {"tree": 2}):
        rules = Rules(allowed=[20], constraint=Constraint.from_regex("a", TOKENIZER, STOP))
        with pytest.raises(ValueError, match="biases and constraint forbid all"):
            Driver(make_strategy(CONFIG, V, STOP, rules=rules, **settings), logits_of).run([1])
    with pytest.raises(ValueError, match=f"made for {V} ids, the model has 9"):
        SamplingStrategy(CONFIG, 9, rules=Rules(constraint=rules.constraint))


def test_matchers_are_independent():
    first = Constraint.from_regex("ab", TOKENIZER, STOP).start()
    second = first.fork()
    for token in TOKENIZER.encode("ab"):
        assert not first.complete
        first.push(token)
    assert (first.complete, second.complete) == (True, False)
    second.push(TOKENIZER.encode("b")[0])  # is not allowed
    assert second.trouble.startswith("regex 'ab': ")
    assert (second.complete, second.words().any()) == (False, False)
