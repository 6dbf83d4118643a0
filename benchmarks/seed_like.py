"""Jerry as its description reads (../shared/SEED.md §3, §4), step by step in float32: what a first version of that
model costs, the yardstick of model.py. Written from the description; nothing is taken from the seed's code.
"""

import torch
import torch.nn.functional as F
from torch import nn

D, H, K, INNER, LAYERS, DROPOUT = 768, 12, 128, 1536, 12, 0.1
NEWTON_SCHULZ, STEPS = (15 / 8, -5 / 4, 3 / 8), 20


class Affine(nn.Module):
    def __init__(self, value=0.01, bias=0.0, factor=100.0):
        super().__init__()
        self.value, self.bias = nn.Parameter(torch.tensor([value])), nn.Parameter(torch.tensor([bias]))
        self.factor = factor

    def forward(self, x):
        return self.factor * (x * self.value + self.bias)


def linear(inputs, outputs):
    made = nn.Linear(inputs, outputs, bias=False)
    nn.init.xavier_uniform_(made.weight)
    return made


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = (linear(D, H * K) for _ in range(3))
        self.out, self.up, self.down = linear(H * K, D), linear(D, INNER), linear(INNER, D)
        self.affine = nn.ModuleDict({name: Affine() for name in ("query", "key", "value", "out", "up", "down")})
        self.absolute, self.relative = Affine(0.5, 0.5, 1.0), Affine(0.05, 0.05, 1.0)
        self.before, self.after = linear(H, H), linear(H, H)
        self.norm = nn.RMSNorm(D, eps=1e-6)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x):
        length = x.shape[1]
        q, k, v = (
            self.affine[name](getattr(self, name)(x)).unflatten(-1, (H, K)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        places = torch.arange(length)
        distance = (places[:, None] - places).clamp(min=0)
        one = torch.ones(1)
        s = q @ k.transpose(-1, -2) / K**0.5  # [B, H, T, T]
        s = s / (1 + self.relative(one) * distance)
        s = s - self.absolute(one) * (distance > 0)
        s = self.before(s.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        s = s.masked_fill(places > places[:, None], -1e3)
        p = self.after(torch.softmax(s, -1).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        y = self.affine["out"](self.out((p @ v).transpose(1, 2).flatten(2)))
        x = x + self.dropout(self.dropout(y))
        inner = torch.relu(self.up(self.affine["up"](x)))
        return self.norm(x + self.dropout(torch.relu(self.down(self.affine["down"](inner)))))


class SeedLike(nn.Module):
    def __init__(self, rows):
        super().__init__()
        self.embedding = nn.Embedding(rows, D)
        nn.init.xavier_uniform_(self.embedding.weight)
        self.embedding_affine, self.head_affine = Affine(D**0.5 / 100), Affine()
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.head = linear(D, rows)

    def loss(self, ids, targets):
        x = self.embedding_affine(self.embedding(ids))
        for layer in self.layers:
            x = layer(x)
        logits = self.head_affine(self.head(x))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")


def orthogonalise_step(x):
    """One of the seed's 20 steps, x [rows, columns], rows ≥ columns."""
    a, b, c = NEWTON_SCHULZ
    gram = x.T @ x
    return x @ (a * torch.eye(len(gram)) + b * gram + c * gram @ gram)
