"""What a training holds in memory: a count of the tensors that the model and the loop keep, no model needed.

Letters: D width, I = heads·head width, F inner width of the feed-forward, V vocabulary, T sequence length.
tests/train/test_memory.py compares it with the measured peak of small trainings.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from congling.model.config import Architecture
from congling.train.config import LoopConfig
from congling.train.devices import Device

_CHUNK = {"cpu": 1024, "cuda": 8192}  # rows of logits at a time, as model/loss.py
# Process, libraries and what the allocator loses; the second: CUDA context, cuBLAS workspaces, kernels.
_LIBRARIES = {"cpu": 450 << 20, "cuda": 1 << 30}
USABLE = 0.95  # of a device: the rest is lost to fragments, or is the desktop's


@dataclass(frozen=True)
class Memory:
    """Bytes on the device at the fullest moment of a step, by part; and on the host besides, for a checkpoint."""

    moment: str  # "loss" | "backward" | "update"
    parts: dict[str, int]
    host: int  # the copy of weights and optimizer state that is being written; part of ``parts`` on a CPU

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def memory(
    architecture: Architecture, count: Mapping[str, int], config: LoopConfig, kind: str, precision: str
) -> Memory:
    """The fullest moment of a training step; ``count``: parameters by group; ``kind``: that of the device."""
    cpu, size = kind == "cpu", 2 if precision == "bf16" else 4
    micro, total = config.micro_batch_tokens, sum(count.values())
    matrices = count["attention"] + count["feed_forward"]
    state = optimizer_bytes(count, config)
    activations = micro * activation_bytes(architecture, config.lengths[-1], size, cpu)
    copies = matrices * size if size == 2 or architecture.affine else 0  # affine: scaled, whatever the type
    gradients, accumulating = 4 * total, max((config.batch_tokens, *config.batch_schedule)) > micro
    always = {"weights": 4 * total, "optimizer state": state, "libraries": _LIBRARIES["cpu" if cpu else "cuda"]}
    if cpu:
        always["checkpoint being written"] = 4 * total + state
    forward = {**always, "copies of matrices": copies, "activations": activations}
    moments = {
        "loss": {
            **forward,
            "gradients": gradients if accumulating else 0,
            "loss": _loss_bytes(architecture, micro, size, cpu),
        },
        "backward": {
            **forward,
            "gradients": gradients,
            "gradients of activations": micro * _backward_bytes(architecture, config.lengths[-1], size, cpu),
        },
        "update": {**always, "gradients": gradients, "update": 4 * total + _muon_bytes(architecture, config, size)},
    }
    moment = max(moments, key=lambda m: sum(moments[m].values()))
    return Memory(moment, {k: v for k, v in moments[moment].items() if v}, 4 * total + state)


def optimizer_bytes(count: Mapping[str, int], config: LoopConfig) -> int:
    """State at its largest: two averages of AdamW, float32, or one of Muon for the matrices inside the layers."""
    total, matrices = sum(count.values()), count["attention"] + count["feed_forward"]
    return 8 * (total - matrices) + (4 if config.muon_step == 0 else 8) * matrices


def activation_bytes(architecture: Architecture, seq_len: int, size: int, cpu: bool) -> int:
    """Bytes a token that the forward pass keeps for the backward pass. ``size``: bytes of a number (2: bf16)."""
    a = architecture
    d = a.dim
    outside = 8 + (4 * d if a.norm == "pre" else 0) + (8 * d if a.affine else 0) + size * d  # ids; norm; scalars; loss
    layer = _attention_bytes(a, seq_len, size, cpu) + _feed_forward_bytes(a, size)
    layer += (8 if a.norm == "pre" else 4) * d  # inputs of the norms, float32
    if a.dropout:
        layer += 2 * d * (size if cpu else 1)
    return outside + a.num_layers * layer


def _attention_bytes(a: Architecture, seq_len: int, size: int, cpu: bool) -> int:
    d, inner = a.dim, a.num_heads * a.head_dim
    found = size * (d + 4 * inner)  # its input; q, k, v; the result before the output matrix
    if a.qk_norm:
        found += 2 * inner * size
    if a.value_residual and a.num_layers > 1:
        found += size * inner  # its own values, beside the mixed ones
    if _plain(a, cpu):  # scores [H, T] a token: before and after the softmax, and after each mix
        found += size * a.num_heads * seq_len * (2 + 2 * a.talking_heads)
    else:  # a fused kernel keeps a number a query
        found += 4 * a.num_heads * (1 + a.talking_heads)
    return found


def _plain(a: Architecture, cpu: bool) -> bool:
    """Whether attention holds all scores: on a CPU, and where no kernel knows the position method."""
    return cpu or (a.talking_heads and a.position == "alibi")


def _feed_forward_bytes(a: Architecture, size: int) -> int:
    inner = {"swiglu": 4, "relu2": 2, "relu_relu": 1}[a.feed_forward]
    return size * (a.dim + inner * a.ffn_dim + (a.dim if a.feed_forward == "relu_relu" else 0))


def _loss_bytes(a: Architecture, micro: int, size: int, cpu: bool) -> int:
    """A chunk of logits and their probabilities, the head in bf16 and its gradient."""
    rows, table = min(micro, _CHUNK["cpu" if cpu else "cuda"]), a.vocab_size * a.dim
    return rows * a.vocab_size * size * (3 if a.logit_softcap else 2) + table * (4 + 2 * size)


def _backward_bytes(a: Architecture, seq_len: int, size: int, cpu: bool) -> int:
    """Of one layer at a time: the widest of its parts."""
    inner = a.num_heads * a.head_dim
    scores = a.num_heads * seq_len * (3 if not a.talking_heads else 4) if _plain(a, cpu) else 0
    return 4 * a.dim + size * max(scores + 3 * inner, 2 * a.ffn_dim)


def _muon_bytes(a: Architecture, config: LoopConfig, size: int) -> int:
    """The iterates of the matrices of one shape, of the shape that has most."""
    if config.muon_step is None:
        return 0
    group = (
        a.num_layers * a.dim * max(3 * a.num_heads * a.head_dim, (3 if a.feed_forward == "swiglu" else 2) * a.ffn_dim)
    )
    return group * (8 + 2 * size)


def largest_micro_batch(
    architecture: Architecture, count: Mapping[str, int], config: LoopConfig, device: Device, precision: str
) -> int | None:
    """The largest micro_batch_tokens that fits ``device`` and divides every batch; None: no one does."""
    longest, batch = config.lengths[-1], math.gcd(*(config.batch_schedule or (config.batch_tokens,)))
    for parts in range(1, batch // longest + 1):
        micro, rest = divmod(batch, parts)
        if rest or micro % longest:
            continue
        smaller = config.model_copy(update={"micro_batch_tokens": micro})
        if memory(architecture, count, smaller, device.kind, precision).total <= USABLE * device.memory:
            return micro
    return None
