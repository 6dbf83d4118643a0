"""``congling report RUN``: one self-contained page about a run, finished or under way."""

import base64
import hashlib
from importlib.resources import files
from pathlib import Path
from string import Template

from congling.artifact import atomic_write
from congling.report import learning, life
from congling.report.data import RunView, read_run
from congling.report.html import join
from congling.reporter import Reporter

PAGE = "report.html"


def run(run_dir: Path, reporter: Reporter) -> Path:
    """Writes ``report.html`` into the run folder; returns its path. Raises ValueError when that is no run folder."""
    view = read_run(run_dir)
    for stage in view.stages.values():
        if stage.problem:
            reporter.warn(stage.problem)
    page = run_dir / PAGE
    atomic_write(page, _page(view).encode("utf-8", "replace"))
    return page


def build(run_dir: Path) -> str:
    """The page as HTML. Raises ValueError when ``run_dir`` is no run folder."""
    return _page(read_run(run_dir))


def _page(view: RunView) -> str:
    parts = [
        life.strip(view),
        life.cleaning(view),
        life.vocabulary(view),
        learning.training(view.stages["pretrain"]),
        learning.training(view.stages["sft"]),
        learning.evaluation(view),
        life.times(view),
        life.lineage(view),
    ]
    script = _resource("page.js")
    return Template(_resource("page.html")).substitute(
        title=join([view.name]),
        style=_resource("page.css"),
        script=script,
        # The only script that may run is ours, and nothing may be loaded: a second wall behind the escaping.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        header=life.header(view),
        body=join(parts),
    )


def _resource(name: str) -> str:
    return files("congling.report").joinpath(name).read_text(encoding="utf-8")
