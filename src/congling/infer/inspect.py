"""What a model makes of a given text: how likely it finds each token, and where each head of each layer looks.

Everything is computed by the transformer as it was trained, beside the engine. Letters: L layers, H heads, T tokens,
G curves a layer (1 or H), M distances.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from congling.model.attend import attend
from congling.model.attention import Attention
from congling.model.transformer import Layer, Transformer


@dataclass
class Inspection:
    """Of T tokens. Shares: of the weight that a query gives to all keys."""

    logprobs: list[float | None]  # of each token after those before it; None for the first
    tops: list[list[tuple[int, float]]]  # likeliest tokens at its place, with their log-probabilities
    distance: Tensor  # [L, H] tokens that a head looks back, the mean over queries and weights
    own: Tensor  # [L, H] mean share of the query's own place,
    before: Tensor  # of the place before it,
    first: Tensor  # and of the first place
    weights: Tensor  # [T, T] shares of the one head asked for: rows are queries


@dataclass
class Decay:
    """What distance does to the scores before the softmax: factor·score + summand."""

    factor: Tensor | None  # [G, M]
    summand: Tensor | None  # [G, M]


@torch.inference_mode()
def inspect(transformer: Transformer, ids: Sequence[int], layer: int = 0, head: int = 0, top: int = 5) -> Inspection:
    """``ids`` under the eyes of ``transformer``. Raises ValueError for no ids, or a head that is not there."""
    a = transformer.architecture
    if not ids:
        raise ValueError("there is no text to look at")
    if not (0 <= layer < a.num_layers and 0 <= head < a.num_heads):
        raise ValueError(f"layer {layer}, head {head}: the model has {a.num_layers} layers of {a.num_heads} heads")
    batch = torch.tensor([list(ids)], device=transformer.embedding.device)
    places = torch.arange(len(ids), device=batch.device)
    back = places[:, None] - places  # [T, T] distances
    x = transformer.embed(batch)
    figures, chosen, values = [], torch.empty(0), None
    for number, one in enumerate(cast(Sequence[Layer], transformer.layers)):
        shares = _shares(one, x, places)  # [H, T, T]
        figures.append(_figures(shares, back))
        if number == layer:
            chosen = shares[head].cpu()
        x, own_values = one(x, None, values)
        values = own_values if values is None else values
    hidden = x if transformer.norm is None else transformer.norm(x)
    logprobs, tops = _likelihoods(transformer.logits(hidden)[0], batch[0], min(top, a.vocab_size))
    distance, own, before, first = torch.stack(figures).cpu().unbind(1)  # from [L, 4, H]
    return Inspection(logprobs, tops, distance, own, before, first, chosen)


@torch.inference_mode()
def decays(transformer: Transformer, distances: Sequence[int]) -> list[Decay]:
    """One a layer; positions that do not work on scores have None for both."""
    at = torch.tensor(list(distances), device=transformer.embedding.device)
    attentions = [cast(Attention, layer.attention) for layer in transformer.layers]
    return [Decay(*attention.position.scale_and_bias(at)) for attention in attentions]


def _shares(layer: Layer, x: Tensor, places: Tensor) -> Tensor:
    """[H, T, T], rows sum to 1. Values of one-hot vectors make attention give out its weights; where mixed heads make
    some of them negative, what counts is their size."""
    attention = layer.attention
    y = x if layer.attention_norm is None else layer.attention_norm(x)
    q, k = attention.queries_keys(y, places)
    one_hot = torch.eye(len(places), device=x.device, dtype=x.dtype).expand(1, q.shape[1], -1, -1)
    before, after = attention.talking_before, attention.talking_after
    weights = attend(q, k, one_hot, attention.position, None, before, after)[0].abs()
    return weights / weights.sum(-1, keepdim=True).clamp(min=1e-30)


def _figures(shares: Tensor, back: Tensor) -> Tensor:
    """[4, H] mean distance, and mean shares of the own place, the one before and the first. The first query has no
    choice and is left out."""
    seen = shares[:, 1:] if shares.shape[1] > 1 else shares
    distance = (shares * back.clamp(min=0)).sum(-1)[:, -seen.shape[1] :].mean(-1)
    own = shares.diagonal(0, -2, -1)[:, -seen.shape[1] :].mean(-1)
    before = shares.diagonal(-1, -2, -1).mean(-1) if shares.shape[1] > 1 else torch.zeros_like(own)
    return torch.stack((distance, own, before, seen[..., 0].mean(-1)))


def _likelihoods(logits: Tensor, ids: Tensor, top: int) -> tuple[list[float | None], list[list[tuple[int, float]]]]:
    """logits [T, V], ids [T] -> log-probability and likeliest alternatives of each id."""
    rows = logits[:-1].log_softmax(-1)
    own = rows.gather(1, ids[1:, None])[:, 0].tolist()
    best = rows.topk(top)
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [None, *own], [[], *(list(zip(tokens, values, strict=True)) for tokens, values in pairs)]
