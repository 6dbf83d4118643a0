import numpy as np
import pytest
import torch

from congling.evaluate.config import probe_len
from congling.evaluate.probes import Symbols, collisions, examples, extrapolation, score
from congling.infer.config import SampleConfig
from congling.infer.model import Model
from congling.model.config import ModelConfig
from congling.model.transformer import Transformer
from congling.tokenizer.tokenizer import Tokenizer
from congling.tokenizer.vocabulary import Vocabulary

PIECES = ["天", "天黑", "1", "下", "雨", "了"]
TOKENIZER = Tokenizer(Vocabulary("congling", PIECES, [-1_000_000] * len(PIECES), [9] * len(PIECES)))
SYMBOLS = Symbols.of(TOKENIZER, 4)


def draw(task, length, count, smallest=4, seed=1):
    return examples(task, length, count, SYMBOLS, np.random.default_rng(seed), smallest)


def test_symbols_are_pieces_of_one_character():
    assert [TOKENIZER.piece(i).decode() for i in SYMBOLS.alphabet] == ["天", "下", "雨", "了"]
    with pytest.raises(ValueError, match="alphabet of 5 symbols, the vocabulary has 4"):
        Symbols.of(TOKENIZER, 5)


@pytest.mark.parametrize("task", ["copy", "reverse"])
def test_outputs_of_symbols(task):
    ids, answer = draw(task, 7, 50)
    assert ids.shape == (50, probe_len(task, 7))
    x, y = ids[:, 1:8], ids[:, -answer:-1]
    assert (y == (x if task == "copy" else x[:, ::-1])).all()
    assert (ids[:, [0, 8, -1]] == [SYMBOLS.end, SYMBOLS.separator, SYMBOLS.end]).all()
    assert set(np.unique(x)) == set(SYMBOLS.alphabet)


def test_sums():
    ids, answer = draw("add", 5, 50)
    assert ids.shape == (50, probe_len("add", 5))
    for row in ids:
        text = TOKENIZER.decode_bytes([int(i) for i in row[1:-1]]).decode()
        terms, total = text.split("=")
        a, b = terms.split("+")
        assert int(a[::-1]) + int(b[::-1]) == int(total[::-1])
        assert (len(a), len(b), len(total), answer) == (5, 5, 6, 7)


def test_parts_of_the_alphabet():
    ids, _ = draw("copy", 64, 200, smallest=2)
    sizes = [len(np.unique(row[1:65])) for row in ids]
    assert (min(sizes), max(sizes)) == (2, 4)
    assert set(np.unique(ids[:, 1:65])) == set(SYMBOLS.alphabet)
    same, _ = draw("copy", 64, 200, smallest=2)
    assert (ids == same).all()


def test_no_repeats():
    ids, _ = draw("copy", 4, 100, smallest=0)
    assert (np.sort(ids[:, 1:5]) == SYMBOLS.alphabet).all()
    assert len(np.unique(ids[:, 1:5], axis=0)) > 12  # of 24 orders
    with pytest.raises(ValueError, match="5 symbols without repeats need an alphabet that large, not of 4"):
        draw("copy", 5, 1, smallest=0)


class Answers:
    """A model that knows the answers, but for the ids it is told to get wrong."""

    training = False
    embedding = torch.zeros(1)

    class architecture:
        num_heads = 1 << 14  # so that few rows go at once

    def __init__(self, ids, wrong=()):
        self.next = {tuple(row[: n + 1]): row[n + 1] for row in ids.tolist() for n in range(len(row) - 1)}
        for row, place in wrong:
            self.next[tuple(ids[row, : place + 1].tolist())] = 0

    def eval(self): ...
    def train(self, mode): ...

    def __call__(self, ids):
        answers = [[self.next[tuple(row[: n + 1])] for n in range(len(row))] for row in ids.tolist()]
        return torch.nn.functional.one_hot(torch.tensor(answers), TOKENIZER.vocab_size).float()

    def logits(self, hidden):
        return hidden


def test_one_wrong_id_makes_a_sequence_wrong():
    probes = draw("reverse", 6, 8)
    assert score(Answers(probes.ids), probes) == (1.0, 1.0)
    last = probes.ids.shape[1] - 2  # what follows is the end
    found = score(Answers(probes.ids, [(0, 7), (0, 9), (3, last)]), probes)
    assert found.exact == 6 / 8
    assert found.symbols == pytest.approx(1 - 3 / (8 * 7))
    assert score(Answers(probes.ids, [(0, 2)]), probes).exact == 1  # the input is nobody's answer


def test_exact_is_what_greedy_decoding_writes():
    """A model that has half learned to copy: the rows that count as exact are those which decoding gets right."""
    probes = draw("copy", 2, 32)
    model = Transformer(
        ModelConfig(dim=32, num_layers=2, num_heads=2, head_dim=16, ffn_dim=64).resolve(TOKENIZER.vocab_size)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    ids = torch.from_numpy(probes.ids)
    targets = ids[:, 1:].clone()
    targets[:, : -probes.answer] = -100
    for _ in range(40):
        loss = model.loss(ids[:, :-1], targets).objective
        optimizer.zero_grad()
        (loss / 96).backward()
        optimizer.step()
        found = score(model, probes)
        if 0.2 < found.exact < 0.8:
            break
    assert 0.2 < found.exact < 0.8
    right, writer = 0, Model(model, TOKENIZER, live=True)
    for row in probes.ids.tolist():
        greedy = SampleConfig(temperature=0.0, max_tokens=probes.answer, repetition_penalty=0.0)
        request = writer.request(row[: -probes.answer], greedy, ends=())
        written = [event.token for event in writer._engine_for([request]).submit(request).events()]
        right += written == row[-probes.answer :]
    assert right == found.exact * 32


def test_same_seed_same_score():
    model = Transformer(ModelConfig(dim=8, num_layers=1, num_heads=2, head_dim=4, ffn_dim=8).resolve(300))
    first, second = (extrapolation(model, "reverse", (3, 5), 4, SYMBOLS, repeats=True) for _ in range(2))
    assert first == second
    assert list(first) == [3, 5]


def test_collisions():
    """Against a count: pairs of places (j ≠ i) whose windows of two symbols are the same."""
    rng, length, size = np.random.default_rng(1), 40, 5
    counts = []
    for _ in range(300):
        x = rng.integers(0, size, length + 1)
        pairs = x[:-1] * size + x[1:]
        counts.append((pairs[:, None] == pairs).sum() - length)
    assert np.mean(counts) == pytest.approx(collisions(length, size, 2), rel=0.05)
