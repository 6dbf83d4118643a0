"""Model folders: a round trip, and one clear line for each way to break one."""

import json

import pytest
import torch

from congling import artifact
from congling.artifact import ArtifactError
from congling.model.config import ModelConfig
from congling.model.folder import load_model, save_model
from congling.model.transformer import Transformer

CONFIG = ModelConfig(dim=8, num_layers=1, num_heads=1, head_dim=8, ffn_dim=8)


@pytest.fixture
def folder(tmp_path):
    """A finished stage ``run/pretrain`` with a model."""
    vocabulary = tmp_path / "words.txt"
    vocabulary.write_text("一个词表\n", encoding="utf-8")
    path = tmp_path / "run" / "pretrain"
    with artifact.stage(path, "pretrain", {"model": CONFIG}, {}, 1) as (stage, _):
        save_model(stage.path, Transformer(CONFIG.resolve(30), 7), vocabulary)
    return path


def test_round_trip(folder):
    model = load_model(folder)
    for (name, ours), other in zip(
        model.named_parameters(), Transformer(CONFIG.resolve(30), 7).parameters(), strict=True
    ):
        assert torch.equal(ours, other), name
    assert not model.training
    assert (folder / "vocabulary.txt").read_text(encoding="utf-8") == "一个词表\n"
    assert load_model(folder, dtype=torch.bfloat16).embedding.dtype == torch.bfloat16
    first = (folder / "model.safetensors").read_bytes()
    save_model(folder, model, folder / "vocabulary.txt")
    assert (folder / "model.safetensors").read_bytes() == first


def test_a_flipped_byte_is_refused(folder):
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    one_line(folder, "damaged, its hash differs")
    (folder / "manifest.json").unlink()
    file.write_bytes(data[:100])
    one_line(folder, "model.safetensors: damaged")


def one_line(folder, text):
    with pytest.raises(ArtifactError) as caught:
        load_model(folder)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_model_folder(folder, tmp_path):
    one_line(folder.parent, f"no model in it (no model.json); models here: {folder}")
    one_line(folder.parent / "sft", f"sft: no such folder; models here: {folder}")
    one_line(tmp_path / "nowhere" / "else", "no such folder")
    (tmp_path / "half" / "checkpoints").mkdir(parents=True)
    one_line(tmp_path / "half", "has not finished")


def test_missing_and_foreign_files(folder):
    (folder / "manifest.json").unlink()
    description = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**description, "dim": 16}))
    one_line(folder, "does not fit model.json")
    (folder / "model.json").write_text(json.dumps({**description, "dim": -1}))
    one_line(folder, "model.json: not a model description: dim")
    (folder / "model.json").write_text("{")
    one_line(folder, "model.json: not a model description")
    (folder / "vocabulary.txt").unlink()
    one_line(folder, "vocabulary.txt: missing")
