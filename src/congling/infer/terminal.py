"""``congling chat``: a conversation at the terminal. Reads and writes through what it is given."""

from collections.abc import Callable

from congling.chat import render
from congling.infer.config import SampleConfig
from congling.infer.model import Model

_CONTEXT = 1024  # tokens of history that are kept; older turns are forgotten first


def chat(model: Model, sampling: SampleConfig, read: Callable[[], str], write: Callable[[str], None]) -> None:
    """Reads a line, streams the answer, keeps the history, until the input ends or ``/exit``.

    read: raises EOFError at the end; KeyboardInterrupt from it leaves, during an answer it stops the answer.
    A model that was not tuned on dialogues continues the text instead.
    """
    if not model.tuned:
        write("(a base model: it continues your text; the chat model is in the sft folder)\n")
    history: list[dict[str, str]] = []
    for turn in range(2**31):
        try:
            line = read().strip()
        except (EOFError, KeyboardInterrupt):
            write("\n")
            return
        if line in ("/exit", "/quit"):
            return
        if line == "/reset":
            history.clear()
            write("(forgotten)\n")
        elif line:
            settings = sampling.model_copy(update={"seed": sampling.seed + turn})
            _answer(model, settings, history, line, write)


def _answer(
    model: Model, sampling: SampleConfig, history: list[dict[str, str]], line: str, write: Callable[[str], None]
) -> None:
    history.append({"role": "user", "content": line})
    shorten(model, history)
    answer = ""
    try:
        for piece in (
            model.chat(history, sampling, stream=True) if model.tuned else model.generate(line, sampling, stream=True)
        ):
            answer += piece
            write(piece)
        write("\n")
    except KeyboardInterrupt:
        write(" …\n")
    history.append({"role": "assistant", "content": answer})


def shorten(model: Model, history: list[dict[str, str]], limit: int = _CONTEXT) -> None:
    """Drops the oldest exchanges in place until the rest fits into ``limit`` tokens; the last message stays."""
    while len(history) > 1 and len(render(history, model.tokenizer)[0]) > limit:
        del history[: min(2, len(history) - 1)]
