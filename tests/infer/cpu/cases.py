"""Tiny models with every dial of the architecture, and a backend driven by hand."""

import numpy as np
import torch

from congling.infer.backend import Batch
from congling.infer.cpu.backend import CpuBackend
from congling.model.config import ModelConfig
from congling.model.transformer import Transformer

V = 70


def transformer(seed=1, **changes):
    """Weights at random, scalars too, so that none of them can be left out unseen."""
    settings = {"dim": 48, "num_layers": 2, "num_heads": 3, "head_dim": 8, "ffn_dim": 40, **changes}
    model = Transformer(ModelConfig(**settings).resolve(V), seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            affine = name.endswith((".value", ".bias"))
            parameter += noise * (0.001 if affine else 0.3 if parameter.dim() == 1 or "talking" in name else 0.05)
    return model


class Driver:
    """Sequences over the pages of a backend, in shuffled order."""

    def __init__(self, backend: CpuBackend, sequences, pages=24):
        backend.allocate(pages)
        self.backend = backend
        order = np.random.default_rng(0).permutation(pages).astype(np.int32)
        self.tables = order[: pages // sequences * sequences].reshape(sequences, -1)
        self.lengths = np.zeros(sequences, np.int32)

    def feed(self, rows, prompt=None):
        """{sequence: new ids} -> {sequence: logits of all of them}."""
        which = list(rows)
        counts = [len(rows[s]) for s in which]
        starts = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
        ids = np.concatenate([np.asarray(rows[s], np.int64) for s in which])
        marks = None if prompt is None else np.array([prompt] * len(which))
        batch = Batch(ids, starts, self.lengths[which], self.tables[which], np.arange(len(ids), dtype=np.int32), marks)
        logits = self.backend.forward(batch).numpy().copy()
        self.lengths[which] += np.array(counts, np.int32)
        return {s: logits[starts[i] : starts[i + 1]] for i, s in enumerate(which)}


def expected(model, ids):
    with torch.inference_mode():
        return model.logits(model(torch.tensor([ids])))[0].numpy()
