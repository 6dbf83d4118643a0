"""Ids in, ids out: cached decoding. All state of a request lives in the generator's frame; the model keeps nothing."""

from collections.abc import Collection, Iterator, Sequence

import torch

from congling.infer.config import SampleConfig
from congling.infer.sampler import Sampler
from congling.model.transformer import Transformer

_PREFILL = 512  # tokens a chunk: bounds the memory of attention over a long prompt


def generate(
    transformer: Transformer, prompt: Sequence[int], sampling: SampleConfig, stop_ids: Collection[int]
) -> Iterator[int]:
    """Yields the tokens that follow ``prompt``, at most ``sampling.max_tokens``; ends before a token of ``stop_ids``.

    Raises ValueError for an empty prompt or ids outside the vocabulary.
    """
    vocab_size = transformer.architecture.vocab_size
    if not prompt:
        raise ValueError("an empty prompt: give at least one token")
    if min(prompt) < 0 or max(prompt) >= vocab_size:
        raise ValueError(f"prompt ids must be 0 … {vocab_size - 1}, got {min(prompt)} … {max(prompt)}")
    return _decode(transformer, list(prompt), sampling, stop_ids)


@torch.inference_mode()
def _decode(
    transformer: Transformer, prompt: list[int], sampling: SampleConfig, stop_ids: Collection[int]
) -> Iterator[int]:
    device = transformer.embedding.device
    sampler = Sampler(sampling, prompt, transformer.architecture.vocab_size)
    cache = transformer.new_cache(1, len(prompt) + sampling.max_tokens)
    for start in range(0, len(prompt), _PREFILL):
        hidden = transformer(torch.tensor([prompt[start : start + _PREFILL]], device=device), cache)
    for _ in range(sampling.max_tokens):
        token = sampler.choose(transformer.logits(hidden[0, -1]).cpu())
        if token in stop_ids:
            return
        yield token
        hidden = transformer(torch.tensor([[token]], device=device), cache)
