"""Log-probabilities of a prompt's own tokens, which evaluation tools ask for (``echo`` with ``logprobs``)."""

import threading

import torch

from congling.infer.model import Model
from congling.infer.text import TokenText

_ROWS = 128  # tokens whose scores are computed at once: [rows, V] float32 is all that is held
_one = threading.Lock()  # such a pass may take all cores and much memory: one at a time


@torch.inference_mode()
def score_prompt(model: Model, ids: list[int], shown: int, top: int) -> list[TokenText]:
    """The last ``shown`` of ``ids`` with their log-probability (None for the very first id, before which there is
    nothing), and their ``top`` likeliest alternatives."""
    first = max(len(ids) - shown, 1)
    logprobs: list[float | None] = [None] * (shown - (len(ids) - first))
    tops: list[list[tuple[int, float]]] = [[] for _ in logprobs]
    with _one:
        if len(ids) > 1:
            hidden = model.transformer(torch.tensor([ids[:-1]], device=model.transformer.embedding.device))
            for start in range(first - 1, len(ids) - 1, _ROWS):
                rows = model.transformer.logits(hidden[:, start : start + _ROWS])[0].log_softmax(-1)
                targets = torch.tensor(ids[start + 1 : start + 1 + len(rows)], device=rows.device)
                logprobs += rows.gather(1, targets[:, None])[:, 0].tolist()
                best = rows.topk(top)
                pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
                tops += [list(zip(tokens, values, strict=True)) for tokens, values in pairs]
    piece = model.tokenizer.piece
    return [
        TokenText(token, piece(token), logprob, alternatives)
        for token, logprob, alternatives in zip(ids[len(ids) - shown :], logprobs, tops, strict=True)
    ]
