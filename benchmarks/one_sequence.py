"""One forward pass of a backend for the next tokens of a single sequence."""

import numpy as np

from congling.infer.backend import Batch


def forward(backend, table, ids, length, prompt, every=False):
    """Logits of the last of ``ids``, or with ``every`` of all; table: [1, P] pages, length: tokens cached before."""
    starts, lengths = np.array([0, len(ids)], np.int32), np.array([length], np.int32)
    wanted = np.arange(len(ids), dtype=np.int32) if every else np.array([len(ids) - 1], np.int32)
    return backend.forward(Batch(np.asarray(ids, np.int64), starts, lengths, table, wanted, np.array([prompt])))
