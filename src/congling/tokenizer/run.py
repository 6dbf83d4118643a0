"""Stage ``tokenizer``: corpus → ``vocabulary.txt``. What each pass and round found is kept until the end, so a killed
run goes on from there and ends with the same bytes."""

from pathlib import Path
from typing import Any

from congling.artifact import Stage
from congling.reporter import Bar, Metrics, Reporter
from congling.tokenizer import vocabulary
from congling.tokenizer.candidates import Grams, find_candidates, load_grams, save_grams
from congling.tokenizer.config import TokenizerConfig
from congling.tokenizer.passes import Corpus
from congling.tokenizer.tokenizer import FILE
from congling.tokenizer.train import State, Trainer, load_state, save_state

_GRAMS, _STATE = "candidates.npz", "round.npz"


def run(stage: Stage, reporter: Reporter, config: TokenizerConfig) -> dict[str, Any]:
    """Learns a vocabulary from the corpus of the clean stage. Raises ValueError when the corpus is too small."""
    folder = stage.inputs["clean"]
    grams = _candidates(stage, reporter, config, folder)
    with reporter.progress("tokenizer: segment and count", None, "bytes") as bar:
        corpus = Corpus.of_stage(folder, bar, config.threads, config.executor)
        trainer = Trainer(grams, config, corpus, stage.seed)
        state = _rounds(stage, trainer, bar)
    vocabulary.write(trainer.vocabulary(state), stage.path / FILE)
    for name in (_STATE, _GRAMS):  # in this order: candidates without a state are passes to go on from
        (stage.path / name).unlink(missing_ok=True)
    return {
        "size": config.vocab_size,
        "rounds": state.round,
        "candidates": len(grams),
        "pieces_by_length": trainer.pieces_by_length(state),
        "bytes_per_token": state.bytes_per_token,
    }


def _candidates(stage: Stage, reporter: Reporter, config: TokenizerConfig, folder: Path) -> Grams:
    """The frequent n-grams; saved after each pass."""
    saved = stage.path / _GRAMS
    begun = grams = load_grams(saved) if saved.exists() else None
    with reporter.progress("tokenizer: candidates", None, "bytes") as bar:
        corpus = Corpus.of_stage(folder, bar, config.threads, config.executor)
        options = config.joining, config.max_piece_length, config.min_frequency, config.min_count, config.always
        for grams in find_candidates(corpus, *options, begun):
            save_grams(grams, saved)
            bar.advance(0, note=f"{len(grams)} of 1 … {grams.passes} characters")
    assert grams is not None
    return grams


def _rounds(stage: Stage, trainer: Trainer, bar: Bar) -> State:
    """Round after round; the state is saved after each."""
    metrics, saved = Metrics(stage.metrics), stage.path / _STATE
    state = load_state(saved) if saved.exists() else trainer.first_state()
    metrics.rewind(state.round)
    for now in trainer.rounds(state):
        state = now
        values = {"pieces_by_length": trainer.pieces_by_length(state), "bytes_per_token": state.bytes_per_token}
        metrics.write("round", step=state.round, pieces=state.size, **values)
        save_state(state, saved)
        bar.advance(0, note=f"round {state.round}: {state.size} pieces, {state.bytes_per_token:.3f} bytes a token")
    return state
