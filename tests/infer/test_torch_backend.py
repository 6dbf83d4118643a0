"""Paged, cached logits against the model without a cache: every position method, both caches, every dial."""

import numpy as np
import pytest
import torch

from congling.infer.backend import Batch
from congling.infer.torch_backend import TorchBackend, choose_cache
from congling.infer.torch_graph import StaticDecode
from congling.model.config import Architecture
from infer import toy

PAGE = TorchBackend.page_tokens
EVERYTHING = {"talking_heads": True, "qk_norm": True, "qk_bias": True, "value_residual": True}
CASES = [
    *(
        (cache, {"position": position})
        for position in ("distance_decay", "distance_decay_heads", "alibi", "none", "sinusoidal")
        for cache in ("absorbed", "kv")
    ),
    ("absorbed", {"position": "learned", "max_len": 90}),
    ("kv", {"position": "learned", "max_len": 90}),
    ("kv", {"position": "rope"}),
    ("kv", {"position": "rope", **EVERYTHING}),
    *((cache, {name: True}) for name in EVERYTHING for cache in ("absorbed", "kv")),
    *((cache, {"log_scale_from": 20, **EVERYTHING}) for cache in ("absorbed", "kv")),
    *((cache, {"position": "distance_decay", "norm": "post", "affine": True, **EVERYTHING,
               "feed_forward": "relu_relu", "tie_embeddings": False}) for cache in ("absorbed", "kv")),
    ("absorbed", {"position": "alibi", "feed_forward": "swiglu", "logit_softcap": 5.0, **EVERYTHING}),
]  # fmt: skip


def lively(**changes):
    """A toy model whose every parameter matters: nothing is 0 or 1 any more."""
    model = toy.transformer(**changes)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            size = 0.001 if name.endswith(("affine.value", "affine.bias")) else 0.2
            parameter += size * torch.randn(parameter.shape, generator=generator)
    return model


class Lines:
    """Sequences that grow by what a test says, with pages in any order."""

    def __init__(self, backend, num_pages=24, seed=0):
        backend.allocate(num_pages)
        self.backend, self.rng = backend, np.random.default_rng(seed)
        self.free = list(self.rng.permutation(num_pages))
        self.ids, self.pages = [[], [], []], [[], [], []]

    def step(self, counts, prompt):
        """So many random tokens more in each line (0: not in the batch); logits of all new rows, and what they are."""
        members = [i for i, count in enumerate(counts) if count]
        lengths = [len(self.ids[i]) for i in members]
        new = [[int(t) for t in self.rng.integers(0, toy.V, counts[i])] for i in members]
        for i, tokens in zip(members, new, strict=True):
            self.ids[i] += tokens
            while len(self.pages[i]) * PAGE < len(self.ids[i]):
                self.pages[i].append(self.free.pop())
        tables = np.full((len(members), 3), -1, dtype=np.int32)
        for row, i in enumerate(members):
            tables[row, : len(self.pages[i])] = self.pages[i]
        starts = np.cumsum([0, *map(len, new)], dtype=np.int32)
        batch = Batch(
            np.array([token for tokens in new for token in tokens], dtype=np.int64),
            starts,
            np.array(lengths, dtype=np.int32),
            tables,
            np.arange(starts[-1], dtype=np.int32),
            np.array([prompt] * len(members)),
        )
        return self.backend.forward(batch), members, lengths


@pytest.mark.parametrize(("cache", "changes"), CASES)
def test_logits_equal_those_without_a_cache(cache, changes):
    model = lively(**changes)
    lines = Lines(TorchBackend(model, cache))
    steps = [((5, 0, 33), True), ((1, 1, 0), False), ((0, 40, 20), True), ((1, 1, 1), False), ((3, 1, 1), False),
             ((30, 1, 0), True), ((0, 0, 1), False), ((1, 1, 1), False)]  # fmt: skip
    for counts, prompt in steps:
        logits, members, lengths = lines.step(counts, prompt)
        assert logits.dtype == torch.float32
        row = 0
        for i, length in zip(members, lengths, strict=True):
            with torch.no_grad():
                wanted = model.logits(model(torch.tensor([lines.ids[i]])))[0, length:]
            torch.testing.assert_close(logits[row : row + len(wanted)], wanted, atol=1e-4, rtol=1e-4)
            row += len(wanted)


@pytest.mark.parametrize("cache", ["absorbed", "kv"])
def test_decoding_from_static_buffers(cache):
    """As on a GPU, but not recorded: more rows and more pages than there are sequences and tokens."""
    model = lively(position="distance_decay_heads", **EVERYTHING)
    backend = TorchBackend(model, cache)
    lines = Lines(backend)
    backend._cells[:, : 24 * PAGE], backend._inverse[:, : 24 * PAGE] = torch.nan, torch.nan  # whatever was there
    backend.static = StaticDecode(backend.decode, backend.scratch, backend.device)
    lines.step((5, 31, 33), True)
    for counts in ((1, 1, 1), (1, 1, 1), (0, 0, 1), (1, 0, 1)):
        logits, members, _ = lines.step(counts, False)
        for row, i in zip(logits, members, strict=True):
            with torch.no_grad():
                wanted = model.logits(model(torch.tensor([lines.ids[i]])))[0, -1]
            torch.testing.assert_close(row, wanted, atol=1e-4, rtol=1e-4)
    assert set(backend.static._recorded) == {(4, 2), (1, 2), (2, 2)}


def test_copied_pages_hold_the_same():
    backend = TorchBackend(lively(qk_norm=True), "absorbed")
    backend.allocate(3)
    backend._cells.normal_(), backend._inverse.normal_()
    before = backend._cells[:, :PAGE].clone(), backend._inverse[:, :PAGE].clone()
    backend.copy_page(0, 2)
    assert torch.equal(backend._cells[:, 2 * PAGE : 3 * PAGE], before[0])
    assert torch.equal(backend._inverse[:, 2 * PAGE : 3 * PAGE], before[1])
    assert torch.equal(backend._cells[:, :PAGE], before[0])


def test_what_another_request_left_behind_does_not_matter():
    """A page may hold anything, even what is no number, from a request that has ended."""
    backend = TorchBackend(lively(qk_norm=True, value_residual=True), "absorbed")
    lines = Lines(backend)
    backend._cells[:, : 24 * PAGE], backend._inverse[:, : 24 * PAGE] = torch.nan, torch.nan
    lines.step((5, 31, 33), True)
    assert lines.step((1, 1, 1), False)[0].isfinite().all()


def test_which_cache():
    def architecture(**changes) -> Architecture:
        return toy.transformer(**changes).architecture

    with pytest.raises(ValueError, match="absorbed: rope"):
        TorchBackend(toy.transformer(position="rope"), "absorbed")
    assert choose_cache(architecture(position="rope"), "auto") == "kv"
    assert choose_cache(architecture(dim=8), "auto") == "absorbed"
    assert TorchBackend(toy.transformer(), "absorbed").page_bytes == 32 * 2 * 16 * 4
    assert TorchBackend(toy.transformer(qk_norm=True), "absorbed", "bf16").page_bytes == 32 * 2 * (16 * 2 + 2 * 4)
    assert TorchBackend(toy.transformer(), "kv").page_bytes == 32 * 2 * 2 * 16 * 4
    with pytest.raises(ValueError, match="int8: needs the CPU kernels"):
        TorchBackend(toy.transformer(), "kv", "int8")
