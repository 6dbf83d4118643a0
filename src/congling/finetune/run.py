"""Stage ``sft``: base model and dialogues → chat model. The loop is the one of pretraining."""

from pathlib import Path
from typing import Any

from congling.artifact import Stage
from congling.corpus.readers import find_files
from congling.finetune.config import SftConfig
from congling.finetune.data import PackedDialogues, load_dialogues, valid_batches
from congling.infer.config import SampleConfig
from congling.infer.model import Model
from congling.model.folder import VOCABULARY, load_model
from congling.reporter import Reporter
from congling.tokenizer.tokenizer import Tokenizer
from congling.train.distributed import World
from congling.train.stage import train_stage


def run(stage: Stage, reporter: Reporter, config: SftConfig, world: World | None = None) -> dict[str, Any]:
    """Tunes the base model on dialogues; leaves a model folder and its checkpoints.

    world: the processes that train it together; None: this one.
    """
    base, row_len = stage.inputs["pretrain"], config.lengths[0]
    tokenizer = Tokenizer.load(base / VOCABULARY)
    dialogues = load_dialogues(_files(stage, config), tokenizer, row_len, config.valid_share)
    source = PackedDialogues(dialogues.train, row_len, stage.seed, tokenizer.pad_id)
    epoch_tokens = source.num_rows * row_len
    if config.epochs is not None:
        config = config.model_copy(update={"tokens": max(round(config.epochs * epoch_tokens), 1)})
    reporter.line(
        f"sft: {len(dialogues.train)} dialogues in {source.num_rows} rows of {row_len} tokens, "
        f"{config.tokens / epoch_tokens:.2f} epochs; cut {dialogues.cut}, left out {dialogues.too_long} too long "
        f"and {dialogues.silent} without assistant text"
    )
    world = world or World.start()
    model = load_model(base, str(world.device))
    writer = Model(model, tokenizer, live=True)
    sampling = SampleConfig(temperature=0.3, max_tokens=config.sample_tokens, seed=stage.seed)
    summary = train_stage(
        stage,
        reporter,
        config,
        model,
        source,
        vocabulary=base / VOCABULARY,
        token_bytes=tokenizer.token_bytes,
        valid=lambda: valid_batches(dialogues.valid, row_len, tokenizer.pad_id, config.valid_tokens),
        sample=lambda prompt: writer.chat([{"role": "user", "content": prompt}], sampling),
        world=world,
    )
    return {
        **summary,
        "epochs": config.tokens / epoch_tokens,
        "dialogues": len(dialogues.train),
        "held_out": len(dialogues.valid),
        "cut": dialogues.cut,
        "too_long": dialogues.too_long,
        "silent": dialogues.silent,
    }


def _files(stage: Stage, config: SftConfig) -> list[Path]:
    if config.input:
        return find_files(config.input)
    return find_files([str(stage.inputs["fetch"] / "dialogues")])
