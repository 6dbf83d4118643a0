"""From logits to the next token: penalties, temperature, top-k, top-p. One sampler a request."""

from collections.abc import Sequence

import torch
from torch import Tensor

from congling.infer.config import SampleConfig


class Sampler:
    """Chooses tokens for one request; its randomness comes from the request's seed alone."""

    def __init__(self, config: SampleConfig, prompt: Sequence[int], vocab_size: int) -> None:
        self.config = config
        self._generator = torch.Generator().manual_seed(config.seed)
        self._penalty = torch.zeros(vocab_size)
        if config.repetition_penalty:
            for token in prompt:
                self._remember(token)

    def choose(self, logits: Tensor) -> int:
        """The next token for logits [V] (float32, CPU)."""
        if self.config.repetition_penalty:
            logits = logits - self._penalty
        token = int(logits.argmax()) if self.config.temperature == 0 else self._draw(logits)
        if self.config.repetition_penalty:
            self._remember(token)
        return token

    def _remember(self, token: int) -> None:
        """The seed's repetition penalty (SEED §6): all penalties decay, then the token's grows."""
        self._penalty *= self.config.repetition_decay
        self._penalty[token] += self.config.repetition_penalty

    def _draw(self, logits: Tensor) -> int:
        scaled = restrict(logits / self.config.temperature, self.config.top_k, self.config.top_p)
        return int(torch.multinomial(torch.softmax(scaled, dim=-1), 1, generator=self._generator))


def restrict(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """−∞ on all logits [V] but the ``top_k`` likeliest (0: all), and of those the fewest that reach ``top_p``.

    Nucleus sampling: Holtzman et al. 2020. The likeliest token always stays.
    """
    if top_k and top_k < len(logits):
        logits = logits.masked_fill(logits < logits.topk(top_k).values[-1], float("-inf"))
    if top_p < 1:
        ordered, order = logits.sort(descending=True)
        probabilities = torch.softmax(ordered, dim=-1)
        before = probabilities.cumsum(-1) - probabilities  # what the likelier ones have already
        logits = logits.masked_fill(
            torch.zeros_like(logits, dtype=torch.bool).scatter(0, order, before >= top_p), -torch.inf
        )
    return logits
