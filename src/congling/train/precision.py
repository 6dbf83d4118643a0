"""Which arithmetic a device is fast and safe in, and the allocator settings that training on a CPU wants."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

import torch

_BF16_FLAGS = {"avx512_bf16", "amx_bf16"}
# Large tensors come and go each step; by default each is mapped afresh and page-faults (measured 1.5×, docs/log.md).
_TUNABLES = "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=8589934592:glibc.malloc.hugetlb=1"


def choose_dtype(wanted: Literal["auto", "bf16", "fp32"], device: str) -> torch.dtype:
    """Type of activations. auto: bf16 on CUDA and on CPUs with AVX512-BF16 or AMX, else float32; never fp16."""
    if wanted == "auto":
        wanted = "bf16" if device.startswith("cuda") or cpu_has_bf16() else "fp32"
    return torch.bfloat16 if wanted == "bf16" else torch.float32


def cpu_has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor multiplies bf16 itself; without it bf16 is slower than float32."""
    try:
        text = cpuinfo.read_text()
    except OSError:
        return False
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return bool(_BF16_FLAGS & set(flags.split()))


def autocast(device: str, dtype: torch.dtype) -> AbstractContextManager[None]:
    """Runs matrix products in ``dtype``; weights stay float32 masters."""
    return torch.autocast(device.split(":")[0], dtype, enabled=dtype != torch.float32)


def malloc_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables under which a training process should start; {} when they are set already."""
    present = environment.get("GLIBC_TUNABLES", "")
    if "glibc.malloc" in present:
        return {}
    return {"GLIBC_TUNABLES": f"{present}:{_TUNABLES}".lstrip(":")}
