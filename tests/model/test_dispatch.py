"""Which kernel attention takes, told by device, shape, talking heads and position; on imagined GPU tensors."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from congling.model import attention as module
from congling.model.attention import Attention
from congling.model.config import ModelConfig

DOORS = ("attend", "flex_attend", "talking_attend")


@pytest.mark.parametrize(
    ("device", "queries", "talking", "position", "wanted"),
    [
        ("cpu", 8, False, "distance_decay", "attend"),
        ("cpu", 8, True, "distance_decay", "attend"),
        ("cuda", 8, False, "distance_decay_heads", "flex_attend"),
        ("cuda", 8, False, "rope", "flex_attend"),
        ("cuda", 1, False, "distance_decay", "attend"),
        ("cuda", 8, True, "distance_decay", "talking_attend"),
        ("cuda", 8, True, "rope", "talking_attend"),
        ("cuda", 8, True, "alibi", "attend"),
        ("cuda", 1, True, "distance_decay", "attend"),
    ],
)
def test_the_kernel_for(device, queries, talking, position, wanted, monkeypatch):
    called = []
    for door in DOORS:
        monkeypatch.setattr(module, door, lambda q, *_, door=door: called.append(door) or q)
    size = {"dim": 8, "num_heads": 2, "head_dim": 4}
    with FakeTensorMode():
        layer = Attention(ModelConfig(talking_heads=talking, position=position, **size).resolve(10))
        q, k = (torch.empty(1, 2, n, 4, device=device) for n in (queries, 8))
        layer.attend(q, k, k, None)
    assert called == [wanted]
