"""Attention against a reference of two loops, for every position method; gradients against finite differences."""

import math

import pytest
import torch

from congling.model.attend import DocumentMask, attend
from congling.model.config import ModelConfig
from congling.model.positions import make_position

METHODS = ("distance_decay", "distance_decay_heads", "alibi", "rope", "none")
B, H, T, K = 2, 3, 5, 4


def position(method):
    made = make_position(ModelConfig(position=method, num_heads=H, head_dim=K).resolve(10)).double()
    for index, parameter in enumerate(made.parameters()):
        parameter.data += torch.arange(len(parameter)) * 0.3 + 0.1 * index
    return made


def qkv(queries=T):
    generator = torch.Generator().manual_seed(0)
    shape = [(B, H, n, K) for n in (queries, T, T)]
    return [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shape]


def naive(q, k, v, method, made):
    """SEED §3.3–3.5 for the two decays, the papers for the others, one score at a time."""
    out = torch.zeros_like(q)
    first = T - q.shape[2]
    for b, h, i in torch.cartesian_prod(torch.arange(B), torch.arange(H), torch.arange(q.shape[2])).tolist():
        scores = []
        for j in range(first + i + 1):
            s = q[b, h, i] @ k[b, h, j] / math.sqrt(K)
            distance = first + i - j
            if method.startswith("distance_decay"):
                group = h if method.endswith("heads") else 0
                s = s / (1 + made.rates()[group] * distance) - (made.offset[group] if distance else 0)
            if method == "alibi":
                s = s - 2 ** (-8 * (h + 1) / H) * distance
            scores.append(s)
        weights = torch.softmax(torch.stack(scores), 0)
        out[b, h, i] = sum(w * v[b, h, j] for j, w in enumerate(weights))
    return out


@pytest.mark.parametrize("queries", [T, 1, 3])
@pytest.mark.parametrize("method", [m for m in METHODS if m != "rope"])
def test_equals_the_loops(method, queries):
    q, k, v = qkv(queries)
    made = position(method)
    torch.testing.assert_close(attend(q, k, v, made), naive(q, k, v, method, made), rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["distance_decay", "distance_decay_heads"])
def test_gradients_of_inputs_rate_and_offset(method):
    made = position(method)
    talking = torch.randn(H, H, dtype=torch.float64, requires_grad=True)
    inputs = (*qkv(), talking, *made.parameters())
    assert torch.autograd.gradcheck(lambda q, k, v, *_: attend(q, k, v, made), inputs, check_undefined_grad=False)
    mixed = torch.autograd.gradcheck(
        lambda q, k, v, t, *_: attend(q, k, v, made, None, t, t.T), inputs, check_undefined_grad=False
    )
    assert mixed


def test_blocked_keys_get_nothing_and_their_gradient_is_zero():
    q, k, v = qkv()
    documents = (torch.arange(T) >= 2).long()[None]
    attend(q, k, v, position("distance_decay_heads"), DocumentMask(documents, documents))[:, :, 2:].sum().backward()
    assert not k.grad[:, :, :2].any()
    assert not v.grad[:, :, :2].any()
    assert k.grad[:, :, 2:].isfinite().all()


def test_a_hand_computed_case():
    """One head of width 1: q = k = 1 everywhere, r = 1, c = ln 2: the scores of the last row are 1/3 − ln 2,
    1/2 − ln 2 and 1."""
    made = make_position(ModelConfig(position="distance_decay", num_heads=1, head_dim=2).resolve(10))
    made.rate.data.fill_(1.0)
    made.offset.data.fill_(math.log(2))
    one = torch.ones(1, 1, 3, 1)
    values = torch.tensor([1.0, 10.0, 100.0]).view(1, 1, 3, 1)
    far, near, own = math.exp(1 / 3) / 2, math.exp(1 / 2) / 2, math.exp(1)
    expected = (far * 1 + near * 10 + own * 100) / (far + near + own)
    assert attend(one, one, values, made)[0, 0, 2, 0].item() == pytest.approx(expected, rel=1e-6)


def test_rope_knows_only_distances():
    rope = make_position(ModelConfig(position="rope", num_heads=1, head_dim=8).resolve(10))
    q, k = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)

    def rotate(x, place):
        return rope.rotate(x, torch.tensor([place]))

    near, far = ((rotate(q, n + 3) @ rotate(k, n).mT).item() for n in (0, 50))
    assert near == pytest.approx(far, abs=1e-4)
    assert (rotate(q, 0) @ rotate(k, 0).mT).item() == pytest.approx((q @ k.mT).item(), abs=1e-5)
