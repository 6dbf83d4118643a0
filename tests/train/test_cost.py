"""The arithmetic of costs against the model itself: parameters to the last one, FLOPs as torch counts them."""

import random

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from congling.model.config import PRESETS, Architecture, ModelConfig
from congling.model.transformer import Transformer
from congling.train import memory as memory_module
from congling.train.config import LoopConfig
from congling.train.cost import document_keys, estimate, flops_per_token, mfu, muon_flops, parameters, phase_steps
from congling.train.devices import DEVICES, MFU
from congling.train.optimizers import Optimizer
from congling.train.schedule import Schedule

H100 = DEVICES["h100"]


def some_architecture(rng: random.Random, **fixed) -> Architecture:
    position = rng.choice(["distance_decay", "distance_decay_heads", "alibi", "rope", "none", "sinusoidal", "learned"])
    affine = rng.random() < 0.4
    dials = {
        "preset": rng.choice(list(PRESETS)),
        "dim": rng.choice([32, 48, 64]),
        "num_layers": rng.randint(1, 4),
        "num_heads": rng.choice([1, 2, 3]),
        "head_dim": rng.choice([16, 24, 32]),
        "ffn_dim": rng.choice([40, 64, 192]),
        "position": position,
        "max_len": 64 if position == "learned" else 0,
        "norm": rng.choice(["pre", "post"]),
        "qk_norm": rng.random() < 0.5,
        "qk_bias": rng.random() < 0.5,
        "affine": affine,
        "talking_heads": rng.random() < 0.5,
        "value_residual": rng.random() < 0.5,
        "feed_forward": rng.choice(["relu_relu", "relu2", "swiglu"]),
        "tie_embeddings": rng.random() < 0.5,
        "dropout": rng.choice([0.0, 0.1]),
        "logit_softcap": 0.0 if affine else rng.choice([0.0, 15.0]),
    }
    return ModelConfig(**{**dials, **fixed}).resolve(rng.choice([97, 320]))


def group(name: str, role: str) -> str:
    if role not in ("heads", "matrix"):
        return role
    return "attention" if ".attention." in name else "feed_forward"


def counted(architecture: Architecture) -> dict[str, int]:
    with torch.device("meta"):
        model = Transformer(architecture, seed=None)
    roles = model.parameter_roles()
    found = dict.fromkeys(("embedding", "head", "attention", "feed_forward", "scalar"), 0)
    for name, parameter in model.named_parameters():
        found[group(name, roles[name])] += parameter.numel()
    return found


@pytest.mark.parametrize("preset", PRESETS)
def test_parameters_of_the_presets(preset):
    architecture = ModelConfig(preset=preset).resolve(65_536)
    assert parameters(architecture) == counted(architecture)


def test_parameters_of_any_dials():
    rng = random.Random(1)
    for _ in range(150):
        architecture = some_architecture(rng)
        assert parameters(architecture) == counted(architecture), architecture


def test_flops_are_those_that_torch_counts():
    """Plain attention computes the masked half too: keys = seq_len."""
    rng = random.Random(2)
    for _ in range(10):
        architecture, seq_len = some_architecture(rng), rng.choice([8, 16])
        model = Transformer(architecture, seed=0)
        ids = torch.randint(architecture.vocab_size, (3, seq_len))
        with FlopCounterMode(display=False) as counter:
            model.loss(ids, ids).objective.backward()
        expected = 3 * seq_len * flops_per_token(architecture, seq_len, keys=seq_len)
        assert counter.get_total_flops() == pytest.approx(expected, rel=1e-9), architecture


def test_flops_of_base_by_hand():
    """The 926 MFLOP a token from which the ceiling of an H100 (864 k tokens/s at 800 TFLOP/s) was reckoned."""
    base = ModelConfig(preset="base-0.18b").resolve(65_536)
    weights = 12 * 4 * 768 * 1536 + 12 * 2 * 768 * 1536 + 65_536 * 768
    assert flops_per_token(base, 1024) == pytest.approx(6 * weights + 12 * 12 * 1536 * 1025 / 2)
    assert 800e12 / flops_per_token(base, 1024) == pytest.approx(864_000, rel=2e-3)
    jerry = base.model_copy(update={"talking_heads": True})
    assert flops_per_token(jerry, 1024) - flops_per_token(base, 1024) == 12 * 12 * 12**2 * 1025 / 2


def test_mfu_is_a_share_of_the_peak():
    assert mfu(400_000, 925e6, 989.4e12) == pytest.approx(0.374, abs=5e-4)


def test_keys_within_documents():
    assert document_keys(64, 1e9) == pytest.approx(65 / 2, rel=1e-6)
    assert document_keys(1, 5.0) == pytest.approx(1)
    rng = random.Random(3)
    total = 0
    for _ in range(4000):  # a document ends after a token with the chance that makes the mean length 10
        start = 0
        for place in range(32):
            total += place - start + 1
            if rng.random() < 1 / 10:
                start = place + 1
    assert document_keys(32, 10.0) == pytest.approx(total / 4000 / 32, rel=0.03)


def test_muon_is_counted_by_matrix():
    small = ModelConfig(dim=8, num_layers=3, num_heads=2, head_dim=4, ffn_dim=16).resolve(64)
    # a layer: q, k, v of 2 heads [4, 8] each; out [8, 8]; two of [16, 8]
    heads, out, ffn = (n * (4 * r * r * c + 2 * r**3) for n, r, c in ((6, 4, 8), (1, 8, 8), (2, 8, 16)))
    assert muon_flops(small) == 3 * 5 * (heads + out + ffn)


def test_muon_is_what_torch_counts():
    architecture = ModelConfig(dim=24, num_layers=2, num_heads=2, head_dim=8, ffn_dim=40).resolve(64)
    model = Transformer(architecture, seed=0)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer = Optimizer(model, config(muon_step=0), torch.float32)
    with FlopCounterMode(display=False) as counter:
        optimizer.step(0, 1e-3)
    assert counter.get_total_flops() == muon_flops(architecture)


def config(**changes) -> LoopConfig:
    base = {"tokens": 1_000_000, "lengths": (64, 128), "batch_tokens": 8192, "micro_batch_tokens": 4096}
    return LoopConfig(**{**base, **changes})


def walked(settings: LoopConfig) -> list[tuple[int, int]]:
    """The same by asking the schedule for every step."""
    schedule = Schedule(settings)
    batches = settings.batch_schedule or (settings.batch_tokens,) * len(settings.lengths)
    steps, step, tokens = [0] * len(settings.lengths), 0, 0
    while not schedule.finished(step, tokens):
        now = schedule.at(step, tokens)
        steps[now.phase] += 1
        step, tokens = step + 1, tokens + now.batch_tokens
    return list(zip(steps, batches, strict=True))


def test_steps_are_those_of_the_schedule():
    rng = random.Random(6)
    for _ in range(60):
        batches = tuple(rng.choice([64, 128, 256]) for _ in range(3)) if rng.random() < 0.5 else ()
        settings = config(
            tokens=rng.randint(1, rng.choice([300, 9000])),
            lengths=(8, 16, 32),
            length_shares=rng.choice([(), (0.6, 0.3, 0.1), (1.0, 0.0, 2.0)]),
            batch_tokens=128,
            batch_schedule=batches,
            micro_batch_tokens=64,
        )
        assert phase_steps(settings) == walked(settings), settings


def test_an_estimate_follows_the_schedule_and_the_device():
    architecture = ModelConfig().resolve(8192)
    found = estimate(architecture, config(length_shares=(0.75, 0.25), valid_every=10**6, valid_tokens=1), H100)
    short, long = (flops_per_token(architecture, length) for length in (64, 128))
    assert (found.steps, found.tokens) == (122, 122 * 8192)
    assert found.mean_flops == pytest.approx(0.75 * short + 0.25 * long, rel=1e-3)
    low, high = MFU["datacenter"]
    assert found.seconds == pytest.approx((found.flops / H100.bf16 / high, found.flops / H100.bf16 / low), rel=1e-4)
    assert found.kilowatt_hours == pytest.approx(tuple(s / 3600 * 0.7 for s in found.seconds))
    exact = estimate(architecture, config(precision="fp32"), H100)
    assert exact.precision == "fp32"
    assert exact.seconds[0] > 10 * found.seconds[0]
    assert estimate(architecture, config(), DEVICES["t4"]).precision == "fp32"


def test_muon_and_validation_add_to_the_time():
    architecture = ModelConfig().resolve(8192)
    plain = estimate(architecture, config(valid_every=10**6, valid_tokens=1), H100)
    muon = estimate(architecture, config(valid_every=10**6, valid_tokens=1, muon_step=22), H100)
    assert muon.extra_flops - plain.extra_flops == pytest.approx(100 * muon_flops(architecture))
    often = estimate(architecture, config(valid_every=10, valid_tokens=4096), H100)
    assert often.extra_flops == pytest.approx(13 * 4096 * flops_per_token(architecture, 128) / 3)
    assert often.seconds[0] > plain.seconds[0]


def test_the_micro_batch_offered_fits_and_the_next_does_not():
    architecture = ModelConfig(preset="base-0.18b").resolve(65_536)
    wide = config(lengths=(1024,), batch_tokens=131_072, micro_batch_tokens=131_072)
    small = DEVICES["rtx-4060"]
    found = estimate(architecture, wide, small)
    assert found.fits is not None
    room = memory_module.USABLE * small.memory

    def needs(micro: int) -> int:
        return estimate(architecture, wide.model_copy(update={"micro_batch_tokens": micro}), small).memory.total

    assert found.memory.total > room
    assert needs(found.fits) <= room < needs(2 * found.fits)
    assert wide.batch_tokens % found.fits == 0
    huge = architecture.model_copy(update={"num_layers": 400})
    assert estimate(huge, wide, small).fits is None
