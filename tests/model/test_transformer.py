"""One transformer for all presets: cache, packed documents, roles, starting values."""

import pytest
import torch

from congling.config import ConfigError
from congling.model.config import PRESETS, ModelConfig
from congling.model.transformer import Transformer

V = 40
SMALL = {"dim": 16, "num_layers": 2, "num_heads": 2, "head_dim": 8, "ffn_dim": 24}
VARIANTS = [
    {"preset": "demo"},
    {"preset": "base-0.18b"},
    {"preset": "jerry-0.18b"},
    {"position": "alibi", "feed_forward": "swiglu", "logit_softcap": 5.0},
    {"position": "rope", "talking_heads": True},
    {"position": "none", "norm": "post"},
    {"value_residual": True, "fastest_decay": 1.0, "slowest_decay": 1e-3},
    {"position": "sinusoidal", "tie_embeddings": False},
    {"position": "learned", "max_len": 18},
]


def small(seed=1, **changes):
    return Transformer(ModelConfig(**{**SMALL, **changes}).resolve(V), seed).eval()


def some_ids(*shape):
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_packed_documents_do_not_see_each_other(variant):
    model, ids = small(**variant), some_ids(1, 12)
    documents = torch.tensor([[0] * 5 + [1] * 3 + [2] * 4])
    packed = model(ids, documents=documents)
    alone = torch.cat([model(part) for part in ids.split([5, 3, 4], dim=1)], 1)
    torch.testing.assert_close(packed, alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_roles_name_every_parameter_once(variant):
    model = small(**variant)
    roles = model.parameter_roles()
    assert list(roles) == [name for name, _ in model.named_parameters()]
    for name, parameter in model.named_parameters():
        matrix = parameter.dim() == 2 and "talking" not in name
        if name == "input_position.weight":
            assert roles.pop(name) == "embedding"
            continue
        assert (roles[name] == "scalar") == (not matrix)
        if roles[name] == "heads":
            assert parameter.shape == (2 * 8, 16)
    assert [n for n, r in roles.items() if r == "embedding"] == ["embedding"]
    assert [n for n, r in roles.items() if r == "head"] == ([] if model.architecture.tie_embeddings else ["head"])
    assert sum(r == "heads" for r in roles.values()) == 3 * 2
    assert sum(r == "matrix" for r in roles.values()) == (4 if model.architecture.feed_forward == "swiglu" else 3) * 2


def test_starting_values_come_from_the_seed_alone():
    first, again, other = (dict(small(seed=s).named_parameters()) for s in (1, 1, 2))
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert not torch.equal(first["embedding"], other["embedding"])


@pytest.mark.parametrize("preset", PRESETS)
def test_training_reaches_every_parameter_and_lowers_the_loss(preset):
    model = small(preset=preset).train()
    ids = some_ids(4, 16)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(30):
        with torch.autocast("cpu", torch.bfloat16):
            total, _, count = model.loss(ids[:, :-1], ids[:, 1:])
        (total / count).backward()
        if not losses:
            idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
            assert set(idle) <= {"head_affine.bias", *(f"layers.{n}.attention.key.affine.bias" for n in range(2))}
        optimizer.step()
        optimizer.zero_grad()
        losses.append((total / count).item())
    assert losses[-1] < 0.9 * losses[0]


def test_presets_have_the_size_of_their_names():
    def millions(preset, vocab_size):
        with torch.device("meta"):
            model = Transformer(ModelConfig(preset=preset).resolve(vocab_size), seed=None)
        return sum(p.numel() for p in model.parameters()) / 1e6

    assert 3 < millions("demo", 8192) < 8
    assert millions("base-0.18b", 65_536) == pytest.approx(186, abs=1)
    assert millions("jerry-0.18b", 65_802) == pytest.approx(186, abs=1)


def test_affine_and_softcap_exclude_each_other():
    with pytest.raises(ConfigError, match="logit_softcap"):
        ModelConfig(preset="jerry-0.18b", logit_softcap=30.0).resolve(V)


def test_learned_positions_end():
    with pytest.raises(ConfigError, match="max_len"):
        ModelConfig(position="learned").resolve(V)
    with pytest.raises(ValueError, match="18 tokens: learned positions end"):
        small(position="learned", max_len=17)(some_ids(1, 18))


def test_heads_begin_with_rates_from_fastest_to_slowest():
    rates = small(fastest_decay=1.0, slowest_decay=1e-3, num_heads=4).layers[0].attention.position.rates()
    torch.testing.assert_close(rates.detach(), torch.tensor([1.0, 0.1, 0.01, 0.001]))
    torch.testing.assert_close(small().layers[0].attention.position.rates().detach(), torch.full((2,), 0.1))


def test_with_biases_the_fastest_head_begins_as_the_previous_token():
    """The constant in the scores, 50, and the offset leave little to the other keys."""
    model = small(fastest_decay=1.0, slowest_decay=1e-4, num_heads=4, head_dim=16, qk_bias=True)
    attention = model.layers[0].attention
    x = torch.nn.functional.rms_norm(torch.randn(1, 40, model.architecture.dim), (model.architecture.dim,))
    values = torch.eye(40).expand(1, 4, 40, 40)
    q, k = (attention._heads(project(x)) for project in (attention.query, attention.key))
    q, k = q + attention.query_bias.view(4, 1, 16), k + attention.key_bias.view(4, 1, 16)
    weights = attention.attend(q, k, values, None)[0]  # [H, T, T]
    before = weights.diagonal(-1, dim1=1, dim2=2)  # [H, T − 1] on the token before
    assert before[0, 1:].median() > 0.9
    assert before[3, 20:].median() < 0.1
    assert model.parameter_roles()["layers.0.attention.query_bias"] == "scalar"
    assert small(position="rope", qk_bias=True).layers[0].attention.key_bias.abs().max() == 0
