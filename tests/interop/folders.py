"""Tiny model folders: a vocabulary of ASCII and some Chinese, and a transformer with every parameter off its start."""

import torch

from congling.model.config import ModelConfig
from congling.model.folder import save_model
from congling.model.transformer import Transformer
from congling.tokenizer.tokenizer import Tokenizer
from congling.tokenizer.vocabulary import Vocabulary

PIECES = [*map(chr, range(0x20, 0x7F)), "\n", *"你好从零开始语言模型，。", "你好", "语言", "语言模型", "ab", "the"]
SIZES = {"dim": 16, "num_layers": 3, "num_heads": 2, "head_dim": 8, "ffn_dim": 24, "dropout": 0.0}
DIALS = {
    "demo": {},
    "base": {"preset": "base-0.18b", "qk_bias": True},
    "jerry": {"preset": "jerry-0.18b"},
    "llama": {"position": "rope", "feed_forward": "swiglu", "tie_embeddings": False},
    "qwen3": {"position": "rope", "feed_forward": "swiglu", "qk_norm": True},
    "alibi": {"position": "alibi", "value_residual": True, "logit_softcap": 5.0},
    "sinusoidal": {"position": "sinusoidal", "talking_heads": True, "affine": True},
    "learned": {"position": "learned", "max_len": 40, "norm": "post"},
    "none": {"position": "none", "log_scale_from": 6},
    "scaled": {"preset": "jerry-0.18b", "log_scale_from": 6, "value_residual": True},
}


def tokenizer() -> Tokenizer:
    return Tokenizer(Vocabulary("congling", PIECES, [-4_000_000 + 1000 * len(p) for p in PIECES], [5] * len(PIECES)))


def transformer(**dials) -> Transformer:
    made = Transformer(ModelConfig(**{**SIZES, **dials}).resolve(tokenizer().vocab_size), 1).eval()
    generator = torch.Generator().manual_seed(2)
    for name, parameter in made.named_parameters():
        scale = 0.003 if ".affine" in name or "_affine" in name else 0.3 if parameter.dim() > 1 else 0.1
        parameter.data += scale * torch.randn(parameter.shape, generator=generator)
    return made


def write(folder, **dials) -> Transformer:
    folder.mkdir(parents=True)
    made = transformer(**dials)
    save_model(folder, made, tokenizer().save(folder))
    return made


@torch.no_grad()
def greedy(model: Transformer, prompt: list[int], tokens: int) -> list[int]:
    """What follows ``prompt``, without any cache."""
    ids = list(prompt)
    for _ in range(tokens):
        ids.append(int(model.logits(model(torch.tensor([ids]))[0, -1]).argmax()))
    return ids[len(prompt) :]
