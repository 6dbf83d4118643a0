import numpy as np
import pytest
import torch

from congling.artifact import Stage
from congling.config import result_key
from congling.corpus.tokens import TokenDataset, TokenWriter
from congling.evaluate.bits import bits_per_byte, windows
from congling.model.config import ModelConfig
from congling.model.folder import load_model
from congling.model.loss import LossSum
from congling.pretrain.config import PretrainConfig
from congling.pretrain.run import run
from congling.reporter import Reporter, read_metrics
from congling.tokenizer.tokenizer import Tokenizer
from congling.tokenizer.vocabulary import Vocabulary

MODEL = ModelConfig(dim=16, num_layers=1, num_heads=2, head_dim=8, ffn_dim=32)
CONFIG = PretrainConfig(
    tokens=512,
    lengths=(8, 16),
    batch_tokens=64,
    micro_batch_tokens=32,
    warmup_steps=1,
    valid_tokens=64,
    sample_tokens=3,
    checkpoint_every=4,
)


@pytest.fixture
def tokens(tmp_path):
    """A finished tokenize stage: 60 documents of one sentence, 10 of them held out."""
    tokenizer = Tokenizer(Vocabulary("congling", ["天黑", "下雨", "了"], [-1_000_000] * 3, [9] * 3))
    folder = tmp_path / "tokenize"
    tokenizer.save(folder / "vocabulary.txt")
    ids = np.array([*tokenizer.encode("天黑了，下雨了。"), tokenizer.end_id], np.uint16)
    for split, count in (("train", 50), ("valid", 10)):
        with TokenWriter(folder, split, np.uint16) as writer:
            writer.write(np.tile(ids, count), np.arange(count + 1, dtype=np.int64) * len(ids))
    return folder


def stage(tmp_path, tokens) -> Stage:
    path = tmp_path / "pretrain"
    path.mkdir(exist_ok=True)
    return Stage("pretrain", path, {"tokenize": tokens}, 1, "key", False)


@pytest.mark.parametrize("documents", ["together", "separate"])
def test_leaves_a_model_that_learned(tmp_path, tokens, documents):
    here = stage(tmp_path, tokens)
    summary = run(here, Reporter(quiet=True), MODEL, CONFIG.model_copy(update={"documents": documents, "lr": 1e-2}))
    assert (summary["steps"], summary["tokens"]) == (8, 512)
    model = load_model(here.path)
    tokenizer = Tokenizer.load(here.path / "vocabulary.txt")
    assert model.architecture.vocab_size == tokenizer.vocab_size
    valid = TokenDataset(tokens, "valid")
    fresh = type(model)(model.architecture, seed=1)
    before, _ = bits_per_byte(fresh, valid, tokenizer.token_bytes, 16, 64)
    after, nats = bits_per_byte(model, valid, tokenizer.token_bytes, 16, 64)
    assert after < before
    assert nats < np.log(tokenizer.vocab_size)
    kinds = {row["kind"] for row in read_metrics(here.metrics)}
    assert kinds == {"train", "valid", "sample"}
    assert (here.path / "checkpoints" / "step-0000004").is_dir()  # the last of length 8


def test_bits_count_raw_bytes(tmp_path, tokens):
    """A model that gives every id the same probability costs log2(V) bits a token, whatever the bytes."""
    tokenizer = Tokenizer.load(tokens)
    size = tokenizer.vocab_size
    valid = TokenDataset(tokens, "valid")

    class Uniform(torch.nn.Module):
        embedding = torch.zeros(1)

        def loss(self, ids, targets, documents=None):
            nats = torch.tensor(targets.numel() * float(np.log(size)))
            return LossSum(nats, nats, torch.tensor(targets.numel()))

    found, nats = bits_per_byte(Uniform(), valid, tokenizer.token_bytes, 16, 1000)
    targets = valid.read(0, (valid.total - 1) // 16 * 16 + 1)[1:]
    num_bytes = sum(len(tokenizer.decode_bytes([int(t)])) for t in targets if t != tokenizer.end_id)
    assert nats == pytest.approx(np.log(size))
    assert found == pytest.approx(len(targets) * np.log2(size) / num_bytes)
    assert sum(batch.ids.numel() for batch in windows(valid, 16, 40)) == 32  # whole windows, at most 40 tokens


@pytest.mark.parametrize(
    ("length", "message"), [(4096, "too few for one sequence of 4096"), (256, "held-out tokens are too few")]
)
def test_too_little_text_is_said_at_once(tmp_path, tokens, length, message):
    config = CONFIG.model_copy(update={"lengths": (length,), "batch_tokens": 4096, "micro_batch_tokens": 4096})
    with pytest.raises(ValueError, match=message):
        run(stage(tmp_path, tokens), Reporter(quiet=True), MODEL, config)
    assert not read_metrics(tmp_path / "pretrain" / "metrics.jsonl")


def test_tokens_of_another_vocabulary_are_refused(tmp_path, tokens):
    ids = np.array([5, 9999, 1], np.uint16)
    with TokenWriter(tokens, "train", np.uint16) as writer:
        writer.write(np.tile(ids, 300), np.arange(301, dtype=np.int64) * 3)
    with pytest.raises(ValueError, match=r"train-00000\.bin: token id 9999, but the vocabulary beside it has 275 ids"):
        run(stage(tmp_path, tokens), Reporter(quiet=True), MODEL, CONFIG)


def test_display_is_not_part_of_the_result():
    shown = CONFIG.model_copy(update={"sample_every": 1, "valid_every": 1, "checkpoint_seconds": 1.0, "log_every": 1})
    assert result_key(shown) == result_key(CONFIG)
    assert result_key(CONFIG.model_copy(update={"micro_batch_tokens": 64})) != result_key(CONFIG)
