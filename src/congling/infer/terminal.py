"""``congling chat``: a conversation at the terminal. Reads and writes through what it is given."""

from collections.abc import Callable
from itertools import count

from congling.chat import render
from congling.infer.config import SampleConfig
from congling.infer.model import Model

Dialogue = list[dict[str, str]]


def chat(model: Model, sampling: SampleConfig, read: Callable[[], str], write: Callable[[str], None]) -> None:
    """Reads a line, streams the answer, keeps the history, until the input ends or ``/exit``; ``/reset`` forgets.

    read: raises EOFError at the end; KeyboardInterrupt from it leaves, during an answer it stops the answer.
    A model that was not tuned on dialogues continues each line instead.
    """
    if not model.tuned:
        write("(a base model: it goes on with your text and knows no conversation; for that, use the sft folder)\n")
    history: Dialogue = []
    for turn in count():
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
            _answer(model, sampling.model_copy(update={"seed": sampling.seed + turn}), history, line, write)


def _answer(model: Model, sampling: SampleConfig, history: Dialogue, line: str, write: Callable[[str], None]) -> None:
    """Streams one answer; the exchange enters the history, also when the answer was stopped half-way."""
    asked = [*history, {"role": "user", "content": line}]
    answer = ""
    try:
        shorten(model, asked, max(1, sampling.max_context - sampling.max_tokens))
        if (
            model.tuned
        ):  # not exact: the pages that the last answer filled are taken over, only the new line is computed
            pieces = model.chat(asked, sampling, stream=True, exact=False)
        else:
            pieces = model.generate(line, sampling, stream=True)
        for piece in pieces:
            answer += piece
            write(piece)
        write("\n")
    except KeyboardInterrupt:
        write(" …\n")
    except ValueError as error:  # such as a line longer than the context
        write(f"({error})\n")
        return
    history[:] = [*asked, {"role": "assistant", "content": answer}]


def shorten(model: Model, history: Dialogue, limit: int) -> None:
    """Drops the oldest exchanges in place until the rest fits into ``limit`` tokens; the last message stays."""
    while len(history) > 1 and len(render(history, model.tokenizer, generation_prompt=True)[0]) >= limit:
        del history[: min(2, len(history) - 1)]
