"""Stage ``tokenizer``: corpus → ``vocabulary.txt``. A state is kept after each round, so a killed run goes on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from congling.artifact import Stage
from congling.corpus.documents import text_buffers
from congling.corpus.shards import read_shards
from congling.reporter import Metrics, Reporter
from congling.tokenizer import vocabulary
from congling.tokenizer.config import TokenizerConfig
from congling.tokenizer.kernels import Bytes, Longs
from congling.tokenizer.tokenizer import FILE
from congling.tokenizer.train import Trainer, load_state, save_state

_STATE = "round.npz"


def run(stage: Stage, reporter: Reporter, config: TokenizerConfig) -> dict[str, Any]:
    """Learns a vocabulary from the corpus of the clean stage."""

    def corpus() -> Iterator[tuple[Bytes, Longs]]:
        return corpus_buffers(stage.inputs["clean"])

    metrics, saved = Metrics(stage.metrics), stage.path / _STATE
    trainer = Trainer.start(corpus, config, stage.seed)
    state = load_state(saved) if saved.exists() else trainer.first_state()
    metrics.rewind(state.round)
    pieces = int(state.alive.sum())
    reporter.line(f"tokenizer: {pieces} candidates for {trainer.target} pieces")
    bytes_per_token = 0.0
    with reporter.progress("tokenizer", None, "rounds", state.round) as bar:
        for now, bytes_per_token in trainer.rounds(state):
            state = now
            save_state(state, saved)
            lengths, pieces = trainer.pieces_by_length(state), int(state.alive.sum())
            metrics.write(
                "round", step=state.round, pieces=pieces, pieces_by_length=lengths, bytes_per_token=bytes_per_token
            )
            bar.advance(1, note=f"{pieces} pieces, {bytes_per_token:.3f} bytes a token")
    vocabulary.write(trainer.vocabulary(state), stage.path / FILE)
    saved.unlink(missing_ok=True)
    return {
        "size": config.vocab_size,
        "rounds": state.round,
        "pieces_by_length": trainer.pieces_by_length(state),
        "bytes_per_token": bytes_per_token,
    }


def corpus_buffers(folder: Path) -> Iterator[tuple[Bytes, Longs]]:
    """(bytes, offsets) of the corpus, a batch of documents at a time."""
    for batch in read_shards(folder, "corpus", ["text"]):
        yield text_buffers(batch.column("text"))
