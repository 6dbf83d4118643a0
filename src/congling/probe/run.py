"""Stage ``probe``: a small model that learns to copy, reverse or add, and how far beyond its lengths it goes on."""

from typing import Any

from congling import artifact
from congling.artifact import Stage
from congling.evaluate.probes import Symbols, extrapolation, table
from congling.model.config import ModelConfig
from congling.model.folder import VOCABULARY
from congling.model.transformer import Transformer
from congling.probe.config import ProbeConfig
from congling.probe.data import ProbeRows
from congling.reporter import Reporter
from congling.tokenizer.tokenizer import Tokenizer
from congling.tokenizer.vocabulary import Vocabulary
from congling.train.distributed import World
from congling.train.stage import train_stage

_FIRST_SYMBOL = "\u4e00"  # symbols are Chinese characters, so that a probe can be read as text


def run(stage: Stage, reporter: Reporter, model_config: ModelConfig, config: ProbeConfig) -> dict[str, Any]:
    """Trains on ``config.task``, leaves a model folder, its checkpoints and ``probes.json``; shows the table."""
    tokenizer = probe_tokenizer(config.alphabet)
    tokenizer.save(stage.path / VOCABULARY)
    symbols = Symbols.of(tokenizer, config.alphabet)
    world = World.start()
    model = Transformer(model_config.resolve(tokenizer.vocab_size), stage.seed).to(world.device)
    source = ProbeRows(config, symbols, stage.seed)
    summary = train_stage(
        stage,
        reporter,
        config,
        model,
        source,
        vocabulary=stage.path / VOCABULARY,
        token_bytes=tokenizer.token_bytes,
        valid=lambda: source.valid(config.lengths[-1]),
        sample=lambda prompt: "",
        world=world,
    )
    found = extrapolation(model, config.task, config.probe_lengths, config.probe_sequences, symbols, config.repeats)
    for line in table(config.task, found):
        reporter.line(line)
    figures = {str(length): score._asdict() for length, score in found.items()}
    artifact.write_json(stage.path / "probes.json", {config.task: figures})
    return {**summary, "task": config.task, "position": model.architecture.position, "probes": figures}


def probe_tokenizer(alphabet: int) -> Tokenizer:
    """Special ids, bytes, and ``alphabet`` pieces of one character."""
    pieces = [chr(ord(_FIRST_SYMBOL) + n) for n in range(alphabet)]
    return Tokenizer(Vocabulary("congling", pieces, [-1_000_000] * alphabet, [1] * alphabet))
