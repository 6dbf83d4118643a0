"""``congling report RUN``: one self-contained page about a run, finished or under way."""

from pathlib import Path

from congling.artifact import atomic_write
from congling.report import learning, life
from congling.report.data import RunView, read_run
from congling.report.html import join, page
from congling.reporter import Reporter

PAGE = "report.html"


def run(run_dir: Path, reporter: Reporter) -> Path:
    """Writes ``report.html`` into the run folder; returns its path. Raises ValueError when that is no run folder."""
    view = read_run(run_dir)
    for stage in view.stages.values():
        if stage.problem:
            reporter.warn(stage.problem)
    file = run_dir / PAGE
    atomic_write(file, _page(view).encode("utf-8", "replace"))
    return file


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
    return page(view.name, life.header(view), join(parts))
