"""``congling serve MODEL``."""

from pathlib import Path

from congling.infer.config import EngineConfig, SampleConfig
from congling.infer.model import Model
from congling.reporter import Reporter
from congling.serve.app import create_app
from congling.serve.config import ServeConfig
from congling.serve.listener import listening
from congling.serve.server import Server


def run(
    folder: Path,
    config: ServeConfig,
    reporter: Reporter,
    defaults: SampleConfig | None = None,
    engine: EngineConfig | None = None,
) -> None:
    """Serves the model until the process is told to stop (SIGTERM, Ctrl-C); answers under way are finished first.

    Raises OSError in one line when the port is taken, ArtifactError when the folder holds no model.
    """
    model = Model.load(folder, engine=engine)
    if not model.tuned:
        reporter.warn(f"{folder} is a base model: it continues text, but refuses to chat; the chat model is in sft")
    with listening(config.host, config.port, "serve") as (listener, address):
        hello = f"chat page: {address}/   OpenAI API: {address}/v1   Ctrl-C stops"
        app = create_app(model, config, defaults)
        warm_up(model)
        Server(app, config, lambda: reporter.line(hello)).run(sockets=[listener])
    reporter.line("stopped")


def warm_up(model: Model) -> None:
    """Compiles and loads what the first visitor would else wait for."""
    model.generate("你好", SampleConfig(max_tokens=2))
