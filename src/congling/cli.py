"""The command table: command → (sections, run), on Typer. The only place that reads argv or exits.

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

from congling import __version__, commands, config, pipeline
from congling.commands import Call
from congling.recipe import Recipe
from congling.reporter import Reporter

OK, FAILED, BAD_CONFIG, RESUME_ME, STOPPED = 0, 1, 2, 75, 130
_RESTARTED = "CONGLING_RESTARTED"


@dataclass(frozen=True)
class Command:
    """A row of the table."""

    name: str  # "clean", or "tokenizer encode" for a command of a group
    help: str
    run: Callable[[Call], None]
    words: tuple[str, ...] = ()  # names of required positional arguments; "[X]" may be left out, "X…" takes the rest
    sections: tuple[str, ...] = ()  # the first is the one that bare keys belong to
    trains: bool = False  # restart once with the allocator settings that training wants


COMMANDS = (
    Command(
        "run",
        "The whole life of a model, or a part of it; resumable.",
        commands.run,
        sections=("run",),
        trains=True,
    ),
    Command(
        "fetch",
        "A data set by name: demo, poetry, wudao, … or any owner/name.",
        commands.fetch,
        ("[NAME]",),
        ("fetch",),
    ),
    Command(
        "clean",
        "Raw files → corpus, and rejects with their reasons; or what happened to one document.",
        commands.clean,
        ("[explain]", "[ID]"),
        ("clean",),
    ),
    Command("label", "A page on which people say what a good document is.", commands.label, ("CORPUS",), ("label",)),
    Command("tokenizer train", "Corpus → vocabulary.", commands.stage("tokenizer"), sections=("tokenizer",)),
    Command(
        "tokenizer encode",
        "Text (words, or lines of standard input) → ids.",
        commands.encode,
        ("VOCABULARY", "TEXT…"),
    ),
    Command(
        "tokenizer decode",
        "Ids (words, or lines of standard input) → text.",
        commands.decode,
        ("VOCABULARY", "IDS…"),
    ),
    Command(
        "tokenizer inspect",
        "The pieces of a text, with scores; or a page of it all.",
        commands.inspect,
        ("VOCABULARY", "TEXT…"),
        ("inspect",),
    ),
    Command(
        "tokenizer export",
        "Vocabulary → a folder that transformers' AutoTokenizer reads.",
        commands.export_tokenizer,
        ("VOCABULARY", "OUT"),
        ("export",),
    ),
    Command("tokenize", "Corpus and vocabulary → token shards.", commands.stage("tokenize"), sections=("tokenize",)),
    Command(
        "pretrain",
        "Tokens → base model.",
        commands.stage("pretrain"),
        sections=("pretrain", "model"),
        trains=True,
    ),
    Command("sft", "Base model and dialogues → chat model.", commands.stage("sft"), sections=("sft",), trains=True),
    Command(
        "evaluate",
        "Figures of a run; or the probes of any model.",
        commands.evaluate,
        ("[MODEL]",),
        ("evaluate",),
    ),
    Command(
        "probe",
        "Copying, reversing, adding beyond lengths seen.",
        commands.stage("probe"),
        (),
        ("probe", "model"),
        True,
    ),
    Command("control", "Change a training under way: seq_len, lr, …", commands.control, ("RUN", "KEY=VALUE…")),
    Command("report", "The page of a run, also of one under way.", commands.report, ("RUN",)),
    Command(
        "export",
        "A model for transformers (hf), llama.cpp (gguf), or as a demo page for a hub (space).",
        commands.export_model,
        ("MODEL",),
        ("export",),
    ),
    Command(
        "import-seed",
        "The seed's published weights and vocabulary → a model folder.",
        commands.import_seed,
        ("WEIGHTS", "VOCABULARY", "OUT"),
    ),
    Command("chat", "Talk to a model in the terminal.", commands.chat, ("MODEL",), ("sample", "engine")),
    Command(
        "serve",
        "OpenAI-compatible server and chat page.",
        commands.serve,
        ("MODEL",),
        ("serve", "sample", "engine"),
    ),
    Command(
        "demo",
        "A page for chat and continuation, as the hubs show it (Gradio).",
        commands.demo,
        ("MODEL",),
        ("serve", "sample", "engine"),
    ),
)


# -- from argv to a call -------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``congling``: runs the command and exits with its code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    code = _guarded(lambda: _application()(args=arguments, prog_name="congling", standalone_mode=False))
    if pipeline.ranks() > 1:  # threads that process groups leave behind abort one exit in ten
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


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
        return _complain(str(error), BAD_CONFIG) if pipeline.is_main() else BAD_CONFIG
    except ValueError as error:
        if getattr(error, "resumable", False):
            return _complain(str(error), RESUME_ME) if pipeline.is_main() else RESUME_ME
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
