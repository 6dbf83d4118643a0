"""Every path of attention on a GPU beside the float64 reference; skips itself where there is none."""

import dataclasses

import pytest
import torch

from congling.model.config import ModelConfig
from congling.model.flex import flex_attend
from congling.model.talking_heads import talking_attend
from congling.model.transformer import Transformer
from model.compare import Case, errors, evaluate

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore"),  # compilers warn about their own affairs
]
# Of the largest value: float32 with TF32 products thrice; bf16 with 8 bits of mantissa. Sums of many differences (rate,
# offset, maps) keep fewer bits.
TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}
LOOSE = {"rate", "offset", "before", "after"}
BIG = Case(12, 300, width=128, documents=True)
TALKING = (BIG, Case(12, 1000, batch=3, width=128), Case(3, 65, width=32, position="heads"), Case(1, 40, width=16))
FLEX = tuple(
    dataclasses.replace(case, talking=False, position=position)
    for case in (BIG, Case(4, 512, width=64), Case(4, 200, queries=72, width=64, documents=True))
    for position in ("shared", "heads", "alibi", "none")
)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", TALKING + FLEX, ids=str)
def test_output_and_every_gradient(case, dtype):
    case = dataclasses.replace(case, dtype=dtype)
    found = errors(talking_attend if case.talking else flex_attend, case, "cuda")
    limit = TOLERANCE[dtype]
    assert {name: e for name, e in found.items() if not e < limit * (2 if name in LOOSE else 1)} == {}


@pytest.mark.parametrize("case", [BIG, dataclasses.replace(BIG, talking=False)], ids=str)
def test_two_runs_give_the_same_bits(case):
    function = talking_attend if case.talking else flex_attend
    first, second = (evaluate(function, case, torch.bfloat16, "cuda") for _ in range(2))
    assert {name for name in first if not torch.equal(first[name], second[name])} == set()


def test_talking_heads_need_no_memory_of_length_squared():
    peaks = []
    for length in (2048, 4096):
        case = Case(12, length, batch=1, width=128, dtype="bfloat16")
        torch.cuda.reset_peak_memory_stats()
        evaluate(talking_attend, case, torch.bfloat16, "cuda")
        peaks.append(torch.cuda.max_memory_allocated())
    assert peaks[1] < 2.2 * peaks[0]


@pytest.mark.parametrize("preset", ["base-0.18b", "jerry-0.18b"])
@pytest.mark.parametrize("documents", [False, True])
def test_the_whole_model_equals_itself_on_a_cpu(preset, documents):
    small = {"num_layers": 2, "dim": 64, "num_heads": 4, "head_dim": 32, "ffn_dim": 96, "dropout": 0.0}
    ids = torch.randint(500, (2, 200), generator=torch.Generator().manual_seed(0))
    numbers = (ids < 5).cumsum(1) if documents else None
    results = []
    for device in ("cpu", "cuda"):
        model = Transformer(ModelConfig(preset=preset, **small).resolve(500)).to(device)
        on_device = [None if t is None else t.to(device) for t in (ids, numbers)]
        loss = model.loss(on_device[0], on_device[0], on_device[1])
        loss.objective.backward()
        grads = {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}
        results.append((loss.nats.item(), grads))
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-4)
    for name, grad in results[0][1].items():
        error = (results[1][1][name] - grad).abs().max() / grad.abs().max().clamp(min=1e-6)
        assert error < 5e-3, name
