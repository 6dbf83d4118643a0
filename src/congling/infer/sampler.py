"""From logits to the next token: penalties, temperature, top-k, top-p. One sampler a request."""

from collections.abc import Sequence

import torch
from torch import Tensor

from congling.infer.config import SampleConfig

_HEAD = 1024  # likeliest tokens that nearly always hold the nucleus: sorting them is quicker than sorting 65,536


class Sampler:
    """Chooses tokens for one request; its randomness comes from the request's seed alone."""

    def __init__(self, config: SampleConfig, prompt: Sequence[int], vocab_size: int) -> None:
        self.config = config
        self._generator = torch.Generator().manual_seed(config.seed)
        self._penalties = prompt_penalties(prompt, vocab_size, config.repetition_penalty, config.repetition_decay)

    def choose(self, logits: Tensor) -> int:
        """The next token for logits [V] (float32, CPU)."""
        logits = logits - self._penalties
        token = int(logits.argmax()) if self.config.temperature == 0 else self._draw(logits)
        self._penalties *= self.config.repetition_decay
        self._penalties[token] += self.config.repetition_penalty
        return token

    def _draw(self, logits: Tensor) -> int:
        scaled = restrict(logits / self.config.temperature, self.config.top_k, self.config.top_p)
        return int(torch.multinomial(torch.softmax(scaled, dim=-1), 1, generator=self._generator))


def prompt_penalties(prompt: Sequence[int], vocab_size: int, penalty: float, decay: float) -> Tensor:
    """What is taken off each logit [V] after ``prompt``: ``penalty`` for each occurrence, times ``decay`` for each
    token since. The seed's repetition penalty (SEED §6): additive, so that it fades instead of forbidding."""
    since = torch.arange(len(prompt) - 1, -1, -1, dtype=torch.float32)
    return torch.zeros(vocab_size).index_add_(0, torch.tensor(prompt), penalty * decay**since)


def restrict(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """−∞ on all logits [V] but the ``top_k`` likeliest (0: all), and of those the fewest that reach ``top_p``.

    Nucleus sampling: Holtzman et al. 2020. The likeliest token always stays; at a tie at the edge, all stay.
    """
    if top_k and top_k < len(logits):
        logits = logits.masked_fill(logits < logits.topk(top_k).values[-1], -torch.inf)
    if top_p < 1:
        logits = logits.masked_fill(logits < _nucleus_edge(logits, top_p), -torch.inf)
    return logits


def _nucleus_edge(logits: Tensor, top_p: float) -> Tensor:
    """The least logit of the nucleus: the likeliest tokens down to it have together at least ``top_p``."""
    log_sum = logits.logsumexp(-1)
    for size in (min(_HEAD, len(logits)), len(logits)):
        ordered = logits.topk(size).values
        reached = (ordered - log_sum).exp().cumsum(-1)
        if reached[-1] >= top_p:
            return ordered[(reached < top_p).sum()]
    return ordered[-1]  # rounding: the whole sum stays below top_p
