"""`dry_run=true`: what a training will cost, before anything of the run is there and after."""

import re
from pathlib import Path

import pytest

import tiny
from congling import config, pipeline
from congling.cli import BAD_CONFIG, OK
from congling.config import ConfigError, result_key
from congling.model.config import ModelConfig
from congling.plan import plan
from congling.recipe import Recipe
from congling.reporter import Reporter

RECIPES = Path(__file__).parents[1] / "recipes"


def test_a_plan_before_anything_is_there(congling):
    code, out, error = congling("pretrain", RECIPES / "base-0.18b.toml", "dry_run=true", "device=rtx-4090")
    assert (code, error) == (OK, "")
    for needle in (
        "186 M parameters: embedding 50.3 M, head 50.3 M, attention 56.6 M, feed_forward 28.3 M",
        "65,536 ids, from tokenizer.vocab_size",
        "rtx-4090: 165 TFLOP/s in bf16 (data sheet), 24 GiB, 450 W",
        "99,182 steps of 131,072",
        "925 MFLOP at length 1024",
        "an assumption",
        "kWh",
        "checkpoints of",
    ):
        assert needle in out, needle
    assert list(Path().iterdir()) == []


def test_what_does_not_fit_names_the_setting_and_a_value_that_does(congling):
    arguments = ["pretrain", RECIPES / "base-0.18b.toml", "dry_run=true", "device=rtx-4060"]
    out = congling(*arguments)[1]
    found = re.search(r"warning: does not fit; set micro_batch_tokens = (\d+)", out)
    assert found, out
    out = congling(*arguments, f"micro_batch_tokens={found[1]}")[1]
    assert "does not fit" not in out
    assert f"the largest that fits is {found[1]}" in out
    out = congling(*arguments, "model.num_layers=200")[1]
    assert "whatever micro_batch_tokens is" in out


def test_this_machine_and_every_training_have_a_plan(congling):
    for command in ("pretrain", "sft", "probe"):
        code, out, _ = congling(command, "dry_run=true")
        assert code == OK
        assert re.search(r"device +(this processor, \d+ thread|NVIDIA)", out)
        assert re.search(r"time .* tokens/s", out)
    assert list(Path().iterdir()) == []


def test_a_device_nobody_knows(congling):
    code, _, error = congling("sft", "dry_run=true", "device=abacus")
    assert code == BAD_CONFIG
    assert error.startswith("congling: sft.device = 'abacus': not known; known: this, rtx-3060")


def test_a_dry_run_is_never_a_training():
    recipe = config.load(Recipe, None, ["pretrain.dry_run=true", "run.dir=nowhere"])
    for start in (
        lambda: pipeline.run_stage(recipe, "pretrain", Reporter()),
        lambda: pipeline.run_all(recipe, Reporter()),
    ):
        with pytest.raises(ConfigError, match=r"pretrain\.dry_run = true: write congling pretrain"):
            start()
    assert not Path("nowhere").exists()


def test_asking_does_not_make_a_finished_training_run_again():
    for section in (Recipe().pretrain, Recipe().sft):
        asked = section.model_copy(update={"dry_run": True, "device": "h100"})
        assert result_key(asked) == result_key(section)


def test_what_the_stages_left_is_used(tmp_path):
    raw = tiny.make_raw(tmp_path / "raw", documents=80)
    recipe = config.load(Recipe, None, tiny.overrides(raw, tmp_path / "runs"))
    pipeline.run_all(
        recipe.model_copy(update={"run": recipe.run.model_copy(update={"first": "clean", "last": "tokenize"})}),
        Reporter(quiet=True),
    )
    words = " ".join(plan(recipe, "pretrain"))
    train = pipeline.artifact.read_manifest(tmp_path / "runs" / "tiny" / "tokenize")["summary"]["train"]["tokens"]
    assert f"400 ids, from {tmp_path}/runs/tiny/tokenize" in words
    assert f"{2560 / train:.2f} epochs of" in words
    apart = recipe.model_copy(update={"pretrain": recipe.pretrain.model_copy(update={"documents": "separate"})})
    assert _flops(plan(apart, "pretrain")) < _flops(plan(recipe, "pretrain"))
    wide = recipe.model_copy(update={"model": ModelConfig(dim=64)})
    (tmp_path / "runs" / "tiny" / "pretrain").mkdir()
    (tmp_path / "runs" / "tiny" / "pretrain" / "model.json").write_text(recipe.model.resolve(400).model_dump_json())
    assert "pretrain/model.json" in " ".join(plan(wide, "sft"))  # the base model's dials, not the recipe's
    assert _flops(plan(wide, "sft")) == _flops(plan(recipe, "sft"))


def _flops(lines: list[str]) -> float:
    found = re.search(r"a token +([\d.]+) k?M?FLOP", "\n".join(lines))
    assert found
    return float(found[1])
