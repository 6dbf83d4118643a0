"""Stage ``pretrain``: tokens → base model."""

from typing import Any

from congling.artifact import Stage
from congling.corpus.tokens import TokenDataset
from congling.evaluate.bits import windows
from congling.infer.config import SampleConfig
from congling.infer.model import Model
from congling.model.config import ModelConfig
from congling.model.folder import VOCABULARY
from congling.model.transformer import Transformer
from congling.pretrain.config import PretrainConfig
from congling.reporter import Reporter, human
from congling.tokenizer.tokenizer import Tokenizer
from congling.train.data import TokenWindows
from congling.train.distributed import World
from congling.train.stage import train_stage


def run(
    stage: Stage, reporter: Reporter, model_config: ModelConfig, config: PretrainConfig, world: World | None = None
) -> dict[str, Any]:
    """Trains a model from nothing on the tokens of the tokenize stage; leaves a model folder and its checkpoints.

    world: the processes that train it together; None: this one.
    """
    tokens = stage.inputs["tokenize"]
    tokenizer = Tokenizer.load(tokens / VOCABULARY)
    world = world or World.start()
    model = Transformer(model_config.resolve(tokenizer.vocab_size), stage.seed).to(world.device)
    longest, end_id = config.lengths[-1], tokenizer.end_id if config.documents == "separate" else None
    source = TokenWindows(TokenDataset(tokens, "train"), longest, stage.seed, end_id, tokenizer.vocab_size)
    held_out = TokenDataset(tokens, "valid")
    held_out.check_ids(tokenizer.vocab_size)
    windows(held_out, longest, config.valid_tokens, end_id)  # too few tokens: said now, not after hours
    writer = Model(model, tokenizer, live=True)
    sampling = SampleConfig(temperature=0.8, max_tokens=config.sample_tokens, seed=stage.seed)
    epochs = config.tokens / source.epoch_tokens
    size = human(sum(p.numel() for p in model.parameters()))
    where = f"{world.size} × {world.device.type}" if world.size > 1 else world.device.type
    reporter.line(f"pretrain: {size} parameters on {where}, {epochs:.2f} epochs of {human(source.epoch_tokens)} tokens")
    summary = train_stage(
        stage,
        reporter,
        config,
        model,
        source,
        vocabulary=tokens / VOCABULARY,
        token_bytes=tokenizer.token_bytes,
        valid=lambda: windows(held_out, longest, config.valid_tokens, end_id),
        sample=lambda prompt: writer.generate(prompt, sampling),
        world=world,
    )
    return {**summary, "epochs": epochs, "device": world.device.type}
