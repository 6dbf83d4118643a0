"""The layers are captured whole but for attention: the same loss and gradients, few compilations. No compiler runs."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from congling.model.config import ModelConfig
from congling.model.transformer import Transformer
from congling.train.compile import compile_layers, eager

SMALL = {"dim": 16, "num_layers": 4, "num_heads": 2, "head_dim": 8, "ffn_dim": 24, "dropout": 0.0}


def loss_and_gradients(model, ids):
    model.zero_grad()
    loss = model.loss(ids, ids)
    loss.objective.backward()
    return [loss.nats, *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("preset", ["base-0.18b", "jerry-0.18b"])
def test_compiled_layers_compute_the_same_with_few_compilations(preset):
    torch._dynamo.reset()
    architecture = ModelConfig(preset=preset, **SMALL).resolve(50)
    plain, compiled = Transformer(architecture), Transformer(architecture)
    counter = CompileCounterWithBackend("aot_eager")
    compile_layers(compiled, "on", "cpu", counter)
    ids = torch.randint(50, (2, 12), generator=torch.Generator().manual_seed(0))
    for got, wanted in zip(*(loss_and_gradients(m, ids) for m in (compiled, plain)), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    before = counter.frame_count
    assert 2 <= before <= 6  # pieces around attention, for the first layer and for the others: not for each of four
    loss_and_gradients(compiled, ids)
    with eager(), torch.no_grad():
        compiled(ids[:, :5])
    assert counter.frame_count == before


@pytest.mark.parametrize(("mode", "device"), [("off", "cuda"), ("auto", "cpu")])
def test_nothing_is_compiled_where_nothing_is_gained(mode, device):
    model = Transformer(ModelConfig(preset="base-0.18b", **SMALL).resolve(50))
    compile_layers(model, mode, device)
    assert all(layer._compiled_call_impl is None for layer in model.layers)
