import json
import os
import shutil
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from congling import pipeline
from congling.config import ConfigError, load
from congling.model.folder import load_model
from congling.recipe import Recipe
from congling.reporter import Reporter, read_metrics
from congling.train.distributed import RankLost, World, row_chunks
from congling.train.stops import Interrupted
from tiny import make_raw, overrides
from train.ranks import (
    MODELS,
    STEPS,
    Run,
    lose_one,
    read_results,
    stopping,
    together,
    train_all,
    uneven,
    whole_run,
)
from train.tiny_job import train

CASES = [(model, strategy) for model in MODELS for strategy in ("ddp", "fsdp")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What one rank and what two ranks made of every model and strategy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("ranks")
    alone = {}
    for model in MODELS:
        run = Run(World(), model)
        losses, norms = whole_run(run, folder / f"{model}-one.safetensors")
        alone[model] = {"losses": losses, "norms": norms, "alone": [run.evaluated()]}
    (folder / "one.json").write_text(json.dumps(alone))
    train(folder / "one-whole", log_every=1)
    with pytest.raises(Interrupted):
        train(folder / "one-stopped", source=stopping(6), log_every=1)
    assert together(train_all, 2, folder) == [0, 0]
    yield folder
    torch.set_num_threads(threads)


def one(folder, model, what):
    return json.loads((folder / "one.json").read_text())[model][what]


@pytest.mark.parametrize(("model", "strategy"), CASES)
def test_two_ranks_train_as_one(folder, model, strategy):
    losses = read_results(folder, f"{model}-{strategy}-losses")
    assert len(losses) == STEPS[model]
    assert losses[-1] < losses[0] - 0.3
    assert losses == pytest.approx(one(folder, model, "losses"), abs=1e-5)
    assert read_results(folder, f"{model}-{strategy}-norms") == pytest.approx(one(folder, model, "norms"), rel=1e-4)


@pytest.mark.parametrize(("model", "strategy"), CASES)
def test_what_one_rank_saved_two_go_on_from(folder, model, strategy):
    expected = one(folder, model, "losses")[STEPS[model] // 2 :]
    assert read_results(folder, f"{model}-{strategy}-resumed") == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("model", "strategy"), CASES)
def test_what_two_ranks_saved_one_goes_on_from(folder, model, strategy):
    file, reference = folder / f"{model}-{strategy}.safetensors", load_file(folder / f"{model}-one.safetensors")
    found = load_file(file)
    assert found.keys() == reference.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, reference[name], rtol=1e-3, atol=1e-4)
    run = Run(World(), model)
    run.load(file)
    half, steps = STEPS[model] // 2, STEPS[model]
    assert run.steps(half, steps) == pytest.approx(one(folder, model, "losses")[half:], abs=1e-5)


@pytest.mark.parametrize(("model", "strategy"), CASES)
def test_a_rank_can_use_the_whole_model_alone(folder, model, strategy):
    expected = one(folder, model, "alone")
    assert read_results(folder, f"{model}-{strategy}-alone") == pytest.approx(expected, rel=1e-5)


def test_bf16_is_the_same_arithmetic_in_both_strategies(folder):
    """fsdp sends matrices in bf16, as autocast would make them anyway: ddp and fsdp differ by sums' order only."""
    ddp, fsdp = (read_results(folder, f"bf16-{strategy}") for strategy in ("ddp", "fsdp"))
    assert fsdp == pytest.approx(ddp, rel=2e-3)
    assert ddp[-3] < ddp[0]


def losses_of(folder):
    rows = read_metrics(folder / "metrics.jsonl")
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, 21))  # written once
    return [row["loss"] for row in rows if row["kind"] in ("train", "valid")]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_the_loop_on_two_ranks(folder, strategy):
    """Rows, stops and checkpoints of the whole loop, dropout included, are those of one rank."""
    expected = losses_of(folder / "one-whole")
    assert losses_of(folder / f"{strategy}-whole") == pytest.approx(expected, abs=1e-5)
    assert losses_of(folder / f"{strategy}-resumed") == pytest.approx(expected, abs=1e-5)
    steps = [row["step"] for row in read_metrics(folder / f"{strategy}-stopped" / "metrics.jsonl")]
    assert max(steps) < 10  # all ranks stopped when one was asked to
    train(folder / f"{strategy}-stopped", log_every=1)
    assert losses_of(folder / f"{strategy}-stopped") == pytest.approx(expected, abs=1e-5)


def test_rows_that_do_not_divide_by_the_ranks(tmp_path):
    run = Run(World(), "base", muon_step=2, micro_batches=3)
    run.steps(0, 4)
    run.save(tmp_path / "one.safetensors")
    assert together(uneven, 3, tmp_path) == [0, 0, 0]
    reference = load_file(tmp_path / "one.safetensors")
    for strategy in ("ddp", "fsdp"):
        found = load_file(tmp_path / f"uneven-{strategy}.safetensors")
        assert found.keys() == reference.keys()
        for name, tensor in found.items():
            torch.testing.assert_close(tensor, reference[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("how", ["dies", "hangs"])
def test_a_lost_rank_ends_the_others_with_one_line(tmp_path, how):
    """Within the timeout of 3 s, and at once when the process is gone."""
    started = time.monotonic()
    codes = together(lose_one, 2, tmp_path, how)
    assert codes == ([7, 9] if how == "dies" else [7, 7])
    assert time.monotonic() - started < 20
    text = (tmp_path / "lost.0").read_text()
    assert text.startswith("rank 0 of 2: another rank ended or does not answer")
    assert "\n" not in text


def test_other_errors_are_not_called_a_lost_rank():
    world = World(0, 2)
    with pytest.raises(RuntimeError, match="shape") as caught, world.answering():
        raise RuntimeError("shape mismatch")
    assert not isinstance(caught.value, RankLost)
    with pytest.raises(RankLost), world.answering():
        raise RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer")


def test_alone_nothing_is_exchanged():
    world = World.start("cpu")
    assert (world.rank, world.size, world.is_main) == (0, 1, True)
    assert not torch.distributed.is_initialized()
    assert world.sum([1, 2.5]) == [1.0, 2.5]
    assert world.any(True)
    assert not world.any(False)
    run = Run(world, "base")
    weights = world.full_state(run.model)
    assert weights["embedding"].data_ptr() == run.model.embedding.data_ptr()  # no copies
    with pytest.raises(ValueError, match=r"weights of another model: norm\.weight is \[3\], here \[16\]"):
        world.load_full_state(run.model, {**weights, "norm.weight": torch.zeros(3)})
    with pytest.raises(ValueError, match="weights of another model: head, … only in one"):
        world.load_full_state(run.model, {**weights, "head": torch.zeros(3)})
    world.close()


def test_a_gpu_too_few_is_said(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=r"has 1 GPUs, process 2 on it has none; torchrun --nproc-per-node 1"):
        World.start("cuda")


def test_row_chunks():
    assert row_chunks(7, 3) == ((0, 3), (3, 6), (6, 7))
    assert row_chunks(2, 4) == ((0, 1), (1, 2), (2, 2), (2, 2))
    assert row_chunks(8, 1) == ((0, 8),)


def torchrun(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CONGLING_RESTARTED": "1"}  # allocator: not worth a restart
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "congling"]
    return subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=120)


def test_the_command_under_torchrun(tmp_path):
    """Rank 0 alone prints, keeps the folder and writes; the model is the one that a single process would leave."""
    settings = overrides(make_raw(tmp_path / "raw"), tmp_path / "runs")
    recipe = load(Recipe, None, [*settings, "pretrain.precision=fp32", "pretrain.strategy=fsdp"], "pretrain")
    for name in ("clean", "tokenizer", "tokenize"):
        pipeline.run_stage(recipe, name, Reporter(quiet=True))
    keys = [*settings, "pretrain.precision=fp32", "pretrain.strategy=fsdp"]
    done = torchrun("pretrain", *keys)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "tiny" / "pretrain"
    assert done.stdout == f"{folder}\n"
    assert done.stderr.count("pretrain: begins in") == done.stderr.count("pretrain: done in") == 1
    rows = [row["step"] for row in read_metrics(folder / "metrics.jsonl") if row["kind"] == "train"]
    assert rows == sorted(set(rows))
    together_made = load_model(folder)
    alone = recipe.model_copy(update={"run": recipe.run.model_copy(update={"dir": str(tmp_path / "alone")})})
    shutil.copytree(tmp_path / "runs", tmp_path / "alone", ignore=shutil.ignore_patterns("pretrain"))
    pipeline.run_stage(alone, "pretrain", Reporter(quiet=True))
    for name, weight in load_model(tmp_path / "alone" / "tiny" / "pretrain").named_parameters():
        torch.testing.assert_close(weight, together_made.get_parameter(name), rtol=1e-3, atol=1e-3)


def test_what_several_processes_cannot_do_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    recipe = load(Recipe, None, [f"run.dir={tmp_path}", f'clean.input=["{tmp_path}"]'], None)
    with pytest.raises(ConfigError, match="congling tokenizer under torchrun: only pretrain and sft run on several"):
        pipeline.run_stage(recipe, "tokenizer", Reporter(quiet=True))
    with pytest.raises(ConfigError, match="congling run under torchrun: give one command there"):
        pipeline.run_all(recipe, Reporter(quiet=True))
