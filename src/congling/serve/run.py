"""``congling serve MODEL``."""

import socket
from pathlib import Path

import uvicorn

from congling.infer.config import SampleConfig
from congling.infer.model import Model
from congling.reporter import Reporter
from congling.serve.app import create_app
from congling.serve.config import ServeConfig


def run(folder: Path, config: ServeConfig, reporter: Reporter, defaults: SampleConfig | None = None) -> None:
    """Serves the model until the process is told to stop; a request under way is finished first.

    Raises OSError in one line when the port is taken, ArtifactError when the folder holds no model.
    """
    model = Model.load(folder)
    if not model.tuned:
        reporter.warn(f"{folder} is a base model: it was never taught to answer; the chat model is in the sft folder")
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((config.host, config.port))
        except OSError as error:
            raise OSError(
                error.errno, f"port {config.port} at {config.host}: {error.strerror}; set serve.port"
            ) from None
        port = listener.getsockname()[1]
        shown = f"[{config.host}]" if ":" in config.host else config.host
        reporter.line(f"chat page: http://{shown}:{port}/   OpenAI API: http://{shown}:{port}/v1   Ctrl-C stops")
        settings = uvicorn.Config(
            create_app(model, config, defaults), log_level="warning", timeout_graceful_shutdown=10
        )
        uvicorn.Server(settings).run(sockets=[listener])
