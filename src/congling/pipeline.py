"""The life of a model as a table of stages, and the one function that runs a stage.

Data flows only through folders: a stage reads finished stages and writes its own folder (see docs/architecture.md).
"""

import contextlib
import os
import resource
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from congling import artifact
from congling.artifact import Stage
from congling.config import Config, ConfigError
from congling.recipe import Recipe
from congling.reporter import Reporter, duration, human

if TYPE_CHECKING:
    from congling.train.distributed import World

_Begin = Callable[[], AbstractContextManager[tuple[Stage | None, dict[str, Any]]]]  # artifact.stage, all filled in


@dataclass(frozen=True)
class StageSpec:
    """A row of the table. ``function`` is imported only when the stage runs."""

    name: str
    function: str  # "module:function"
    sections: tuple[str, ...]  # of the recipe, passed to the function in this order
    inputs: tuple[str, ...]  # stages it always reads
    user_files: str | None = None  # section.field of files that the user may give in place of the fetched ones
    keep_old: bool = False  # a finished result with another key is set aside
    side_files: tuple[str, ...] = ()  # section.field of files or folders that shape the result beside the input
    together: bool = False  # several processes of torchrun may do it: the function takes a ``world``


STAGES = (
    StageSpec("fetch", "congling.corpus.fetch.run:run", ("fetch",), ()),
    StageSpec(
        "clean",
        "congling.clean.run:run",
        ("clean",),
        (),
        "clean.input",
        side_files=("clean.lexicon", "clean.advert_list", "clean.labels", "clean.decontaminate", "clean.teacher"),
    ),
    StageSpec("tokenizer", "congling.tokenizer.run:run", ("tokenizer",), ("clean",)),
    StageSpec("tokenize", "congling.tokenizer.tokenize:run", ("tokenize",), ("clean", "tokenizer")),
    StageSpec(
        "pretrain", "congling.pretrain.run:run", ("model", "pretrain"), ("tokenize",), keep_old=True, together=True
    ),
    StageSpec("sft", "congling.finetune.run:run", ("sft",), ("pretrain",), "sft.input", keep_old=True, together=True),
    StageSpec(
        "evaluate", "congling.evaluate.run:run", ("evaluate",), ("tokenize", "pretrain", "sft"), "evaluate.questions"
    ),
)
PROBE = StageSpec("probe", "congling.probe.run:run", ("model", "probe"), (), keep_old=True)  # no part of a life
SPECS = {spec.name: spec for spec in (*STAGES, PROBE)}


def stage_folder(recipe: Recipe, name: str) -> Path:
    """Where the stage's result lies; fetched data sets are shared by all runs."""
    if name == "fetch":
        return Path(recipe.run.data) / recipe.fetch.dataset.replace("/", "--")
    return Path(recipe.run.dir) / recipe.run.name / name


def run_stage(recipe: Recipe, name: str, reporter: Reporter) -> dict[str, Any]:
    """Runs one stage unless it is already done; returns its manifest. Its inputs must be finished."""
    _refuse_dry_runs(recipe, [name])
    spec = SPECS[name]
    folder = stage_folder(recipe, name)
    sections: dict[str, Config] = {s: getattr(recipe, s) for s in spec.sections}
    raw = _user_files(recipe, spec)
    inputs = {i: stage_folder(recipe, i) for i in spec.inputs}
    if spec.user_files and "files" not in raw:
        inputs["fetch"] = stage_folder(recipe, "fetch")
    seed = 0 if name == "fetch" else recipe.run.seed
    begin = partial(artifact.stage, folder, name, sections, inputs, seed, raw=raw, keep_old=spec.keep_old)
    if ranks() > 1:
        return _run_together(spec, begin, Stage(name, folder, inputs, seed, "", True), sections, reporter)
    with begin() as (stage, summary):
        if stage is None:
            reporter.line(f"{name}: already done in {folder}")
            return summary
        summary.update(_work(spec, stage, sections, reporter))
    return _done(folder, name, reporter)


def _run_together(
    spec: StageSpec, begin: _Begin, others: Stage, sections: dict[str, Config], reporter: Reporter
) -> dict[str, Any]:
    """The stage on every process that torchrun started: rank 0 keeps the folder, the others only compute."""
    if not spec.together:
        able = " and ".join(s.name for s in STAGES if s.together)
        raise ConfigError(f"congling {spec.name} under torchrun: only {able} run on several processes; leave it out")
    from congling.train.distributed import World

    world = World.start()
    if world.is_main:
        with begin() as (stage, found):
            if world.any(stage is not None):
                assert stage is not None
                found.update(_work(spec, stage, sections, reporter, world))
            else:
                reporter.line(f"{spec.name}: already done in {others.path}")
    elif world.any(False):
        _work(spec, others, sections, Reporter(quiet=True), world)
    world.close()
    return _done(others.path, spec.name, reporter) if world.is_main else artifact.read_manifest(others.path)


def _work(
    spec: StageSpec, stage: Stage, sections: dict[str, Config], reporter: Reporter, world: "World | None" = None
) -> dict[str, Any]:
    """What the stage's function returns, and the memory that it took."""
    reporter.line(f"{spec.name}: {'goes on' if stage.resumed else 'begins'} in {stage.path}")
    reset_peak_memory()
    extra = {} if world is None else {"world": world}
    return {**_function(spec)(stage, reporter, *sections.values(), **extra), "peak_memory": peak_memory()}


def _done(folder: Path, name: str, reporter: Reporter) -> dict[str, Any]:
    manifest = artifact.read_manifest(folder)
    memory = human(manifest["summary"]["peak_memory"])
    reporter.line(f"{name}: done in {duration(manifest['seconds'])}, peak memory {memory}B")
    return manifest


def ranks() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process is the one that prints."""
    return os.environ.get("RANK", "0") == "0"


def run_all(recipe: Recipe, reporter: Reporter) -> dict[str, dict[str, Any]]:
    """Runs the stages from ``run.from`` to ``run.to``; returns their manifests. Finished ones are skipped."""
    names = [spec.name for spec in STAGES]
    first, last = names.index(recipe.run.first), names.index(recipe.run.last)
    if first > last:
        raise ValueError(f"run.from = {recipe.run.first} comes after run.to = {recipe.run.last}")
    wanted = names[first : last + 1]
    if ranks() > 1:
        raise ConfigError("congling run under torchrun: give one command there, congling pretrain or congling sft")
    _refuse_dry_runs(recipe, wanted)
    if "fetch" in wanted and not _needs_fetch(recipe, wanted):
        wanted.remove("fetch")
    return {name: run_stage(recipe, name, reporter) for name in wanted}


def _refuse_dry_runs(recipe: Recipe, names: Sequence[str]) -> None:
    """Whoever asked for a dry run must not find a training under way."""
    for name in names:
        if getattr(getattr(recipe, name), "dry_run", False):
            raise ConfigError(f"{name}.dry_run = true: write congling {name} RECIPE dry_run=true, or leave it out")


def _needs_fetch(recipe: Recipe, wanted: Sequence[str]) -> bool:
    if list(wanted) == ["fetch"]:
        return True
    return any(SPECS[n].user_files and not _given_paths(recipe, SPECS[n]) for n in wanted)


def _given_paths(recipe: Recipe, spec: StageSpec) -> tuple[str, ...]:
    if spec.user_files is None:
        return ()
    paths: tuple[str, ...] = _field(recipe, spec.user_files)
    return paths


def _field(recipe: Recipe, key: str) -> Any:
    section, _, field = key.partition(".")
    return getattr(getattr(recipe, section), field)


def _user_files(recipe: Recipe, spec: StageSpec) -> dict[str, list[Path]]:
    raw = {key: files for key in spec.side_files if (files := _side_files(recipe, key))}
    paths = _given_paths(recipe, spec)
    if paths:
        from congling.corpus.readers import find_files

        raw["files"] = find_files(paths)
    return raw


def _side_files(recipe: Recipe, key: str) -> list[Path]:
    """What a key names, folders to any depth; an edited file makes its stage run again."""
    value = _field(recipe, key)
    found: list[Path] = []
    for path in map(Path, [value] if isinstance(value, str) and value else value):
        if not path.exists():
            raise ValueError(f"{key}: {path}: no such file or folder")
        found += sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return found


def _function(spec: StageSpec) -> Any:
    module, _, name = spec.function.partition(":")
    return getattr(import_module(module), name)


def reset_peak_memory() -> None:
    """Makes ``peak_memory`` count from now on (Linux; elsewhere it counts from the start of the process)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """Highest resident memory of this process, in bytes."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
