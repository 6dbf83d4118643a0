"""Norms and dropout written for CPUs, against torch and finite differences."""

import pytest
import torch
import torch.nn.functional as F

from congling.model.functional import EPS, dropout, relu_squared, rms_norm, unit_rms


def test_gradients():
    x = torch.randn(3, 5, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rms_norm, (x, weight))
    assert torch.autograd.gradcheck(unit_rms, (x,))
    assert torch.autograd.gradcheck(unit_rms, (x.transpose(0, 1),))
    assert torch.autograd.gradcheck(relu_squared, (x,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_are_torchs(dtype):
    x = torch.randn(6, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    weight = torch.linspace(-1, 2, 32, dtype=dtype)
    tolerance = {torch.float32: 1e-6, torch.bfloat16: 2**-5}[dtype]  # of values up to 6
    for ours, torchs in (
        (rms_norm(x, weight), F.rms_norm(x, (32,), weight, EPS)),
        (unit_rms(x), F.rms_norm(x, (32,), None, EPS)),
    ):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours, torchs, rtol=0, atol=tolerance)
    with torch.no_grad():
        torch.testing.assert_close(unit_rms(x), F.rms_norm(x, (32,), None, EPS))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.19])
def test_dropout(share, dtype):
    torch.manual_seed(0)
    x = torch.full((601, 333), 2.0, dtype=dtype, requires_grad=True)  # no multiple of four values
    y = dropout(x, share)
    dropped = (y == 0).double().mean().item()
    assert dropped == pytest.approx(share, abs=5 * (share * (1 - share) / x.numel()) ** 0.5)  # 5 σ
    kept = y[y != 0]
    assert y.dtype == dtype
    assert (kept == kept[0]).all()
    assert kept[0].item() == pytest.approx(2 / (1 - share), rel=2**-8)
    y.sum().backward()
    assert ((x.grad != 0) == (y != 0)).all()
    torch.testing.assert_close(x.grad, y.detach() / 2)
    neighbours = ((y[:, 1:] == 0) & (y[:, :-1] == 0)).double().mean().item()  # drawn one by one
    assert neighbours == pytest.approx(share**2, rel=0.1)


def test_dropout_follows_the_generator():
    x = torch.ones(64)
    torch.manual_seed(3)
    first, second = dropout(x, 0.5), dropout(x, 0.5)
    torch.manual_seed(3)
    assert torch.equal(dropout(x, 0.5), first)
    assert not torch.equal(first, second)
