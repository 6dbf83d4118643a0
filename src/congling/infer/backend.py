"""The door between the engine and the arithmetic: what a backend gets in one step, and what it gives back.

Letters: N new tokens of all sequences, S sequences, P pages, W rows whose logits are wanted, V vocabulary.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

PAGE_TOKENS = 32  # tokens of a page: few enough that a short answer wastes little, enough that tables stay short


@dataclass
class Batch:
    """One step: the new tokens of some sequences, and where the tokens before them lie."""

    ids: NDArray[np.int64]  # [N] new tokens of all sequences, one after another
    starts: NDArray[np.int32]  # [S + 1] rows of sequence s are ids[starts[s]:starts[s + 1]]
    lengths: NDArray[np.int32]  # [S] tokens of s that are in its pages already
    tables: NDArray[np.int32]  # [S, P] page numbers of s in order, −1 behind the last; room for lengths + new is there
    wanted: NDArray[np.int32]  # [W] rows whose logits are wanted
    # [S] true: rows of a prompt, which are computed in the same way however the prompt is cut (a last piece may be one
    # token). False: tokens that were generated, several of a sequence when some are guessed. None: as it comes.
    prompt: NDArray[np.bool_] | None = None


class Backend(Protocol):
    """A transformer with its weights, read-only, and the memory of its cache, in pages.

    The CPU backend guarantees that the bits of a row's result never depend on which other rows are in the batch, nor on
    how a prompt is cut into chunks.
    """

    vocab_size: int
    page_tokens: int
    page_bytes: int
    max_len: int  # most tokens of a sequence (learned positions end somewhere); 0: no limit

    def allocate(self, num_pages: int) -> None:
        """Makes the memory of the cache, once: its hard limit."""

    def forward(self, batch: Batch) -> Tensor:
        """Writes the new tokens into their pages; float32 logits [W, V]. The next call may use their memory again."""
        ...

    def copy_page(self, source: int, target: int) -> None:
        """Copy on write: ``target`` becomes what ``source`` is."""
