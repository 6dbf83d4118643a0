import pytest
import torch

from congling.model.config import PRESETS, ModelConfig
from congling.model.transformer import Transformer
from congling.train.config import LoopConfig
from congling.train.distributed import World
from congling.train.newton_schulz import orthogonalise
from congling.train.optimizers import Optimizer
from congling.train.shares import DECAYED_ROLES, GROUPS, MUON_ROLES, check_role, deal, group_of, make_shares
from train.tiny_job import tiny_model


def set_gradients(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def run(model, optimizer, steps, lr=1e-2, first=0):
    for step in range(first, first + steps):
        set_gradients(model, step)
        optimizer.step(step, lr)


def values(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_adamw_is_torchs():
    model, reference = tiny_model(), tiny_model()
    config = LoopConfig(betas=(0.9, 0.98), eps=1e-7, weight_decay=0.1)
    run(model, Optimizer(model, config, torch.float32), 5)
    roles = reference.parameter_roles()
    named = dict(reference.named_parameters())
    groups = [
        {"params": [p for n, p in named.items() if roles[n] == "scalar"], "weight_decay": 0.0},
        {"params": [p for n, p in named.items() if roles[n] != "scalar"], "weight_decay": 0.1},
    ]
    adam = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.98), eps=1e-7, foreach=False)
    for step in range(5):
        set_gradients(reference, step)
        adam.step()
    for name, value in values(model).items():
        torch.testing.assert_close(value, named[name].detach(), rtol=0, atol=1e-6)


def test_muon_updates_heads_one_by_one_and_scales():
    model = tiny_model()
    config = LoopConfig(muon_step=0, weight_decay=0.0, muon_momentum=0.0)
    before = values(model)
    run(model, Optimizer(model, config, torch.float32), 1, lr=1.0)
    set_gradients(model, 0)
    gradients = {n: p.grad for n, p in model.named_parameters()}
    query, up = (next(n for n in before if n.endswith(end)) for end in ("query.weight", "up.weight"))
    change = before[query] - model.get_parameter(query).detach()  # [2 heads · 8, 16]
    expected = 0.2 * 16**0.5 * orthogonalise(gradients[query].unflatten(0, (2, 8)), torch.float32)
    torch.testing.assert_close(change, expected.flatten(0, 1), rtol=1e-4, atol=1e-5)
    change = before[up] - model.get_parameter(up).detach()
    expected = 0.2 * 32**0.5 * orthogonalise(gradients[up][None], torch.float32)[0]
    torch.testing.assert_close(change, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_embedding_and_head_never_reach_muon(tied):
    model = tiny_model(tie_embeddings=tied)
    optimizer = Optimizer(model, LoopConfig(muon_step=0), torch.float32)
    names = optimizer.muon_names(0)
    assert "embedding" not in names
    assert "head" not in names
    assert {model.parameter_roles()[name] for name in names} == {"matrix", "heads"}
    run(model, optimizer, 1)
    state = optimizer.state()
    assert "muon.embedding" not in state
    assert "adam.embedding/exp_avg" in state


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("position", ["distance_decay_heads", "learned"])
def test_every_parameter_has_one_place(preset, tied, position):
    architecture = ModelConfig(
        preset=preset, tie_embeddings=tied, value_residual=True, position=position, max_len=9 * (position == "learned")
    ).resolve(64)
    with torch.device("meta"):
        model = Transformer(architecture, seed=None)
    shares = make_shares(model, World())
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {p for p, _ in model.named_parameters()} - trained <= {"head_affine.bias"}  # no loss sees it
    assert sorted(share.name for share in shares) == sorted(trained)
    muon = {share.name for share in shares if share.role in MUON_ROLES}
    layers = {n for n, p in model.named_parameters() if n.startswith("layers.") and p.dim() == 2 and "talking" not in n}
    assert muon == layers
    decayed = {share.name for share in shares if share.role in DECAYED_ROLES}
    assert decayed == muon | {n for n in trained if n in ("embedding", "head", "input_position.weight")}
    assert {share.group for share in shares} <= set(GROUPS)
    if tied:
        assert model._head_matrix() is model.embedding


def test_unknown_parameters_are_not_guessed(monkeypatch):
    model = tiny_model()
    model.layers[0].extra = torch.nn.Parameter(torch.zeros(16, 16))
    with pytest.raises(AssertionError, match=r"layers\.0\.extra has no role"):
        Optimizer(model, LoopConfig(), torch.float32)
    roles = {**tiny_model().parameter_roles(), "layers.0.extra": "banana"}
    monkeypatch.setattr(model, "parameter_roles", lambda: roles)
    with pytest.raises(ValueError, match=r"parameter layers\.0\.extra \[16, 16\]: its role is 'banana', not one of"):
        Optimizer(model, LoopConfig(), torch.float32)


@pytest.mark.parametrize(
    ("role", "shape", "problem"),
    [
        (None, (4, 4), "its role is None"),
        ("scalar", (4, 4), "for vectors"),
        ("matrix", (4,), "for matrices"),
        ("heads", (12, 4), "a multiple of 8 rows"),
    ],
)
def test_roles_that_do_not_fit_are_refused(role, shape, problem):
    with pytest.raises(ValueError, match=problem):
        check_role("layers.0.new", role, shape, head_dim=8)


def test_work_is_dealt_evenly():
    with torch.device("meta"):
        model = Transformer(ModelConfig(preset="jerry-0.18b").resolve(65_536), seed=None)
    costs = [share.parameter.numel() for share in make_shares(model, World()) if share.role in MUON_ROLES]
    owners = deal(costs, 8)
    loads = [sum(cost for cost, owner in zip(costs, owners, strict=True) if owner == rank) for rank in range(8)]
    assert max(loads) == min(loads) == sum(costs) / 8
    assert deal([5, 1, 1, 1, 1, 1], 2) == [0, 1, 1, 1, 1, 1]
    shares = [make_shares(model, World(rank, 8)) for rank in range(8)]
    for parts in zip(*shares, strict=True):
        rows = sum(len(part.weight) for part in parts)
        assert rows == len(parts[0].parameter) * (8 if parts[0].replicated else 1)


def test_norms_by_group():
    model = tiny_model(tie_embeddings=False)
    optimizer = Optimizer(model, LoopConfig(muon_step=1), torch.float32)
    roles = model.parameter_roles()
    for step in range(2):
        set_gradients(model, step)
        gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
        before, found = values(model), optimizer.grad_norms()
        assert found == pytest.approx(by_group(gradients, roles), rel=1e-5)
        optimizer.scale_gradients(0.5)
        assert torch.equal(model.embedding.grad, gradients["embedding"] / 2)
        updates = optimizer.step(step, 1e-2, measure=True)
        changes = {n: after - before[n] for n, after in values(model).items()}
        assert updates == pytest.approx(by_group(changes, roles), rel=1e-4)
        assert optimizer.step(step, 1e-2) == {}
        assert all(p.grad is None for p in model.parameters())


def by_group(tensors, roles):
    squares = dict.fromkeys(GROUPS, 0.0)
    for name, tensor in tensors.items():
        squares[group_of(name, roles[name])] += float(tensor.square().sum())
    return {group: square**0.5 for group, square in squares.items()}


def test_momentum_begins_as_the_mean_that_adamw_had():
    model = tiny_model()
    optimizer = Optimizer(model, LoopConfig(muon_step=3, muon_momentum=0.95), torch.float32)
    run(model, optimizer, 3)
    name = optimizer.muon_names(3)[0]
    average = optimizer.state()[f"adam.{name}/exp_avg"].clone()
    set_gradients(model, 3)
    gradient = model.get_parameter(name).grad.clone()
    optimizer.step(3, 1e-2)
    torch.testing.assert_close(optimizer.state()[f"muon.{name}"], average.lerp(gradient, 0.05))


def test_state_of_another_model_is_refused():
    optimizer = Optimizer(tiny_model(), LoopConfig(muon_step=0), torch.float32)
    with pytest.raises(ValueError, match=r"another model: adam\.head/exp_avg has no place here"):
        optimizer.load_state({"adam.head/exp_avg": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"adam\.embedding/exp_avg is \[3\], here \[48, 16\]"):
        optimizer.load_state({"adam.embedding/exp_avg": torch.zeros(3)})


def test_loading_leaves_nothing_of_before():
    """A rewind to before Muon took over."""
    model = tiny_model()
    optimizer = Optimizer(model, LoopConfig(muon_step=2), torch.float32)
    run(model, optimizer, 2)
    early = {name: tensor.clone() for name, tensor in optimizer.state().items()}
    run(model, optimizer, 2, first=2)
    optimizer.load_state(early)
    found = optimizer.state()
    assert found.keys() == early.keys()
    assert all(torch.equal(tensor, early[name]) for name, tensor in found.items())


def test_muon_takes_over_at_its_step():
    model = tiny_model()
    optimizer = Optimizer(model, LoopConfig(muon_step=2), torch.float32)
    run(model, optimizer, 2)
    assert not any(key.startswith("muon.") for key in optimizer.state())
    run(model, optimizer, 1, first=2)
    state = optimizer.state()
    for name in optimizer.muon_names(2):
        assert f"muon.{name}" in state
        assert f"adam.{name}/exp_avg" not in state


@pytest.mark.parametrize("muon_step", [None, 0, 2, 3])
def test_state_goes_on_to_the_same_bits(muon_step):
    config = LoopConfig(muon_step=muon_step)
    whole, half = tiny_model(), tiny_model()
    run(whole, Optimizer(whole, config, torch.float32), 5)
    optimizer = Optimizer(half, config, torch.float32)
    run(half, optimizer, 3)
    state = {name: tensor.clone() for name, tensor in optimizer.state().items()}
    again = Optimizer(half, config, torch.float32)
    again.load_state(state)
    run(half, again, 2, first=3)
    assert all(torch.equal(value, values(half)[name]) for name, value in values(whole).items())
