"""Scores that grow with ln(keys) beyond the training length (``log_scale_from``)."""

import math

import pytest
import torch

from congling.model.attend import DocumentMask, attend
from congling.model.config import ModelConfig
from congling.model.positions import make_position
from congling.model.transformer import Transformer

SMALL = {"dim": 16, "num_layers": 2, "num_heads": 2, "head_dim": 8, "ffn_dim": 32}
METHODS = ("distance_decay_heads", "alibi", "rope", "none")


def position(method, start):
    architecture = ModelConfig(**SMALL, position=method, log_scale_from=start).resolve(20)
    return make_position(architecture)


def some(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("method", METHODS)
def test_all_of_a_score_grows(method):
    """softmax(z·ln 9/ln 4) for the ninth query; as ever for the first four."""
    q, k = some(1, 2, 9, 8), some(1, 2, 9, 8).flip(2)
    eye = torch.eye(9, dtype=torch.float64).expand(1, 2, 9, 9)
    plain, grown = (attend(q, k, eye, position(method, start))[0] for start in (0, 4))  # weights [H, Q, T]
    torch.testing.assert_close(grown[:, :4], plain[:, :4])
    for row in range(4, 9):
        powers = plain[:, row, : row + 1] ** (math.log(row + 1) / math.log(4))
        torch.testing.assert_close(grown[:, row, : row + 1], powers / powers.sum(-1, keepdim=True))


def test_keys_are_those_of_the_document():
    q, k, v = some(1, 2, 8, 8), some(1, 2, 8, 8).flip(2), some(1, 2, 8, 8).flip(3)
    numbers = torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1]])
    both = attend(q, k, v, position("none", 4), DocumentMask(numbers, numbers))
    first = attend(q[:, :, :5], k[:, :, :5], v[:, :, :5], position("none", 4))
    second = attend(q[:, :, 5:], k[:, :, 5:], v[:, :, 5:], position("none", 0))  # three keys: nothing grows
    torch.testing.assert_close(both, torch.cat((first, second), dim=2))


@pytest.mark.parametrize("method", METHODS)
def test_the_model_knows_it(method):
    model = Transformer(ModelConfig(**SMALL, position=method, log_scale_from=4).resolve(20))
    ids = torch.randint(20, (2, 12), generator=torch.Generator().manual_seed(2))
    plain = Transformer(ModelConfig(**SMALL, position=method).resolve(20))
    assert not torch.allclose(plain(ids)[:, -1], model(ids)[:, -1])


def test_gradients_of_rate_and_offset():
    made = position("distance_decay_heads", 3).double()
    q, k, v = (x.requires_grad_() for x in (some(2, 2, 6, 8), some(2, 2, 6, 8).flip(2), some(2, 2, 6, 8).flip(3)))
    parameters = [made.log_rate, made.offset]

    def loss(*changed):
        rate, offset = changed[3:]
        with torch.no_grad():
            made.log_rate.copy_(rate), made.offset.copy_(offset)
        return attend(*changed[:3], made).square().sum()

    loss(q, k, v, *(p.detach().clone() for p in parameters)).backward()
    for parameter in parameters:
        start, found = parameter.detach().clone(), parameter.grad
        for place in range(2):
            values = []
            for step in (1e-5, -1e-5):
                moved = start.clone()
                moved[place] += step
                others = [moved if p is parameter else p.detach().clone() for p in parameters]
                values.append(loss(q, k, v, *others).item())
                with torch.no_grad():
                    parameter.copy_(start)
            assert found[place].item() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4)
