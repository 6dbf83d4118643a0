"""The sampler's arithmetic by torch: for logits on a GPU, which stay there, and where numba is missing.

The same rules as in ``sampler_kernels.py``, for all rows at once.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from congling.infer.penalties import Adjustment

if TYPE_CHECKING:
    from congling.infer.sampler import Choice, Sampler

_HEAD = 1024  # likeliest tokens that nearly always hold the nucleus: finding them is quicker than sorting 65,536


def adjusted(logits: Tensor, adjustments: Sequence[Adjustment], bans: bool = True) -> Tensor:
    """A new [R, V]: logits with what each row's adjustment adds, −∞ where it forbids."""
    out, parts = logits.clone(), [adjustment.sparse(bans) for adjustment in adjustments]
    rows = np.repeat(np.arange(len(parts)), [len(ids) for ids, _ in parts])
    ids, deltas = np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
    place = torch.from_numpy(rows).to(out.device), torch.from_numpy(ids).to(out.device)
    out.index_put_(place, torch.from_numpy(deltas).to(out.device), accumulate=True)
    masks = [(row, words) for row, adjustment in enumerate(adjustments) if len(words := adjustment.words())]
    if masks:
        packed = torch.from_numpy(np.stack([words for _, words in masks]).view(np.int32)).to(out.device)
        bits = (packed.unsqueeze(-1) >> torch.arange(32, device=out.device)) & 1  # [M, V / 32, 32]
        forbidden = bits.flatten(1)[:, : out.shape[1]] == 0
        rows_masked = torch.tensor([row for row, _ in masks], device=out.device)
        out[rows_masked] = out[rows_masked].masked_fill(forbidden, -torch.inf)
    return out


def choose_rows(logits: Tensor, samplers: Sequence["Sampler"], bans: bool) -> list["Choice"]:
    """A choice for each row [R, V]; token −1 where none is allowed."""
    from congling.infer.sampler import Choice, first_few

    values = adjusted(logits, [sampler.adjustment for sampler in samplers], bans)
    tokens = _draw(values, samplers)
    chosen = tokens.tolist()
    wanted = [row for row, sampler in enumerate(samplers) if sampler.logprobs is not None and chosen[row] >= 0]
    if not wanted:
        return [Choice(token) for token in chosen]
    choices = [Choice(token) for token in chosen]
    picked = torch.tensor(wanted, device=logits.device)
    logs = logits[picked].log_softmax(-1)
    own = logs.gather(1, tokens[picked].unsqueeze(1)).flatten().tolist()
    most = min(max(samplers[row].logprobs or 0 for row in wanted), logs.shape[1])
    best = logs.topk(most)
    for row, logprob, ids, values_ in zip(wanted, own, best.indices.tolist(), best.values.tolist(), strict=True):
        top = first_few(list(zip(ids, values_, strict=True)), samplers[row].logprobs or 0)
        choices[row] = Choice(chosen[row], logprob, top)
    return choices


def _draw(values: Tensor, samplers: Sequence["Sampler"]) -> Tensor:
    """Tokens [R] for adjusted logits [R, V]."""

    def column(numbers: list[float], dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.tensor(numbers, dtype=torch.float64).to(dtype).to(values.device).unsqueeze(1)  # [R, 1]

    configs = [sampler.config for sampler in samplers]
    first = values.argmax(-1)
    top = values.gather(1, first.unsqueeze(1))
    nothing = ~torch.isfinite(top).flatten()
    if all(config.temperature == 0 for config in configs):
        return first.masked_fill(nothing, -1)
    scale = column([1.0 / max(config.temperature, 1e-30) for config in configs])
    weights = torch.exp((values - top) * scale)
    if any(config.top_k for config in configs):
        weights = weights.masked_fill(values < _top_edge(values, [config.top_k for config in configs]), 0.0)
    if any(config.top_p < 1 for config in configs):
        weights = weights.masked_fill(weights < _nucleus_edge(weights, column([c.top_p for c in configs])), 0.0)
    if any(config.min_p > 0 for config in configs):
        weights = weights.masked_fill(values < top + column([s.drop for s in samplers]), 0.0)
    reached = weights.cumsum(-1, dtype=torch.float64)
    wanted = column([s.uniform() for s in samplers], torch.float64) * reached[:, -1:]
    drawn = (reached <= wanted).sum(-1).clamp(max=values.shape[1] - 1)
    greedy = column([float(config.temperature == 0) for config in configs]).flatten() > 0
    nothing |= ~greedy & ~(reached[:, -1] > 0)
    return torch.where(greedy, first, drawn).masked_fill(nothing, -1)


def _top_edge(values: Tensor, counts: list[int]) -> Tensor:
    """The k-th largest of each row [R, 1]; −∞ where k is 0."""
    counts = [min(count, values.shape[1]) for count in counts]
    ordered = values.topk(max(counts)).values
    place = torch.tensor(counts, device=values.device).unsqueeze(1)
    return ordered.gather(1, (place - 1).clamp(min=0)).masked_fill(place == 0, -torch.inf)


def _nucleus_edge(weights: Tensor, top_p: Tensor) -> Tensor:
    """The least weight of each nucleus [R, 1]: the weights down to it have together at least ``top_p`` of the whole."""
    wanted = (top_p * weights.sum(-1, keepdim=True)).masked_fill(top_p >= 1, 0.0)
    for size in (min(_HEAD, weights.shape[1]), weights.shape[1]):
        ordered = weights.topk(size).values
        reached = ordered.cumsum(-1, dtype=torch.float64)
        if bool((reached[:, -1:] >= wanted).all()):
            break
    place = (reached < wanted).sum(-1, keepdim=True).clamp(max=size - 1)
    return ordered.gather(1, place).masked_fill(top_p >= 1, 0.0)
