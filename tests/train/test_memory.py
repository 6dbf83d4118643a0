"""The count of tensors against what torch really keeps and allocates, on a CPU."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile

from congling.model.config import Architecture, ModelConfig
from congling.model.loss import _CHUNK
from congling.model.transformer import Transformer
from congling.train import memory as module
from congling.train.config import LoopConfig
from congling.train.cost import parameters
from congling.train.data import Batch
from congling.train.loop import Trainer
from congling.train.memory import activation_bytes, memory
from congling.train.precision import autocast
from train.test_cost import some_architecture
from train.tiny_job import BASE, make_job


def kept_bytes(architecture: Architecture, rows: int, seq_len: int, dtype: torch.dtype) -> int:
    """Bytes of all storages that the forward pass keeps, parameters and their copies not counted."""
    model = Transformer(architecture, seed=0)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen: dict[int, int] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return x

    ids = torch.randint(architecture.vocab_size, (rows, seq_len))
    with saved_tensors_hooks(pack, lambda x: x), autocast("cpu", dtype):
        model.loss(ids, ids)
    count = parameters(architecture)
    copied = dtype == torch.bfloat16 or architecture.affine
    copies = dtype.itemsize * (count["attention"] + count["feed_forward"]) if copied else 0
    return sum(seen.values()) - copies - 4 * architecture.vocab_size * architecture.dim  # the gradient of the head


def test_activations_of_any_dials_within_a_twentieth():
    rng = random.Random(5)
    for number in range(30):
        seq_len = rng.choice([16, 32, 64])
        dtype = (torch.bfloat16, torch.float32)[number % 2]
        architecture = some_architecture(rng)
        tokens = 512
        counted = tokens * activation_bytes(architecture, seq_len, dtype.itemsize, cpu=True)
        assert counted == pytest.approx(kept_bytes(architecture, tokens // seq_len, seq_len, dtype), rel=0.05), (
            architecture
        )


class Noise:
    fingerprint = "noise"

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def batch(self, position: int, num_rows: int, seq_len: int) -> Batch:
        ids = torch.from_numpy(np.random.default_rng(position).integers(self.vocab_size, size=(num_rows, seq_len)))
        return Batch(ids, ids)


def peak_bytes(folder: Path, architecture: Architecture, **changes) -> tuple[int, LoopConfig]:
    """Most bytes of tensors at once in a whole training, from building the model on."""
    source = Noise(architecture.vocab_size)

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        job = make_job(folder, **changes)
        sizes = np.full(architecture.vocab_size, 3, np.int32)
        held_out = lambda: iter([source.batch(10**6, 1, 16)])  # noqa: E731
        Trainer(
            replace(job, model=Transformer(architecture, 0), source=source, token_bytes=sizes, valid=held_out)
        ).run()
    rows = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    rows.sort(key=lambda e: e.start_ns())
    return int(np.cumsum([e.nbytes() for e in rows]).max()), job.config


WHOLE = {
    "lengths": (64,),
    "tokens": 8192,
    "batch_tokens": 4096,
    "micro_batch_tokens": 2048,
    "muon_step": None,
    "checkpoint_every": 1,
}
BF16, HEADS = {"precision": "bf16"}, {"num_heads": 4, "head_dim": 32, "ffn_dim": 128, "dim": 64, "num_layers": 2}
DEMO = {"dim": 64, "num_layers": 2}


@pytest.mark.parametrize(
    ("model", "vocab_size", "changes"),
    [
        (DEMO, 512, BF16),
        (DEMO, 4096, {**BF16, "micro_batch_tokens": 4096}),
        ({"dim": 128, "num_layers": 3}, 512, {**BF16, "batch_tokens": 256, "micro_batch_tokens": 256, "muon_step": 0}),
        ({**HEADS, "preset": "jerry-0.18b"}, 1024, {**BF16, "lengths": (128,)}),
        ({**HEADS, "preset": "base-0.18b"}, 1024, {"lengths": (32,)}),
    ],
)
def test_the_peak_of_a_training_within_a_fifth(tmp_path, model, vocab_size, changes):
    architecture = ModelConfig(**model).resolve(vocab_size)
    changes = {**WHOLE, **changes, "tokens": 3 * {**WHOLE, **changes}["batch_tokens"]}
    measured, config = peak_bytes(tmp_path, architecture, **changes)
    found = memory(architecture, parameters(architecture), config, "cpu", config.precision)
    counted = found.total - found.parts["libraries"]  # which are no tensors
    assert counted == pytest.approx(measured, rel=0.2), found


def test_a_graphics_card_keeps_no_scores():
    architecture = ModelConfig(preset="base-0.18b").resolve(65_536)
    short, long = (activation_bytes(architecture, length, 2, cpu=False) for length in (128, 4096))
    assert short == long
    assert activation_bytes(architecture, 4096, 2, cpu=True) > 3 * long
    no_kernel = architecture.model_copy(update={"talking_heads": True, "position": "alibi"})
    assert activation_bytes(no_kernel, 4096, 2, cpu=False) > 3 * long


def test_chunks_are_those_of_the_loss():
    assert module._CHUNK == _CHUNK
    assert LoopConfig(**BASE).micro_batch_tokens  # the tiny job is what the measurement trains
