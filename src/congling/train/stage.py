"""Training as a stage: what pretraining, tuning and probes do alike around the loop."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from congling.artifact import Stage
from congling.model.folder import save_model
from congling.model.transformer import Transformer
from congling.reporter import Metrics, Reporter
from congling.train.checkpoint import Checkpoints
from congling.train.config import LoopConfig
from congling.train.data import Batch, BatchSource
from congling.train.distributed import World
from congling.train.loop import Job, Trainer


def train_stage(
    stage: Stage,
    reporter: Reporter,
    config: LoopConfig,
    model: Transformer,
    source: BatchSource,
    *,
    vocabulary: Path,
    token_bytes: NDArray[np.int32],
    valid: Callable[[], Iterable[Batch]],
    sample: Callable[[str], str],
    world: World,
) -> dict[str, Any]:
    """Trains ``model`` from the stage's newest checkpoint to the end and leaves a model folder; returns the summary of
    ``Trainer.run``.

    vocabulary: the file that belongs to the model. token_bytes, valid, sample: as in ``Job``.
    """
    job = Job(
        model=model,
        source=source,
        config=config,
        checkpoints=Checkpoints(
            stage.path / "checkpoints",
            source.fingerprint,
            config.keep_checkpoints,
            architecture=model.architecture,
            vocabulary=vocabulary,
            stage=stage.name,
        ),
        reporter=reporter,
        metrics=Metrics(stage.metrics),
        token_bytes=token_bytes,
        valid=valid,
        sample=sample,
        label=stage.name,
        seed=stage.seed,
        world=world,
    )
    summary = Trainer(job).run()
    weights = world.full_state(model)
    if weights is not None:
        save_model(stage.path, model, vocabulary, weights)
    return summary
