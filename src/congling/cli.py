"""The command table: command → (sections, run), on Typer. The only place that reads argv, prints, or exits.

Every command is ``congling <command> [words] [recipe.toml] [key=value …]``; there are no flags but ``--help``,
``--version`` and ``--verbose``. The help of a command is made from the fields of its sections.
"""

import errno
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from congling import __version__, config, pipeline
from congling.recipe import Recipe
from congling.reporter import Reporter

OK, FAILED, BAD_CONFIG, RESUME_ME, STOPPED = 0, 1, 2, 75, 130
_RESTARTED = "CONGLING_RESTARTED"


@dataclass(frozen=True)
class Call:
    """What a command got: its words (positional arguments), the resolved recipe, and the reporter."""

    words: list[str]
    recipe: Recipe
    reporter: Reporter


@dataclass(frozen=True)
class Command:
    """A row of the table."""

    name: str  # "clean", or "tokenizer encode" for a command of a group
    help: str
    run: Callable[[Call], None]
    words: tuple[str, ...] = ()  # names of required positional arguments; "[X]" may be left out, "X…" takes the rest
    sections: tuple[str, ...] = ()  # the first is the one that bare keys belong to
    trains: bool = False  # restart once with the allocator settings that training wants


# -- commands ------------------------------------------------------------------------------------------------------


def _stage(name: str) -> Callable[[Call], None]:
    def run(call: Call) -> None:
        manifest = pipeline.run_stage(call.recipe, name, call.reporter)
        del manifest
        print(pipeline.stage_folder(call.recipe, name))

    return run


def _clean(call: Call) -> None:
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


def _label(call: Call) -> None:
    from congling.clean.quality.page import run_label

    run_label(Path(call.words[0]), call.recipe.label, call.reporter)


def _run(call: Call) -> None:
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


def _fetch(call: Call) -> None:
    recipe = call.recipe
    if call.words:
        recipe = _with(recipe, "fetch", dataset=call.words[0])
    pipeline.run_stage(recipe, "fetch", call.reporter)
    folder = pipeline.stage_folder(recipe, "fetch")
    print(folder)
    call.reporter.line(f'use it: congling clean clean.input=["{folder}/corpus"] run.name=NAME')


def _encode(call: Call) -> None:
    tokenizer = _tokenizer(call.words[0])
    for line in _texts(call.words[1:]):
        print(" ".join(str(i) for i in tokenizer.encode(line)))


def _decode(call: Call) -> None:
    tokenizer = _tokenizer(call.words[0])
    for line in _texts([" ".join(call.words[1:])] if call.words[1:] else []):
        try:
            ids = [int(word) for word in line.split()]
        except ValueError as error:
            raise ValueError(f"ids must be whole numbers: {error}") from None
        sys.stdout.buffer.write(tokenizer.decode_bytes(ids) + b"\n")


def _inspect(call: Call) -> None:
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


def _export_tokenizer(call: Call) -> None:
    from congling.tokenizer.export import export

    for path in export(_tokenizer(call.words[0]), Path(call.words[1]), call.recipe.export.format):
        print(path)


def _chat(call: Call) -> None:
    from congling.infer.model import Model
    from congling.infer.terminal import chat

    model = Model.load(call.words[0])
    call.reporter.line("Type and press Enter. Ctrl-C stops an answer, /reset forgets, Ctrl-D or /exit leaves.")
    chat(model, call.recipe.sample, read=lambda: input("你> "), write=_write)


def _serve(call: Call) -> None:
    from congling.serve.run import run

    run(Path(call.words[0]), call.recipe.serve, call.reporter, call.recipe.sample)


def _report(call: Call) -> None:
    from congling.report.run import run

    print(run(Path(call.words[0]), call.reporter))


COMMANDS = (
    Command("run", "The whole life of a model, or a part of it; resumable.", _run, sections=("run",), trains=True),
    Command("fetch", "A data set by name: demo, poetry, wudao, … or any owner/name.", _fetch, ("[NAME]",), ("fetch",)),
    Command(
        "clean",
        "Raw files → corpus, and rejects with their reasons; or what happened to one document.",
        _clean,
        ("[explain]", "[ID]"),
        ("clean",),
    ),
    Command("label", "A page on which people say what a good document is.", _label, ("CORPUS",), ("label",)),
    Command("tokenizer train", "Corpus → vocabulary.", _stage("tokenizer"), sections=("tokenizer",)),
    Command("tokenizer encode", "Text (words, or lines of standard input) → ids.", _encode, ("VOCABULARY", "TEXT…")),
    Command("tokenizer decode", "Ids (words, or lines of standard input) → text.", _decode, ("VOCABULARY", "IDS…")),
    Command(
        "tokenizer inspect",
        "The pieces of a text, with scores; or a page of it all.",
        _inspect,
        ("VOCABULARY", "TEXT…"),
        ("inspect",),
    ),
    Command(
        "tokenizer export",
        "Vocabulary → a folder that transformers' AutoTokenizer reads.",
        _export_tokenizer,
        ("VOCABULARY", "OUT"),
        ("export",),
    ),
    Command("tokenize", "Corpus and vocabulary → token shards.", _stage("tokenize"), sections=("tokenize",)),
    Command("pretrain", "Tokens → base model.", _stage("pretrain"), sections=("pretrain", "model"), trains=True),
    Command("sft", "Base model and dialogues → chat model.", _stage("sft"), sections=("sft",), trains=True),
    Command("evaluate", "Figures and samples of a run.", _stage("evaluate"), sections=("evaluate",)),
    Command("report", "The page of a run, also of one under way.", _report, ("RUN",)),
    Command("chat", "Talk to a model in the terminal.", _chat, ("MODEL",), ("sample",)),
    Command("serve", "OpenAI-compatible server and chat page.", _serve, ("MODEL",), ("serve", "sample")),
)


# -- from argv to a call -------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``congling``: runs the command and exits with its code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    sys.exit(_guarded(lambda: _application()(args=arguments, prog_name="congling", standalone_mode=False)))


def _guarded(action: Callable[[], Any]) -> int:
    """Runs ``action``; a user's mistake or the machine's refusal becomes one line and an exit code."""
    try:
        code = action()
        return code if isinstance(code, int) else OK
    except typer.Exit as stop:
        return stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _complain("stopped; the same command goes on from here", STOPPED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except config.ConfigError as error:
        return _complain(str(error), BAD_CONFIG)
    except ValueError as error:
        if getattr(error, "resumable", False):
            return _complain(str(error), RESUME_ME)
        return _complain(str(error), FAILED)
    except OSError as error:
        return _complain(_explain_os_error(error), FAILED)
    except Exception as error:
        message = getattr(error, "format_message", None)  # of a usage error of Typer's
        if message is None:
            raise
        return _complain(message(), BAD_CONFIG)


def _complain(message: str, code: int) -> int:
    print(f"congling: {' '.join(message.split())}", file=sys.stderr)
    return code


def _explain_os_error(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    if error.errno == errno.ENOSPC or "No space left" in str(error):
        return f"{where}no space left on the device; free some and give the same command: finished parts are kept"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{where}no permission; choose another run.dir or change the rights of the folder"
    return f"{where}{error.strerror or error}"


def _application() -> typer.Typer:
    settings: dict[str, Any] = {"add_completion": False, "rich_markup_mode": None, "no_args_is_help": True}
    settings["pretty_exceptions_enable"] = False
    application = typer.Typer(help=__doc__.splitlines()[0] if __doc__ else None, **settings)
    application.callback(
        invoke_without_command=True, help="从零: from a raw Chinese crawl to a chatting language model of your own."
    )(_root)
    groups: dict[str, typer.Typer] = {}
    for command in COMMANDS:
        group, _, name = command.name.rpartition(" ")
        parent = application
        if group:
            if group not in groups:
                groups[group] = typer.Typer(help="Vocabulary: train, encode, decode, inspect, export.", **settings)
                application.add_typer(groups[group], name=group)
            parent = groups[group]
        _add(parent, name, command)
    return application


def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and leave.", is_eager=True)] = False,
) -> None:
    if version:
        print(f"congling {__version__}")
        raise typer.Exit()


def _add(parent: typer.Typer, name: str, command: Command) -> None:
    metavar = " ".join([*command.words, "[RECIPE.toml] [KEY=VALUE]…" if command.sections else ""]).strip()

    def callback(
        arguments: Annotated[list[str] | None, typer.Argument(metavar=metavar, show_default=False)] = None,
        verbose: Annotated[bool, typer.Option("--verbose", help="Say more on the way.")] = False,
    ) -> None:
        command.run(_parse(command, arguments or [], verbose))

    parent.command(name, help=command.help, epilog=_fields_help(command))(callback)


def _parse(command: Command, arguments: list[str], verbose: bool) -> Call:
    words, rest = _take_words(command, arguments)
    recipe_file = None
    if command.sections and rest and "=" not in rest[0]:
        recipe_file = Path(rest.pop(0))
    section = command.sections[0] if command.sections else None
    if command.trains:
        _restart_for_training()
    return Call(words, config.load(Recipe, recipe_file, rest, section), Reporter(verbose=verbose))


def _take_words(command: Command, arguments: list[str]) -> tuple[list[str], list[str]]:
    rest = list(arguments)
    words: list[str] = []
    for word in command.words:
        if word.endswith("…"):  # keys come last, and are known: a text may have an = in it
            keys = _keys(command)
            cut = len(rest)
            while cut and rest[cut - 1].partition("=")[0] in keys:
                cut -= 1
            return words + rest[:cut], rest[cut:]
        optional = word.startswith("[")
        if rest and "=" not in rest[0] and not (optional and rest[0].endswith(".toml")):
            words.append(rest.pop(0))
        elif not optional:
            raise config.ConfigError(f"congling {command.name}: {word} is missing; see congling {command.name} --help")
    return words, rest


def _keys(command: Command) -> set[str]:
    """Names under which the fields of the command's sections can be set."""
    keys = set()
    for number, section in enumerate(command.sections):
        fields = [row[0] for row in config.describe(_section(section))]
        keys |= {f"{section}.{field}" for field in fields} | (set(fields) if number == 0 else set())
    return keys


def _section(name: str) -> type[config.Config]:
    found = Recipe.model_fields[name].annotation
    assert isinstance(found, type)
    return found


def _fields_help(command: Command) -> str | None:
    if not command.sections:
        return None
    lines = ["\b"]
    for number, section in enumerate(command.sections):
        section_class = _section(section)
        lines.append(f"Keys of [{section}]" + (" (write them bare):" if number == 0 else f" ({section}.KEY=VALUE):"))
        for key, kind, default, text in config.describe(section_class):
            lines += [f"  {key} = {default}  ({kind})", f"      {text}"]
    others = [s for s in Recipe.model_fields if s not in command.sections]
    lines.append(f"Other sections (SECTION.KEY=VALUE): {', '.join(others)}")
    return "\n".join(lines)


def _restart_for_training() -> None:
    """Starts this process again, once, with allocator settings that only take hold at start (1.5× faster steps)."""
    from congling.train.precision import malloc_environment

    wanted = malloc_environment(os.environ)
    if not wanted or os.environ.get(_RESTARTED):
        return
    environment = {**os.environ, **wanted, _RESTARTED: "1"}
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, "-m", "congling", *sys.argv[1:]], environment)


# -- small helpers -------------------------------------------------------------------------------------------------


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
