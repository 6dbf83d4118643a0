"""The fused affine scalars against their description, A(x) = 100·(x·value + bias), and plain autograd."""

import pytest
import torch
import torch.nn.functional as F

from congling.model.affine import Affine, ScaledLinear

ROWS, IN, OUT = 5, 4, 3


def scaled_linear(place, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    made = ScaledLinear(IN, OUT, affine=True, place=place)
    for parameter in made.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    x = torch.randn(2, ROWS, IN, generator=generator)
    return made.to(dtype), x.to(dtype).requires_grad_()


def described(made, x, place):
    value, bias = made.affine.value, made.affine.bias
    if place == "before":
        return F.linear(100 * (x * value + bias), made.weight)
    return 100 * (F.linear(x, made.weight) * value + bias)


@pytest.mark.parametrize("place", ["before", "behind"])
def test_value_and_gradients(place):
    made, x = scaled_linear(place)
    inputs = x, made.weight, made.affine.value, made.affine.bias
    ours, plain = made(x), described(made, x, place)
    torch.testing.assert_close(ours, plain)
    direction = torch.randn_like(plain)
    for found, expected in zip(
        torch.autograd.grad(ours, inputs, direction), torch.autograd.grad(plain, inputs, direction), strict=True
    ):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("place", ["before", "behind"])
def test_bf16_is_as_near_as_the_plain_products(place):
    made, x = scaled_linear(place, torch.float32)
    exact = described(made, x, place)
    with torch.autocast("cpu", torch.bfloat16):
        ours, plain = made(x), described(made, x, place)
    assert ours.dtype == torch.bfloat16
    assert (ours - exact).norm() < 1.5 * (plain - exact).norm() + 1e-3 * exact.norm()


def test_affine_alone():
    made = Affine()
    made.value.data.fill_(0.02)
    made.bias.data.fill_(0.5)
    torch.testing.assert_close(made(torch.tensor([1.0, -2.0])).detach(), torch.tensor([52.0, 46.0]))
