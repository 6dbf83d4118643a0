"""The preset jerry-0.18b against a slow float64 model written from the prose of SEED §3, with the seed's own names."""

import math

import pytest
import torch

from congling.model.config import ModelConfig
from congling.model.transformer import Transformer

V, D, L, H, K, F = 50, 8, 2, 3, 4, 10
ARCHITECTURE = ModelConfig(
    preset="jerry-0.18b", dim=D, num_layers=L, num_heads=H, head_dim=K, ffn_dim=F, dropout=0.0
).resolve(V)

# Our name -> the seed's, for one layer and around the layers. ``rate`` and ``offset`` are the sum of two scalars there.
PARTS = {
    "attention.query": ("multi_head_attention.query_w", "multi_head_attention.query_a"),
    "attention.key": ("multi_head_attention.key_w", "multi_head_attention.key_a"),
    "attention.value": ("multi_head_attention.value_w", "multi_head_attention.value_a"),
    "attention.out": ("multi_head_attention.out_w", "multi_head_attention.out_a"),
    "feed_forward.up": ("position_wise_feed_forward.w1", "position_wise_feed_forward.a1"),
    "feed_forward.down": ("position_wise_feed_forward.w2", "position_wise_feed_forward.a2"),
}
LAYER = {
    "attention.talking_before": "multi_head_attention.talking_before_softmax.weight",
    "attention.talking_after": "multi_head_attention.talking_after_softmax.weight",
    "norm.weight": "layer_norm.weight",
    **{f"{ours}.weight": f"{matrix}.weight" for ours, (matrix, _) in PARTS.items()},
    **{f"{ours}.affine.{x}": f"{affine}.{x}" for ours, (_, affine) in PARTS.items() for x in ("value", "bias")},
}
SUMS = {"attention.position.rate": "relative_affine", "attention.position.offset": "absolute_affine"}
OUTER = {
    "embedding": "embedding.look_up_table.weight",
    "embedding_affine.value": "embedding.affine.value",
    "embedding_affine.bias": "embedding.affine.bias",
    "head": "projector.project.weight",
    "head_affine.value": "projector.affine.value",
    "head_affine.bias": "projector.affine.bias",
}


def seed_weights(model):
    """The parameters of ``model`` under the seed's names, float64."""
    weights = {}
    for name, parameter in model.named_parameters():
        value = parameter.detach().double()
        if name in OUTER:
            weights[OUTER[name]] = value
            continue
        _, number, rest = name.split(".", 2)
        prefix = f"encoder.encoder_layers.{number}."
        if rest in SUMS:
            weights[f"{prefix}multi_head_attention.{SUMS[rest]}.value"] = value - 0.25
            weights[f"{prefix}multi_head_attention.{SUMS[rest]}.bias"] = torch.full_like(value, 0.25)
        else:
            weights[prefix + LAYER[rest]] = value
    return weights


def reference_logits(w, ids):
    """[T, V] of ids [T]; SEED §3, steps 1–8."""

    def affine(name, x):
        return 100 * (x * w[f"{name}.value"] + w[f"{name}.bias"])

    def one(name):  # A(x) = x·value + bias, at x = 1
        return w[f"{name}.value"] + w[f"{name}.bias"]

    x = affine("embedding.affine", w["embedding.look_up_table.weight"][ids])
    for number in range(L):
        m = f"encoder.encoder_layers.{number}.multi_head_attention."
        p = f"encoder.encoder_layers.{number}.position_wise_feed_forward."
        q, k, v = (
            affine(f"{m}{n}_a", x @ w[f"{m}{n}_w.weight"].T).view(-1, H, K).transpose(0, 1)
            for n in ("query", "key", "value")
        )
        s = q @ k.mT / math.sqrt(K)  # [H, T, T]
        i, j = torch.meshgrid(torch.arange(len(ids)), torch.arange(len(ids)), indexing="ij")
        s = s / (1 + one(f"{m}relative_affine") * (i - j).clamp(min=0))
        s = torch.where(j < i, s - one(f"{m}absolute_affine"), s)
        s = torch.einsum("ab,bij->aij", w[f"{m}talking_before_softmax.weight"], s)
        s = torch.where(j > i, -1e3, s)
        attention = torch.einsum("ab,bij->aij", w[f"{m}talking_after_softmax.weight"], torch.softmax(s, -1))
        y = (attention @ v).transpose(0, 1).reshape(len(ids), H * K)
        x = x + affine(f"{m}out_a", y @ w[f"{m}out_w.weight"].T)
        inner = torch.relu(affine(f"{p}a1", x) @ w[f"{p}w1.weight"].T)
        x = x + torch.relu(affine(f"{p}a2", inner) @ w[f"{p}w2.weight"].T)
        x = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        x = x * w[f"encoder.encoder_layers.{number}.layer_norm.weight"]
    return affine("projector.affine", x @ w["projector.project.weight"].T)


@pytest.fixture
def model():
    """Trained-looking: every scalar and bias moved off its starting value."""
    made = Transformer(ARCHITECTURE, 3)
    generator = torch.Generator().manual_seed(1)
    for parameter in made.parameters():
        if parameter.dim() == 1:
            parameter.data += 0.003 * torch.randn(parameter.shape, generator=generator)
    return made.eval()


def test_logits_are_the_seeds(model):
    ids = torch.randint(V, (12,), generator=torch.Generator().manual_seed(2))
    ours = model.logits(model(ids[None]))[0]
    torch.testing.assert_close(ours.double(), reference_logits(seed_weights(model), ids), rtol=0, atol=1e-4)


def test_every_parameter_has_the_seeds_name_and_shape(model):
    shapes = {name: tuple(value.shape) for name, value in seed_weights(model).items()}
    assert len(shapes) == 6 + L * 25
    layer = "encoder.encoder_layers.1."
    assert shapes["projector.project.weight"] == (V, D)
    assert shapes[f"{layer}multi_head_attention.out_w.weight"] == (D, H * K)
    assert shapes[f"{layer}multi_head_attention.talking_after_softmax.weight"] == (H, H)
    assert shapes[f"{layer}position_wise_feed_forward.w1.weight"] == (F, D)
    assert shapes[f"{layer}layer_norm.weight"] == (D,)


def test_starting_values_and_size():
    made = Transformer(ARCHITECTURE, 3)
    values = dict(made.named_parameters())
    assert values["layers.0.attention.position.rate"].item() == pytest.approx(0.1)
    assert values["layers.0.attention.position.offset"].item() == 1
    assert values["layers.1.feed_forward.up.affine.value"].item() == pytest.approx(0.01)
    assert values["embedding_affine.value"].item() == pytest.approx(math.sqrt(D) / 100)
    bound = math.sqrt(6 / (V + D))
    assert 0.9 * bound < values["embedding"].abs().max().item() <= bound
    with torch.device("meta"):
        full = Transformer(ModelConfig(preset="jerry-0.18b").resolve(65_802), seed=None)
    count = sum(p.numel() for p in full.parameters())
    a, talking = 12 * 768 * (4 * 1536 + 2 * 1536), 12 * 2 * 12 * 12
    assert count == 2 * 65_802 * 768 + a + talking + 12 * (768 + 2 + 12) + 4
