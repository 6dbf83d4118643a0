"""A tokenizer of bytes and a model of nothing, quick to make."""

from congling.infer.model import Model
from congling.model.config import ModelConfig
from congling.model.transformer import Transformer

V = 16 + 256


class Bytes:
    """Ids as the real tokenizer lays them out, without pieces."""

    vocab_size, pad_id, end_id, im_start_id, im_end_id = V, 0, 1, 2, 3

    def encode(self, text):
        return [16 + b for b in text.encode()]

    def piece(self, number):
        return self.decode_bytes([number])

    def decode_bytes(self, ids):
        return bytes(i - 16 for i in ids if i >= 16)

    def decode(self, ids):
        return self.decode_bytes(ids).decode("utf-8", errors="replace")


def transformer(**changes):
    settings = {"dim": 16, "num_layers": 2, "num_heads": 2, "head_dim": 8, "ffn_dim": 24, **changes}
    return Transformer(ModelConfig(**settings).resolve(V), 1).eval()


def model(tuned=True):
    return Model(transformer(), Bytes(), tuned)
