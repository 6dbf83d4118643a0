"""The Triton kernels on a CPU: their logic in the interpreter, their code by the compiler for an H100."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from congling.model.positions import Alibi, DistanceDecay, NoPosition, Rope
from congling.model.talking_heads import can_talk, talking_attend
from model.compare import DECAY, TALKING

# Of the largest value. bf16: 8 bits, and the scores of a band are rounded to them; a sum of many differences
# (rate, offset, maps) keeps fewer.
TOLERANCE = {"float32": 3e-5, "float16": 1e-2, "bfloat16": 5e-2}


def python(code, **environment):
    pytest.importorskip("triton", reason="triton is not installed")
    tests = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, *code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": tests, "OMP_NUM_THREADS": "1", **environment},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def interpreted():
    return python([str(Path(__file__).parent / "compare.py")], TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="")


@pytest.mark.parametrize("case", TALKING + DECAY, ids=str)
def test_output_and_every_gradient_equal_the_float64_reference(interpreted, case):
    errors = interpreted[str(case)]
    wanted = {"out", "q", "k", "v"} | ({"before", "after"} if case.talking else set())
    rate = "log_rate" if case.position == "heads" else "rate"
    assert set(errors) == wanted | ({rate, "offset"} if case.position != "none" else set())
    assert {name: e for name, e in errors.items() if not e < TOLERANCE[case.dtype]} == {}


def test_kernels_compile_for_an_h100_without_spilling_registers():
    code = Path(__file__).parent / "compile_kernels.py"
    used = python([str(code)], TRITON_INTERPRET="0", TRITON_DEFAULT_FP_FUSION="1")
    assert len(used) == 4
    for kernel, (registers, stack, shared) in used.items():
        assert stack == 0, kernel
        assert registers <= 224, kernel  # two programs of four warps on a multiprocessor
        assert shared <= 48 << 10, kernel


def test_knows_which_positions_it_can_do():
    assert can_talk(DistanceDecay())
    assert can_talk(NoPosition())
    assert can_talk(Rope())
    assert not can_talk(Alibi(2))
    q, maps = torch.zeros(1, 2, 3, 4), torch.eye(2)
    with pytest.raises(ValueError, match="no kernel for Alibi"):
        talking_attend(q, q, q, Alibi(2), None, maps, maps)
