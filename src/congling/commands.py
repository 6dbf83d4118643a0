"""What each command does with a resolved recipe; printing is the commands' business alone.

Heavy modules are imported inside the functions, so that ``--help`` is quick.
"""

import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from congling import config, pipeline
from congling.recipe import Recipe
from congling.reporter import Reporter


@dataclass(frozen=True)
class Call:
    """What a command got: its words (positional arguments), the resolved recipe, and the reporter."""

    words: list[str]
    recipe: Recipe
    reporter: Reporter


def stage(name: str) -> Callable[[Call], None]:
    def run(call: Call) -> None:
        if getattr(getattr(call.recipe, name), "dry_run", False):
            from congling.plan import plan

            return print("\n".join(plan(call.recipe, name)))
        pipeline.run_stage(call.recipe, name, call.reporter)
        if pipeline.is_main():
            print(pipeline.stage_folder(call.recipe, name))

    return run


def clean(call: Call) -> None:
    folder = pipeline.stage_folder(call.recipe, "clean")
    if call.words:
        if call.words[0] != "explain" or len(call.words) != 2 or not call.words[1].isdecimal():
            raise config.ConfigError(f"congling clean {' '.join(call.words)}: write congling clean explain DOCUMENT_ID")
        from congling.clean.explain import explain

        for step, text in explain(folder, int(call.words[1])):
            print(f"{step:16} {text}")
        return
    pipeline.run_stage(call.recipe, "clean", call.reporter)
    from congling.report.cleaning import write_page

    print(f"{folder}\nReport: {write_page(folder)}")


def label(call: Call) -> None:
    from congling.clean.quality.page import run_label

    run_label(Path(call.words[0]), call.recipe.label, call.reporter)


def run(call: Call) -> None:
    manifests = pipeline.run_all(call.recipe, call.reporter)
    run_folder = Path(call.recipe.run.dir) / call.recipe.run.name
    if not any(run_folder.glob("*/manifest.json")):
        return  # only fetched
    from congling.report.cleaning import write_page
    from congling.report.run import run as write_report

    if (run_folder / "clean" / "evidence").exists():
        write_page(run_folder / "clean")
    page = write_report(run_folder, call.reporter)
    print(f"\nReport: {page}")
    for sample in manifests.get("evaluate", {}).get("summary", {}).get("samples", [])[:3]:
        print(f"\n  > {sample['prompt']}\n  {sample['text']}")
    for name in ("sft", "pretrain"):
        if (run_folder / name / "manifest.json").exists():
            folder = run_folder / name
            print(f"\nNext: congling chat {folder}\n      congling serve {folder}")
            return


def fetch(call: Call) -> None:
    recipe = call.recipe
    if call.words:
        recipe = _with(recipe, "fetch", dataset=call.words[0])
    pipeline.run_stage(recipe, "fetch", call.reporter)
    folder = pipeline.stage_folder(recipe, "fetch")
    print(folder)
    call.reporter.line(f'use it: congling clean clean.input=["{folder}/corpus"] run.name=NAME')


def encode(call: Call) -> None:
    tokenizer = _tokenizer(call.words[0])
    for line in _texts(call.words[1:]):
        print(" ".join(str(i) for i in tokenizer.encode(line)))


def decode(call: Call) -> None:
    tokenizer = _tokenizer(call.words[0])
    for line in _texts([" ".join(call.words[1:])] if call.words[1:] else []):
        try:
            ids = [int(word) for word in line.split()]
        except ValueError as error:
            raise ValueError(f"ids must be whole numbers: {error}") from None
        sys.stdout.buffer.write(tokenizer.decode_bytes(ids) + b"\n")


def inspect(call: Call) -> None:
    from congling.tokenizer.inspect import inspect

    tokenizer, options, path = _tokenizer(call.words[0]), call.recipe.inspect, Path(call.words[0])
    if options.page:
        from congling.report.vocabulary import write_page

        folder, texts = path if path.is_dir() else path.parent, call.words[1:]
        texts = [" ".join(texts)] if texts else []
        print(write_page(tokenizer, folder, texts, [Path(file) for file in options.files], Path(options.page)))
        return
    for line in _texts(call.words[1:]):
        for row in inspect(tokenizer, line):
            print(row)


def export_tokenizer(call: Call) -> None:
    from congling.tokenizer.export import export

    if call.recipe.export.format != "hf":
        raise config.ConfigError(f"export.format = {call.recipe.export.format}: a vocabulary goes out as hf alone")
    for path in export(_tokenizer(call.words[0]), Path(call.words[1])):
        print(path)


def export_model(call: Call) -> None:
    from congling.interop.export import export

    print(export(Path(call.words[0]), call.recipe.export))


def import_seed(call: Call) -> None:
    from congling.interop.seed import import_seed

    out = Path(call.words[2])
    a = import_seed(Path(call.words[0]), Path(call.words[1]), out)
    call.reporter.line(
        f"{a.num_layers} layers of {a.dim}, {a.num_heads} heads of {a.head_dim}, feed-forward {a.ffn_dim}, "
        f"{a.vocab_size} rows; next: congling chat {out}"
    )
    print(out)


def chat(call: Call) -> None:
    from congling.infer.model import Model
    from congling.infer.terminal import chat

    model = Model.load(call.words[0], engine=call.recipe.engine)
    call.reporter.line("Type and press Enter. Ctrl-C stops an answer, /reset forgets, Ctrl-D or /exit leaves.")
    chat(model, call.recipe.sample, read=lambda: input("你> "), write=_write)


def serve(call: Call) -> None:
    from congling.serve.run import run

    run(Path(call.words[0]), call.recipe.serve, call.reporter, call.recipe.sample, call.recipe.engine)


def demo(call: Call) -> None:
    from congling.serve.gradio_app import run

    run(Path(call.words[0]), call.recipe.serve, call.reporter, call.recipe.sample, call.recipe.engine)


def evaluate(call: Call) -> None:
    if not call.words:
        return stage("evaluate")(call)
    from congling.evaluate.run import probe

    for line in probe(Path(call.words[0]), call.recipe.evaluate):
        print(line)


def control(call: Call) -> None:
    from congling.train.journal import JOURNAL, request_change

    given, changes = Path(call.words[0]), {}
    folder = next((f for f in (given, given / "sft", given / "pretrain") if (f / "metrics.jsonl").exists()), None)
    if folder is None:
        raise ValueError(f"{given}: no training here; name the folder of one, such as runs/NAME/pretrain")
    for word in call.words[1:]:
        key, equals, value = word.partition("=")
        if not equals:
            raise config.ConfigError(f"congling control: {word} is no KEY=VALUE, such as seq_len=512")
        changes[key] = _number(value)
    request_change(folder, changes)
    print(f"asked; the answer stands in {folder / JOURNAL} and in the training's log, between two steps")


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def report(call: Call) -> None:
    from congling.report.run import run

    print(run(Path(call.words[0]), call.reporter))


def _with(recipe: Recipe, section: str, **values: Any) -> Recipe:
    changed = getattr(recipe, section).model_copy(update=values)
    return recipe.model_copy(update={section: changed})


def _tokenizer(path: str) -> Any:
    from congling.tokenizer.tokenizer import Tokenizer

    return Tokenizer.load(path)


def _texts(words: Sequence[str]) -> Sequence[str]:
    return [" ".join(words)] if words else [line.rstrip("\n") for line in sys.stdin]


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
