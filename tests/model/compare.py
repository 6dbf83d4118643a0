"""Outputs and gradients of an attention function beside those of ``attend`` in float64.

As a script (``python compare.py``, with TRITON_INTERPRET=1 set before triton is imported, hence a process of its own):
the cases of talking heads and of the decay's gradient on a CPU; prints {case: {what: relative error}}.
"""

import copy
import json
import sys
from dataclasses import asdict, dataclass

import torch

from congling.model.attend import DocumentMask, attend
from congling.model.positions import Alibi, DecayOfHeads, DistanceDecay, NoPosition


@dataclass(frozen=True)
class Case:
    heads: int
    length: int
    queries: int = 0  # 0: as many as keys
    width: int = 8
    batch: int = 2
    position: str = "shared"
    documents: bool = False
    talking: bool = True
    dtype: str = "float32"

    def __str__(self):
        return "-".join(f"{k}={v}" for k, v in asdict(self).items() if v != getattr(Case(0, -1), k))


TALKING = (
    Case(1, 7, position="none"),
    Case(2, 21),  # not a multiple of a block of keys, two bands
    Case(12, 18, batch=1, documents=True),
    Case(3, 17, queries=9, position="heads", documents=True),
    Case(16, 16, batch=1, position="heads"),  # one tile, no padding of heads
    Case(2, 70, queries=20, width=4, batch=1, documents=True),  # two tiles, two bands
    Case(2, 18, batch=1, dtype="bfloat16"),
)
DECAY = (
    Case(2, 90, talking=False, documents=True, batch=1),
    Case(3, 90, queries=20, talking=False, position="heads"),
    Case(2, 12, talking=False, width=24, dtype="float16"),  # the interpreter cannot multiply bf16
)


def make_position(case):
    if case.position in ("none", "alibi"):
        return Alibi(case.heads) if case.position == "alibi" else NoPosition()
    made = DecayOfHeads(case.heads, 0.3, 0.05) if case.position == "heads" else DistanceDecay()
    made.offset.data += torch.linspace(-0.5, 0.5, len(made.offset))
    return made


def inputs(case):
    """q, k, v, the gradient of the output, the two maps; and the mask."""
    generator = torch.Generator().manual_seed(case.length)
    queries = case.queries or case.length
    sizes = [(case.batch, case.heads, n, case.width) for n in (queries, case.length, case.length, queries)]
    sizes += [(case.heads, case.heads)] * 2 if case.talking else []
    tensors = [torch.randn(s, generator=generator, dtype=torch.float64) for s in sizes]
    mask = None
    if case.documents:
        numbers = (torch.rand(case.batch, case.length, generator=generator) < 0.1).cumsum(1)
        mask = numbers[:, case.length - queries :], numbers
    return [t.to(getattr(torch, case.dtype)) for t in tensors], mask


def evaluate(function, case, dtype, device="cpu", tensors=None):
    """{name: output or gradient, float64 on the CPU} of ``function`` with inputs in ``dtype``."""
    made, mask = inputs(case)
    q, k, v, grad, *maps = [t.to(device, dtype).requires_grad_() for t in made]
    maps = [m.detach().to(torch.promote_types(dtype, torch.float32)).requires_grad_() for m in maps]
    position = make_position(case).to(device, torch.promote_types(dtype, torch.float32))
    documents = None if mask is None else DocumentMask(*(m.to(device) for m in mask))
    y = function(q, k, v, position, documents, *maps)
    y.backward(grad.detach())
    named = {"out": y, "q": q.grad, "k": k.grad, "v": v.grad}
    named |= {name: m.grad for name, m in zip(("before", "after"), maps, strict=False)}
    named |= {name: p.grad for name, p in position.named_parameters()}
    return {name: t.detach().double().cpu() for name, t in named.items()}


def errors(function, case, device="cpu"):
    """{name: largest error by the largest value of the reference}."""
    reference = evaluate(attend, case, torch.float64)
    got = evaluate(function, case, getattr(torch, case.dtype), device)
    assert reference.keys() == got.keys()
    # A softmax over the own key alone has gradients of 0: their error is counted by 1e-3.
    return {n: float((got[n] - r).abs().max() / r.abs().max().clamp(min=1e-3)) for n, r in reference.items()}


def decay_only(q, k, v, position, documents):
    """The function that ``flex_attend`` puts behind FlexAttention, around plain attention that lacks its gradient."""
    from congling.model.flex import _decay, _DecayGradient

    scale = q.shape[-1] ** -0.5
    with torch.no_grad():
        queries, keys = q.shape[2], k.shape[2]
        distance = torch.arange(keys - queries, keys)[:, None] - torch.arange(keys)
        factor, bias = position.scale_and_bias(distance.clamp(min=0).flatten())
        scores = (q.float() @ k.float().mT * scale) * factor.view(-1, queries, keys) + bias.view(-1, queries, keys)
        scores = scores.masked_fill(distance < 0, float("-inf"))
        if documents is not None:
            scores = scores.masked_fill(documents.blocked, float("-inf"))
        sums = scores.logsumexp(-1)
    out = attend(q, k, v, copy.deepcopy(position).requires_grad_(False), documents)
    number = None if documents is None else documents.keys
    return _DecayGradient.apply(out, *_decay(position), sums, q.detach(), k.detach(), v.detach(), number)


def main():
    from congling.model import talking_heads

    torch.set_num_threads(1)
    talking_heads._BAND_ROWS = 16  # several bands
    talking_heads._BAND_BYTES = 4096
    result = {str(c): errors(talking_heads.talking_attend, c) for c in TALKING}
    result |= {str(c): errors(decay_only, c) for c in DECAY}
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
