"""The fused head and loss against torch's cross-entropy, values and gradients."""

import pytest
import torch
import torch.nn.functional as F

from congling.model import loss as module
from congling.model.config import ModelConfig
from congling.model.loss import IGNORE, LinearCrossEntropy
from congling.model.transformer import Transformer

N, D, V = 7, 4, 11


def inputs(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, D, generator=generator, dtype=dtype).requires_grad_()
    weight = torch.randn(V, D, generator=generator, dtype=dtype).requires_grad_()
    return hidden, weight, torch.randint(V, (N,), generator=generator)


def plain(hidden, weight, targets, softcap):
    logits = hidden @ weight.T
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    return F.cross_entropy(logits, targets, reduction="sum")


@pytest.mark.parametrize("softcap", [0.0, 1.5])
@pytest.mark.parametrize("chunk", [2, 1024])
def test_value_and_gradients(monkeypatch, softcap, chunk):
    monkeypatch.setattr(module, "_CHUNK", chunk)
    hidden, weight, targets = inputs()
    expected = torch.autograd.grad(plain(hidden, weight, targets, softcap), (hidden, weight))
    ours = LinearCrossEntropy.apply(hidden, weight, targets, softcap)
    assert ours.item() == pytest.approx(plain(hidden, weight, targets, softcap).item())
    for ours_grad, other in zip(torch.autograd.grad(ours, (hidden, weight)), expected, strict=True):
        torch.testing.assert_close(ours_grad, other)
    with torch.no_grad():
        assert LinearCrossEntropy.apply(hidden, weight, targets, softcap).item() == pytest.approx(ours.item())


def test_gradient_scales_with_what_follows():
    hidden, weight, targets = inputs()
    assert torch.autograd.gradcheck(
        lambda h, w: 3 * LinearCrossEntropy.apply(h, w, targets, 2.0), (hidden, weight), check_undefined_grad=False
    )


def test_bf16_is_close_and_a_hopeless_target_stays_finite():
    hidden, weight, targets = inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        rough = LinearCrossEntropy.apply(hidden, weight, targets, 0.0)
    assert rough.item() == pytest.approx(plain(hidden, weight, targets, 0.0).item(), rel=0.02)
    far = LinearCrossEntropy.apply(200 * hidden, 200 * weight, targets, 0.0)
    assert far.isfinite()
    assert all(g.isfinite().all() for g in torch.autograd.grad(far, (hidden, weight)))


@pytest.mark.parametrize("preset", ["demo", "jerry-0.18b", "base-0.18b"])
def test_model_loss_leaves_out_ignored_targets(preset):
    config = ModelConfig(preset=preset, dim=8, num_layers=1, num_heads=2, head_dim=4, ffn_dim=8, dropout=0.0)
    model = Transformer(config.resolve(V), 1)
    ids = torch.randint(V, (2, 5), generator=torch.Generator().manual_seed(0))
    targets = ids.roll(-1, 1)
    targets[0, :3] = IGNORE
    total, count = model.loss(ids, targets)
    expected = F.cross_entropy(model.logits(model(ids)).flatten(0, 1), targets.flatten(), reduction="sum")
    assert count == 7
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    ours, other = (torch.autograd.grad(x, list(model.parameters()), allow_unused=True) for x in (total, expected))
    for a, b, name in zip(ours, other, dict(model.named_parameters()), strict=True):
        if a is not None and name != "head_affine.bias":  # which no loss sees
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    none, zero = model.loss(ids, torch.full_like(ids, IGNORE))
    none.backward()
    assert (none.item(), zero) == (0.0, 0)
