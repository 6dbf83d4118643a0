"""``congling serve MODEL``."""

from pathlib import Path

import uvicorn

from congling.infer.config import SampleConfig
from congling.infer.model import Model
from congling.reporter import Reporter
from congling.serve.app import create_app
from congling.serve.config import ServeConfig
from congling.serve.listener import listening


def run(folder: Path, config: ServeConfig, reporter: Reporter, defaults: SampleConfig | None = None) -> None:
    """Serves the model until the process is told to stop; a request under way is finished first.

    Raises OSError in one line when the port is taken, ArtifactError when the folder holds no model.
    """
    model = Model.load(folder)
    if not model.tuned:
        reporter.warn(f"{folder} is a base model: it was never taught to answer; the chat model is in the sft folder")
    with listening(config.host, config.port, "serve") as (listener, address):
        reporter.line(f"chat page: {address}/   OpenAI API: {address}/v1   Ctrl-C stops")
        settings = uvicorn.Config(
            create_app(model, config, defaults), log_level="warning", timeout_graceful_shutdown=10
        )
        uvicorn.Server(settings).run(sockets=[listener])
