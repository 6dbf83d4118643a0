import json

import numpy as np
import pytest
import torch

from congling.artifact import Stage
from congling.config import ConfigError, load
from congling.evaluate.config import EvaluateConfig
from congling.evaluate.probes import Symbols
from congling.evaluate.run import probe
from congling.model.config import ModelConfig
from congling.model.loss import IGNORE
from congling.probe.config import ProbeConfig
from congling.probe.data import ProbeRows
from congling.probe.run import probe_tokenizer, run
from congling.recipe import Recipe
from congling.reporter import Reporter, read_metrics

TOKENIZER = probe_tokenizer(16)
SYMBOLS = Symbols.of(TOKENIZER, 16)
CONFIG = ProbeConfig(
    longest=3, alphabet=16, smallest_alphabet=4, probe_lengths=(2, 4), probe_sequences=8, lengths=(16,), tokens=2560,
    batch_tokens=256, micro_batch_tokens=256, warmup_steps=1, valid_tokens=64, growth=0.5,
)  # fmt: skip


def rows(config, seed=1):
    return ProbeRows(config, SYMBOLS, seed)


def documents(batch):
    """The ids and targets of each probe of each row."""
    for ids, targets, numbers in zip(batch.ids, batch.targets, batch.documents, strict=True):
        for number in numbers.unique():
            part = numbers == number
            if (targets[part] != IGNORE).any():
                yield ids[part].tolist(), targets[part].tolist()


@pytest.mark.parametrize(("task", "repeats"), [("copy", False), ("reverse", False), ("reverse", True), ("add", True)])
def test_rows_hold_whole_probes(task, repeats):
    config = CONFIG.model_copy(update={"task": task, "lengths": (40,), "longest": 9, "repeats": repeats})
    lengths = set()
    for ids, targets in documents(rows(config).batch(40 * 200, 50, 40)):
        cut = ids.index(SYMBOLS.separator)
        assert ids[0] == SYMBOLS.end
        assert targets[:cut] == [IGNORE] * cut  # the input is nobody's target
        assert targets[-1] == SYMBOLS.end
        assert targets[cut:-1] == ids[cut + 1 :]
        x, y = ids[1:cut], ids[cut + 1 :]
        if task == "add":
            a, b, total = ("".join(map(str, (np.array(p) - SYMBOLS.digits[0]))) for p in _terms(x, y))
            assert int(a[::-1]) + int(b[::-1]) == int(total[::-1])
            x = x[: len(x) // 2]
        else:
            assert y == (x if task == "copy" else x[::-1])
            assert len(set(x)) == len(x) or repeats
        lengths.add(len(x))
    assert lengths == set(range(1, 10))


def _terms(x, y):
    plus = x.index(SYMBOLS.plus)
    return x[:plus], x[plus + 1 :], y


def test_rows_are_a_function_of_seed_and_place():
    whole = rows(CONFIG).batch(0, 8, 16)
    part = rows(CONFIG).batch(4 * 16, 4, 16)
    assert torch.equal(whole.ids[4:], part.ids)
    assert torch.equal(whole.targets[4:], part.targets)
    assert not torch.equal(rows(CONFIG, seed=2).batch(0, 8, 16).ids, whole.ids)
    held_out = next(rows(CONFIG).valid(16))
    assert held_out.ids.shape == (4, 16)
    assert not torch.equal(held_out.ids, whole.ids[:4])


def test_inputs_grow():
    config = CONFIG.model_copy(update={"longest": 64, "lengths": (130,), "tokens": 130_000, "repeats": True})
    longest = {p: max(len(t) for _, t in documents(rows(config).batch(p * 130, 40, 130))) for p in (0, 250, 500, 900)}
    assert longest[0] <= 2 * 13 + 2 < longest[250] < longest[500] == longest[900] == 2 * 64 + 2


def test_leaves_a_model_that_can_be_measured_again(tmp_path):
    stage = Stage("probe", tmp_path, {}, 1, "key", False)
    model = ModelConfig(dim=16, num_layers=1, num_heads=2, head_dim=8, ffn_dim=32)
    summary = run(stage, Reporter(quiet=True), model, CONFIG)
    assert (summary["steps"], summary["tokens"]) == (10, 2560)
    assert {row["kind"] for row in read_metrics(stage.metrics)} == {"train", "valid"}
    assert json.loads((tmp_path / "probes.json").read_text()) == {"reverse": summary["probes"]}
    config = EvaluateConfig(probes=("reverse",), probe_lengths=(2, 4), probe_sequences=8, probe_alphabet=16)
    lines = list(probe(tmp_path, config))
    for (length, figures), line in zip(summary["probes"].items(), lines, strict=True):
        assert line.endswith(f" at {length}")
        assert f"symbols {figures['symbols']:8.3%}" in line


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["longest=65"], "a row needs 132 tokens for longest = 65"),
        (["task=add", "longest=64"], "a row needs 196 tokens"),
        (["alphabet=1000"], "alphabet 1000: inputs of 1024 symbols without repeats need as many"),
        (["repeats=true", "smallest_alphabet=1025"], "smallest_alphabet 1025 is more than alphabet 1024"),
        (["task=sort"], "probe.task"),
    ],
)
def test_mistakes_are_one_line(settings, message):
    with pytest.raises(ConfigError, match=message):
        load(Recipe, None, settings, "probe")
