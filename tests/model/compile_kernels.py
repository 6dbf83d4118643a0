"""Compiles each kernel in bf16 for an H100, which needs none; prints {kernel: [registers, stack, shared bytes]}."""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from congling.model.flex_kernels import decay_gradient
from congling.model.talking_heads_kernels import mix_backward, mix_forward

JERRY = {"H": 12, "PRECISION": "tf32"}
MIX = {**JERRY, "HP": 16, "BK": 128}
SHARED_DECAY = {"DECAY": True, "PER_HEAD": False, "DOCUMENTS": True}
NOTHING = {"DECAY": False, "PER_HEAD": False, "DOCUMENTS": False, "rate": None, "offset": None, "documents": None}
BFLOAT = {"scores", "grad_weights", "q", "k", "v", "grad"}
INTEGERS = {"first", "keys", "total_keys", "queries"}


def kind(name):
    if name in INTEGERS or name == "scale":
        return "i32" if name in INTEGERS else "fp32"
    return {"documents": "*i32"}.get(name, "*bf16" if name in BFLOAT else "*fp32")


def usage(kernel, constants):
    signature = {name: "constexpr" if name in constants else kind(name) for name in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs={})
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4, "num_stages": 2})
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(made.asm["cubin"])
        text = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", text).groups()
    return [int(registers), int(stack), made.metadata.shared]


def main():
    decay = {**JERRY, "K": 128, "KP": 128, "BQ": 64, "BK": 64, "PER_HEAD": True, "DOCUMENTS": True}
    result = {
        "mix_forward": usage(mix_forward, {**MIX, **SHARED_DECAY}),
        "mix_backward": usage(mix_backward, {**MIX, **SHARED_DECAY}),
        "mix_backward without decay": usage(mix_backward, {**MIX, **NOTHING}),
        "decay_gradient": usage(decay_gradient, decay),
    }
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
