"""Stage ``pretrain``: tokens → base model."""

from typing import Any

import torch

from congling.artifact import Stage
from congling.corpus.tokens import TokenDataset
from congling.evaluate.bits import windows
from congling.infer.config import SampleConfig
from congling.infer.model import Model
from congling.model.config import ModelConfig
from congling.model.folder import VOCABULARY, save_model
from congling.model.transformer import Transformer
from congling.pretrain.config import PretrainConfig
from congling.reporter import Metrics, Reporter, human
from congling.tokenizer.tokenizer import Tokenizer
from congling.train.checkpoint import Checkpoints
from congling.train.data import TokenWindows
from congling.train.loop import Job, Trainer


def run(stage: Stage, reporter: Reporter, model_config: ModelConfig, config: PretrainConfig) -> dict[str, Any]:
    """Trains a model from nothing on the tokens of the tokenize stage; leaves a model folder and its checkpoints."""
    tokens = stage.inputs["tokenize"]
    tokenizer = Tokenizer.load(tokens / VOCABULARY)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Transformer(model_config.resolve(tokenizer.vocab_size), stage.seed).to(device)
    longest, end_id = config.lengths[-1], tokenizer.end_id if config.documents == "separate" else None
    source = TokenWindows(TokenDataset(tokens, "train"), longest, stage.seed, end_id)
    held_out = TokenDataset(tokens, "valid")
    windows(held_out, longest, config.valid_tokens, end_id)  # too few tokens: said now, not after hours
    writer = Model(model, tokenizer)
    sampling = SampleConfig(temperature=0.8, max_tokens=config.sample_tokens, seed=stage.seed)
    epochs = config.tokens / source.epoch_tokens
    size = human(sum(p.numel() for p in model.parameters()))
    reporter.line(
        f"pretrain: {size} parameters on {device}, {epochs:.2f} epochs of {human(source.epoch_tokens)} tokens"
    )
    job = Job(
        model=model,
        source=source,
        config=config,
        checkpoints=Checkpoints(stage.path / "checkpoints", source.fingerprint, config.keep_checkpoints),
        reporter=reporter,
        metrics=Metrics(stage.metrics),
        token_bytes=tokenizer.token_bytes,
        valid=lambda: windows(held_out, longest, config.valid_tokens, end_id),
        sample=lambda prompt: writer.generate(prompt, sampling),
        label="pretrain",
        seed=stage.seed,
    )
    summary = Trainer(job).run()
    save_model(stage.path, model, tokens / VOCABULARY)
    return {**summary, "epochs": epochs, "device": device}
