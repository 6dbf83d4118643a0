"""The fused head and loss against torch's cross-entropy, values and gradients."""

import pytest
import torch
import torch.nn.functional as F

from congling.model import loss as module
from congling.model.config import ModelConfig
from congling.model.loss import IGNORE, linear_cross_entropy
from congling.model.transformer import Transformer

N, D, V = 7, 4, 11


def inputs(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, D, generator=generator, dtype=dtype).requires_grad_()
    weight = torch.randn(V, D, generator=generator, dtype=dtype).requires_grad_()
    return hidden, weight, torch.randint(V, (N,), generator=generator)


def plain(hidden, weight, targets, softcap=0.0, z_loss=0.0):
    logits = hidden @ weight.T
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    squares = logits.logsumexp(-1)[targets != IGNORE].square().sum()
    return F.cross_entropy(logits, targets, reduction="sum") + z_loss * squares


@pytest.mark.parametrize("z_loss", [0.0, 0.1])
@pytest.mark.parametrize("softcap", [0.0, 1.5])
@pytest.mark.parametrize("chunk", [2, 1024])
def test_value_and_gradients(monkeypatch, softcap, z_loss, chunk):
    monkeypatch.setattr(module, "_CHUNK", {"cpu": chunk})
    hidden, weight, targets = inputs()
    targets[3] = IGNORE
    expected = plain(hidden, weight, targets, softcap, z_loss)
    ours = linear_cross_entropy(hidden, weight, targets, softcap, z_loss)
    assert ours.objective.item() == pytest.approx(expected.item())
    assert ours.nats.item() == pytest.approx(plain(hidden, weight, targets, softcap).item())
    assert ours.learned == N - 1
    gradients = (torch.autograd.grad(x, (hidden, weight)) for x in (ours.objective, expected))
    for ours_grad, other in zip(*gradients, strict=True):
        torch.testing.assert_close(ours_grad, other)
    with torch.no_grad():
        again = linear_cross_entropy(hidden, weight, targets, softcap, z_loss)
    assert again.objective.item() == pytest.approx(ours.objective.item())


@pytest.mark.parametrize("z_loss", [0.0, 0.1])
def test_gradient_scales_with_what_follows(z_loss):
    hidden, weight, targets = inputs()
    assert torch.autograd.gradcheck(
        lambda h, w: 3 * linear_cross_entropy(h, w, targets, 2.0, z_loss).objective,
        (hidden, weight),
        check_undefined_grad=False,
    )


def test_rows_that_are_not_learned_get_no_gradient_where_they_are_not_left_out():
    """The path of a GPU, which does not wait to know how many rows count."""
    logits = torch.randn(N, V, generator=torch.Generator().manual_seed(0)).to("meta")
    sums, gradient = module._loss_and_gradient(logits, torch.zeros(N, dtype=torch.long, device="meta"), 2.0, 0.1, True)
    assert sums.shape == (2,)
    assert gradient.shape == (N, V)


def test_bf16_is_close_and_a_hopeless_target_stays_finite():
    hidden, weight, targets = inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        rough = linear_cross_entropy(hidden, weight, targets).objective
    assert rough.item() == pytest.approx(plain(hidden, weight, targets).item(), rel=0.02)
    far = linear_cross_entropy(200 * hidden, 200 * weight, targets).objective
    assert far.isfinite()
    assert all(g.isfinite().all() for g in torch.autograd.grad(far, (hidden, weight)))


def test_a_small_z_loss_is_felt_in_bf16():
    """Its factor on the probabilities is too near to 1 for bf16; summed over many, its gradient is not."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 64, generator=generator).requires_grad_() for n in (256, 500))
    targets = torch.randint(500, (256,), generator=generator)

    def gradient(z_loss, dtype):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            return torch.autograd.grad(linear_cross_entropy(hidden, weight, targets, 0.0, z_loss).objective, weight)[0]

    exact = gradient(1e-4, torch.float32) - gradient(0.0, torch.float32)
    rough = gradient(1e-4, torch.bfloat16) - gradient(0.0, torch.bfloat16)
    assert torch.nn.functional.cosine_similarity(rough.flatten(), exact.flatten(), dim=0) > 0.7
    assert rough.norm() > 0


@pytest.mark.parametrize("preset", ["demo", "jerry-0.18b", "base-0.18b"])
def test_model_loss_leaves_out_ignored_targets(preset):
    config = ModelConfig(preset=preset, dim=8, num_layers=1, num_heads=2, head_dim=4, ffn_dim=8, dropout=0.0)
    model = Transformer(config.resolve(V), 1)
    ids = torch.randint(V, (2, 5), generator=torch.Generator().manual_seed(0))
    targets = ids.roll(-1, 1)
    targets[0, :3] = IGNORE
    total, _, count = model.loss(ids, targets)
    expected = F.cross_entropy(model.logits(model(ids)).flatten(0, 1), targets.flatten(), reduction="sum")
    assert count == 7
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    trained = [p for p in model.parameters() if p.requires_grad]  # not the head's bias, which no loss sees
    ours, other = (torch.autograd.grad(x, trained, allow_unused=True) for x in (total, expected))
    for a, b in zip(ours, other, strict=True):
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    none, _, zero = model.loss(ids, torch.full_like(ids, IGNORE))
    none.backward()
    assert (none.item(), zero) == (0.0, 0)
