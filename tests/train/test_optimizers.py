import pytest
import torch

from congling.train.config import LoopConfig
from congling.train.optimizers import Optimizer, orthogonalise
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


@pytest.mark.parametrize("shape", [(3, 8, 24), (1, 24, 8), (2, 16, 16)])
def test_orthogonalise(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    singular = torch.linalg.svdvals(orthogonalise(x, torch.float32))
    assert singular.min() > 0.6
    assert singular.max() < 1.3
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    nearest = u @ v
    cosine = (orthogonalise(x, torch.float32) * nearest).sum() / (singular.norm() * nearest.norm())
    assert cosine > 0.97


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
