"""What a training costs, before it starts: parameters, FLOPs, time, energy, disk; and model FLOPs utilisation.

Arithmetic on the dials alone: no model is built, nothing is read. Memory is in ``train/memory.py``.
"""

import math
from dataclasses import dataclass

from congling.model.config import Architecture
from congling.train.config import LoopConfig
from congling.train.devices import MFU, Device
from congling.train.memory import Memory, largest_micro_batch, memory, optimizer_bytes
from congling.train.schedule import phase_of, phases

_NEWTON_SCHULZ_STEPS = 5  # of train/newton_schulz.py


def parameters(architecture: Architecture) -> dict[str, int]:
    """Parameters by group: "embedding" (learned positions included), "head" (0: tied), "attention", "feed_forward"
    (their matrices), "scalar" (norms, affine scalars, positions, mixes, biases)."""
    a = architecture
    inner, table = a.num_heads * a.head_dim, a.vocab_size * a.dim
    learned = a.max_len * a.dim if a.position == "learned" else 0
    return {
        "embedding": table + learned,
        "head": 0 if a.tie_embeddings else table,
        "attention": a.num_layers * 4 * a.dim * inner,
        "feed_forward": a.num_layers * _ffn_matrices(a) * a.dim * a.ffn_dim,
        "scalar": _scalars(a),
    }


def _ffn_matrices(a: Architecture) -> int:
    return 3 if a.feed_forward == "swiglu" else 2


def _scalars(a: Architecture) -> int:
    norms = (2 * a.num_layers + 1) * a.dim if a.norm == "pre" else a.num_layers * a.dim
    affine = 2 * (2 + a.num_layers * (4 + _ffn_matrices(a))) if a.affine else 0
    talking = 2 * a.num_layers * a.num_heads**2 if a.talking_heads else 0
    mixes = 2 * (a.num_layers - 1) if a.value_residual else 0
    biases = 2 * a.num_layers * a.num_heads * a.head_dim if a.qk_bias else 0
    decay = {"distance_decay": 2, "distance_decay_heads": 2 * a.num_heads}.get(a.position, 0)
    return norms + affine + talking + mixes + biases + a.num_layers * decay


def flops_per_token(architecture: Architecture, seq_len: int, keys: float | None = None) -> float:
    """FLOPs of a token, forward and backward, at ``seq_len`` tokens a row.

    6·N + L·keys·(12·H·K + 12·H²), the last summand with talking heads only.
    N: weights of the matrices, the head included (tied or not); the lookup in the embedding is free, elementwise
    work (norms, softmax, scalars, positions) is not counted. 6: a product and a sum, forward, and twice that backward.
    12·H·K: q·k and p·v for each key that a query sees; 12·H²: two mixes of the heads of a score.
    keys: mean number of keys a query sees. Left out: (seq_len + 1)/2, what the causal mask leaves. PaLM (Chowdhery et
    al. 2022, appendix B) counts all seq_len; we count what has to be done, so that a kernel which also computes the
    masked half gets no credit for it. Give seq_len for PaLM's figure; with documents kept apart, fewer.
    """
    a = architecture
    keys = (seq_len + 1) / 2 if keys is None else keys
    count = parameters(a)
    weights = count["attention"] + count["feed_forward"] + a.vocab_size * a.dim
    mixing = 12 * a.num_heads**2 if a.talking_heads else 0
    return 6 * weights + a.num_layers * keys * (12 * a.num_heads * a.head_dim + mixing)


def mfu(tokens_per_second: float, flops_per_token: float, peak: float) -> float:
    """Model FLOPs utilisation: the FLOP/s that the model's arithmetic needs, over the peak of the device."""
    return tokens_per_second * flops_per_token / peak


def document_keys(seq_len: int, document_tokens: float) -> float:
    """Mean number of keys a query sees when documents of mean length ``document_tokens`` share rows of ``seq_len`` and
    are kept apart; every token ends its document with the same chance.

    1/T·Σ (T − d)·(1 − 1/m)^d over distances d = 0 … T − 1: that many pairs, and the chance that none ends between.
    """
    stay = 1 - 1 / max(document_tokens, 1)
    return sum((seq_len - distance) * stay**distance for distance in range(seq_len)) / seq_len


def muon_flops(architecture: Architecture) -> float:
    """FLOPs of the Newton–Schulz iterations of one update: for a matrix of r ≤ c, 5·(4·r²·c + 2·r³)."""
    a = architecture
    inner = a.num_heads * a.head_dim
    shapes = [(3 * a.num_heads, a.head_dim, a.dim), (1, a.dim, inner), (_ffn_matrices(a), a.ffn_dim, a.dim)]
    total = 0.0
    for number, rows, columns in shapes:
        small, large = sorted((rows, columns))
        total += number * (4 * small**2 * large + 2 * small**3)
    return _NEWTON_SCHULZ_STEPS * total * a.num_layers


@dataclass(frozen=True)
class Estimate:
    """What a training will take. Ranges are (low, high)."""

    device: Device
    precision: str  # "bf16" | "fp32"
    parameters: dict[str, int]
    tokens: int
    steps: int
    flops_per_token: dict[int, float]  # by sequence length
    mean_flops: float  # a token, over the length schedule
    flops: float  # of the model, in all
    extra_flops: float  # of Muon's updates and of validation, in all
    memory: Memory
    fits: int | None  # the largest micro_batch_tokens that fits; None: not even the smallest
    mfu: tuple[float, float]  # assumed
    seconds: tuple[float, float]
    tokens_per_second: tuple[float, float]
    checkpoint_bytes: int
    checkpoints: int  # kept at the end
    disk: int  # bytes at most, the one being written included

    @property
    def kilowatt_hours(self) -> tuple[float, float] | None:
        """At the full board power of the device; None when that is not known."""
        if self.device.watts is None:
            return None
        low, high = (seconds / 3600 * self.device.watts / 1000 for seconds in self.seconds)
        return low, high


def estimate(
    architecture: Architecture, config: LoopConfig, device: Device, document_tokens: float | None = None
) -> Estimate:
    """The cost of training ``architecture`` as ``config`` says on ``device``.

    document_tokens: mean length of the documents, when they are kept apart.
    """
    precision = "bf16" if config.precision != "fp32" and device.bf16 else "fp32"
    dealt = phase_steps(config)
    steps, tokens = sum(n for n, _ in dealt), sum(n * batch for n, batch in dealt)
    per_token = {length: _flops(architecture, length, document_tokens) for length in config.lengths}
    flops = sum(n * batch * per_token[length] for (n, batch), length in zip(dealt, config.lengths, strict=True))
    validation = (steps // config.valid_every + 1) * config.valid_tokens * per_token[config.lengths[-1]] / 3
    muon = 0 if config.muon_step is None else max(steps - config.muon_step, 0) * muon_flops(architecture)
    extra = muon + validation
    peak = device.peak(precision)
    low, high = _mfu_range(architecture, device)
    seconds = (flops + extra) / (peak * high), (flops + extra) / (peak * low)
    count = parameters(architecture)
    saved = 4 * sum(count.values()) + optimizer_bytes(count, config)
    # The last of the last length is one of the newest; the guard may want one to go back to.
    kept = config.keep_checkpoints + len(config.lengths) - 1 + (config.guard == "rewind")
    return Estimate(
        device=device,
        precision=precision,
        parameters=count,
        tokens=tokens,
        steps=steps,
        flops_per_token=per_token,
        mean_flops=flops / tokens,
        flops=flops,
        extra_flops=extra,
        memory=memory(architecture, count, config, device.kind, precision),
        fits=largest_micro_batch(architecture, count, config, device, precision),
        mfu=(low, high),
        seconds=seconds,
        tokens_per_second=(tokens / seconds[1], tokens / seconds[0]),
        checkpoint_bytes=saved,
        checkpoints=kept,
        disk=(kept + 1) * saved + 4 * sum(count.values()),
    )


def _flops(architecture: Architecture, seq_len: int, document_tokens: float | None) -> float:
    keys = None if document_tokens is None else document_keys(seq_len, document_tokens)
    return flops_per_token(architecture, seq_len, keys)


def phase_steps(config: LoopConfig) -> list[tuple[int, int]]:
    """(steps, tokens a step) of each length, as ``Schedule`` deals them out without live changes."""
    planned = phases(config)
    found: list[tuple[int, int]] = []
    done = 0
    for end, batch in planned:
        steps = max(math.ceil((end - batch / 2 - done) / batch), 0)  # a step is of the phase that its middle lies in
        room = (config.tokens - done) // batch
        found.append((room if len(found) == len(planned) - 1 else min(steps, room), batch))
        done += found[-1][0] * batch
    if not done:  # one step is done in any case
        first = phase_of(planned, 0)
        found[first] = (1, planned[first].batch_tokens)
    return found


def _mfu_range(architecture: Architecture, device: Device) -> tuple[float, float]:
    """Talking heads on a GPU have no kernel of the vendor's: half as much, at worst (the aim is 250 k tokens/s where
    ``base`` has 400 k)."""
    low, high = MFU[device.kind]
    return (low / 2, high) if architecture.talking_heads and device.kind != "cpu" else (low, high)
