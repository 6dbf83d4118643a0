import itertools

import pytest
import torch

from congling.infer.inspect import decays, inspect
from infer.toy import model, transformer

IDS = [1, *range(40, 51)]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"position": "rope", "qk_norm": True, "qk_bias": True},
        {"position": "learned", "max_len": 16},
        {"position": "sinusoidal", "value_residual": True},
        {"position": "distance_decay", "norm": "post", "affine": True, "talking_heads": True},
    ],
    ids=lambda changes: changes.get("position", "demo"),
)
def test_likelihoods_and_weights(changes):
    t = transformer(**changes)
    for layer, head in itertools.product(range(2), range(2)):
        seen = inspect(t, IDS, layer, head, top=3)
        assert seen.weights.shape == (12, 12)
        torch.testing.assert_close(seen.weights.sum(1), torch.ones(12))
        assert (seen.weights.triu(1) == 0).all()
        back = torch.arange(12)[:, None] - torch.arange(12)
        mean = (seen.weights * back).sum(1)[1:].mean()
        torch.testing.assert_close(seen.distance[layer, head], mean)
        torch.testing.assert_close(seen.own[layer, head], seen.weights.diagonal()[1:].mean())
        torch.testing.assert_close(seen.before[layer, head], seen.weights.diagonal(-1).mean())
        torch.testing.assert_close(seen.first[layer, head], seen.weights[1:, 0].mean())
    with torch.inference_mode():
        rows = t.logits(t(torch.tensor([IDS])))[0].log_softmax(-1)
    assert seen.logprobs[0] is None
    assert seen.tops[0] == []
    for place in range(1, 12):
        assert seen.logprobs[place] == pytest.approx(float(rows[place - 1, IDS[place]]), abs=1e-5)
        assert [token for token, _ in seen.tops[place]] == rows[place - 1].topk(3).indices.tolist()


def test_one_token_looks_at_itself():
    seen = inspect(transformer(), [7])
    assert seen.weights.tolist() == [[1.0]]
    assert seen.distance.tolist() == [[0, 0], [0, 0]]
    assert seen.logprobs == [None]


def test_what_cannot_be_looked_at():
    with pytest.raises(ValueError, match="no text"):
        inspect(transformer(), [])
    with pytest.raises(ValueError, match="2 layers of 2 heads"):
        inspect(transformer(), IDS, layer=2)


def test_decay_curves():
    for one in decays(transformer(), (0, 1, 10)):
        assert one.factor.shape == (2, 3)
        torch.testing.assert_close(one.factor[0], torch.tensor([1, 1 / 1.1, 0.5]))
        assert one.summand[0].tolist() == [0, -1, -1]
    assert all(one.factor is None and one.summand is None for one in decays(transformer(position="rope"), (0, 1)))
    assert all(one.factor is None and one.summand[0, 1] < 0 for one in decays(transformer(position="alibi"), (0, 1)))


def test_nothing_is_left_behind():
    m = model()
    before = m.logits(IDS)
    inspect(m.transformer, IDS, 1, 1)
    assert torch.equal(m.logits(IDS), before)
