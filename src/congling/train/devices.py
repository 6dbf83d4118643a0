"""What devices can do at most: dense matrix products, memory, power; and which share of it a training gets.

Named devices come from a table of data-sheet figures (dense, not the doubled ones "with sparsity"; bf16 with float32
sums, as torch does it). This machine's processor, and a GPU that the table does not know, are measured.
"""

import os
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_TERA, _GIB = 1e12, 2**30
THIS = "this"


@dataclass(frozen=True)
class Device:
    """Peaks in FLOP/s (``bf16`` None: it has no such units), memory in bytes, board power in watts (None: unknown)."""

    name: str
    kind: str  # "datacenter" | "consumer" | "cpu" | "unknown": the row of MFU
    bf16: float | None
    tf32: float | None  # float32 inputs rounded to 10 bits; torch uses it only when asked to
    fp32: float
    memory: int
    watts: float | None
    cuda_name: str = ""  # what torch.cuda.get_device_name says, exactly: a laptop's 4090 is no 4090
    measured: bool = False

    def peak(self, precision: str, tf32: bool = False) -> float:
        """Peak FLOP/s in "bf16" or "fp32"; bf16 on a device without it runs as float32 does, at best."""
        if precision == "bf16" and self.bf16:
            return self.bf16
        return self.tf32 if tf32 and self.tf32 else self.fp32


# Model FLOPs utilisation that a training of 0.1 to 0.2 B reaches, low and high: an ASSUMPTION for GPUs, from published
# runs (shared/ANCHORS.md §2: nanoGPT 124 M on a 4090, nanochat d12, TinyLlama, llm.c on an H100), since none of ours
# has been measured there yet. cpu: measured by benchmarks/cost.py on 2026-11-25 (two cores of an EPYC).
MFU = {"datacenter": (0.30, 0.50), "consumer": (0.25, 0.50), "cpu": (0.35, 0.70), "unknown": (0.20, 0.50)}
MFU_MEASURED = frozenset({"cpu"})


def _gpu(
    name: str, kind: str, bf16: float | None, tf32: float | None, fp32: float, gib: float, watts: float, cuda: str
) -> Device:
    """TFLOP/s and GiB."""
    b, t = (None if x is None else x * _TERA for x in (bf16, tf32))
    return Device(name, kind, b, t, fp32 * _TERA, round(gib * _GIB), watts, cuda)


_TABLE = (
    # NVIDIA Ampere GA102 architecture white paper, appendix A (3090: BF16 71, TF32 35.6, 350 W); GeForce RTX 3060
    # product page (12 GB, 170 W; 3,584 cores at 1.78 GHz, the same products a core as the 3090).
    _gpu("rtx-3060", "consumer", 25.5, 12.7, 12.7, 12, 170, "NVIDIA GeForce RTX 3060"),
    _gpu("rtx-3090", "consumer", 71.0, 35.6, 35.6, 24, 350, "NVIDIA GeForce RTX 3090"),
    # NVIDIA Ada GPU architecture white paper, appendix A (4090: BF16 165.2, TF32 82.6, 450 W); GeForce RTX 4060
    # product page (8 GB, 115 W; 3,072 cores at 2.46 GHz).
    _gpu("rtx-4060", "consumer", 30.2, 15.1, 15.1, 8, 115, "NVIDIA GeForce RTX 4060"),
    _gpu("rtx-4090", "consumer", 165.2, 82.6, 82.6, 24, 450, "NVIDIA GeForce RTX 4090"),
    # NVIDIA RTX Blackwell GPU architecture white paper, appendix A (5090: BF16 209.5, TF32 104.8, 575 W).
    _gpu("rtx-5090", "consumer", 209.5, 104.8, 104.8, 32, 575, "NVIDIA GeForce RTX 5090"),
    # NVIDIA T4 data sheet: float16 65, no bf16.
    _gpu("t4", "datacenter", None, None, 8.1, 16, 70, "Tesla T4"),
    # NVIDIA L4 data sheet: BF16 242 and TF32 120 with sparsity.
    _gpu("l4", "datacenter", 121.0, 60.0, 30.3, 24, 72, "NVIDIA L4"),
    # NVIDIA A100 data sheet (SXM4): BF16 312, TF32 156, FP32 19.5, 400 W.
    _gpu("a100-40", "datacenter", 312.0, 156.0, 19.5, 40, 400, "NVIDIA A100-SXM4-40GB"),
    _gpu("a100-80", "datacenter", 312.0, 156.0, 19.5, 80, 400, "NVIDIA A100-SXM4-80GB"),
    # NVIDIA H100 and H200 data sheets (SXM5): BF16 1,979 and TF32 989 with sparsity, FP32 67, up to 700 W.
    _gpu("h100", "datacenter", 989.4, 494.7, 66.9, 80, 700, "NVIDIA H100 80GB HBM3"),
    _gpu("h200", "datacenter", 989.4, 494.7, 66.9, 141, 700, "NVIDIA H200"),
)
DEVICES = {device.name: device for device in _TABLE}
_BY_CUDA_NAME = {device.cuda_name: device for device in _TABLE}


def find_device(name: str) -> Device:
    """A device of the table, or "this": the GPU of this machine, else its processor, measured for a second.

    Raises ValueError for a name that is not known.
    """
    if name == THIS:
        import torch

        return this_device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in DEVICES:
        raise ValueError(f"device = {name!r}: not known; known: {THIS}, {', '.join(DEVICES)}")
    return DEVICES[name]


def this_device(kind: str) -> Device:
    """The "cpu" or "cuda" device of this machine; measured unless it is a GPU of the table."""
    import torch

    if kind.startswith("cuda"):
        name = torch.cuda.get_device_name(kind)
        known = _BY_CUDA_NAME.get(name)
        return known if known is not None else _measured_gpu(kind, name)
    return _measured_cpu(torch.get_num_threads())


def device_peak(device: "torch.device | str", dtype: "torch.dtype") -> float:
    """Peak FLOP/s of dense products in ``dtype`` on a device of this machine; the first call may measure (< 1 s)."""
    import torch

    tf32 = torch.get_float32_matmul_precision() != "highest"
    return this_device(str(device)).peak("bf16" if dtype == torch.bfloat16 else "fp32", tf32)


@cache
def _measured_cpu(threads: int) -> Device:
    from congling.train.precision import cpu_has_bf16

    bf16 = _measure("cpu", "bf16") if cpu_has_bf16() else None
    watts = _WATTS_A_CORE * threads
    name = f"this processor, {threads} thread{'s' * (threads > 1)}"
    return Device(name, "cpu", bf16, None, _measure("cpu", "fp32"), _main_memory(), watts, measured=True)


_WATTS_A_CORE = 10.0  # an assumption: 4 (servers) to 15 (desktops), memory included


@cache
def _measured_gpu(kind: str, name: str) -> Device:
    import torch

    bf16 = _measure(kind, "bf16") if torch.cuda.is_bf16_supported(including_emulation=False) else None
    memory = torch.cuda.get_device_properties(kind).total_memory
    return Device(name, "unknown", bf16, None, _measure(kind, "fp32"), memory, None, name, measured=True)


def _measure(kind: str, precision: str) -> float:
    """FLOP/s of the fastest of many square products, for some tenths of a second; draws no random numbers."""
    import torch

    gpu = kind.startswith("cuda")
    # Short products on a CPU: on a busy machine one of them still runs through between two turns of other programs.
    size, seconds = (8192, 0.5) if gpu else (64 * round(8 * torch.get_num_threads() ** 0.5), 0.3)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    with torch.no_grad(), torch.autocast(kind.split(":")[0], enabled=False):
        a = torch.full((size, size), 0.5, device=kind, dtype=dtype)
        out = torch.empty_like(a)
        best, until = float("inf"), time.perf_counter() + seconds
        for number in range(10_000):
            start = time.perf_counter()
            torch.mm(a, a, out=out)
            if gpu:
                torch.cuda.synchronize(kind)
            now = time.perf_counter()
            best = min(best, now - start) if number > 1 else best  # the first ones set the library up
            if now > until and number > 4:
                break
    return 2 * size**3 / best


def _main_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or less in a container."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdecimal() else total
