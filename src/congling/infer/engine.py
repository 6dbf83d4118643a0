"""Ids in, ids out: cached decoding. All state of a request is in its ``Request``; the model keeps nothing."""

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from congling.infer.config import SampleConfig
from congling.infer.sampler import Sampler
from congling.model.transformer import Cache, Transformer

_PREFILL = 512  # tokens a chunk: bounds the memory of attention over a long prompt


class Request:
    """One text under way: its tokens so far, its sampler, and whether it has ended.

    Raises ValueError for an empty prompt, one longer than the context, or ids outside the vocabulary.
    """

    def __init__(
        self, prompt: Sequence[int], sampling: SampleConfig, stop_ids: Collection[int], vocab_size: int
    ) -> None:
        _check(prompt, sampling, vocab_size)
        self.prompt = list(prompt)
        self.answer: list[int] = []
        self.limit = min(sampling.max_tokens, sampling.max_context - len(prompt))  # tokens of the answer
        self.ended = False
        self._stop_ids = stop_ids
        self._sampler = Sampler(sampling, prompt, vocab_size)

    def advance(self, logits: Tensor) -> int | None:
        """The next token, chosen from ``logits`` [V]; None for a stop token. At either end ``ended`` is set."""
        token = self._sampler.choose(logits)
        if token in self._stop_ids:
            self.ended = True
            return None
        self.answer.append(token)
        self.ended = len(self.answer) == self.limit
        return token


def generate(
    transformer: Transformer, prompt: Sequence[int], sampling: SampleConfig, stop_ids: Collection[int]
) -> Iterator[int]:
    """Yields the tokens that follow ``prompt``, at most ``sampling.max_tokens``; ends before a token of ``stop_ids``.

    Raises ValueError at the call, as ``Request`` does.
    """
    return _decode(transformer, Request(prompt, sampling, stop_ids, transformer.architecture.vocab_size))


@torch.inference_mode()
def _decode(transformer: Transformer, request: Request) -> Iterator[int]:
    cache = transformer.new_cache(1, len(request.prompt) + request.limit)
    logits = _next_logits(transformer, torch.tensor([request.prompt]), cache)
    while (token := request.advance(logits[0])) is not None:
        yield token
        if request.ended:
            return
        logits = _next_logits(transformer, torch.tensor([[token]]), cache)


@torch.inference_mode()
def generate_batch(
    transformer: Transformer,
    prompts: Sequence[Sequence[int]],
    sampling: SampleConfig,
    stop_ids: Collection[int],
    batch_size: int = 32,
) -> list[list[int]]:
    """The answers to ``prompts``, ``batch_size`` at a time; prompts of similar length go together.

    Each is the answer that ``generate`` gives, up to rounding in the sums of the model.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers: dict[int, list[int]] = {}
    vocab_size = transformer.architecture.vocab_size
    for start in range(0, len(order), batch_size):
        members = order[start : start + batch_size]
        requests = [Request(prompts[i], sampling, stop_ids, vocab_size) for i in members]
        _decode_batch(transformer, requests)
        answers.update((i, r.answer) for i, r in zip(members, requests, strict=True))
    return [answers[i] for i in range(len(prompts))]


def _decode_batch(transformer: Transformer, requests: Sequence[Request]) -> None:
    """Prompts are padded on the left, and the padding is a document of its own: distances stay what they are."""
    width = max(len(r.prompt) for r in requests)
    ids = torch.zeros(len(requests), width, dtype=torch.long)
    documents = torch.zeros_like(ids)
    for row, request in enumerate(requests):
        ids[row, width - len(request.prompt) :] = torch.tensor(request.prompt)
        documents[row, width - len(request.prompt) :] = 1
    cache = transformer.new_cache(len(requests), width + max(r.limit for r in requests))
    logits = _next_logits(transformer, ids, cache, documents)
    while True:
        for row, request in enumerate(requests):
            if not request.ended:
                request.advance(logits[row])
        if all(r.ended for r in requests):
            return
        last = [[0 if r.ended else r.answer[-1]] for r in requests]  # rows that ended go on with padding
        logits = _next_logits(transformer, torch.tensor(last), cache, torch.ones(len(requests), 1, dtype=torch.long))


def _next_logits(transformer: Transformer, ids: Tensor, cache: Cache, documents: Tensor | None = None) -> Tensor:
    """Appends ids [B, T] to the cache; logits [B, V] after the last, float32 on the CPU."""
    device = transformer.embedding.device
    for start in range(0, ids.shape[1], _PREFILL):
        part = slice(start, start + _PREFILL)
        marks = None if documents is None else documents[:, part].to(device)
        hidden = transformer(ids[:, part].to(device), cache, marks)
    return transformer.logits(hidden[:, -1]).cpu()


def _check(prompt: Sequence[int], sampling: SampleConfig, vocab_size: int) -> None:
    if not prompt:
        raise ValueError("an empty prompt: give at least one token")
    if min(prompt) < 0 or max(prompt) >= vocab_size:
        raise ValueError(f"prompt ids must be 0 … {vocab_size - 1}, got {min(prompt)} … {max(prompt)}")
    if len(prompt) >= sampling.max_context:
        raise ValueError(
            f"the prompt has {len(prompt)} tokens, max_context is {sampling.max_context}; shorten it or raise that"
        )
