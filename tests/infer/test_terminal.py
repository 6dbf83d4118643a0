"""A conversation at the terminal, typed by a test."""

from congling.infer.config import SampleConfig
from congling.infer.terminal import chat, shorten
from infer import toy

SHORT = SampleConfig(max_tokens=6, max_context=200)


def talk(model, *lines, sampling=SHORT):
    """Types ``lines`` (an exception is raised in its place), then Ctrl-D; returns all that was written."""
    typed, written = iter(lines), []

    def read():
        line = next(typed, EOFError())
        if isinstance(line, BaseException):
            raise line
        return line

    chat(model, sampling, read, written.append)
    return "".join(written)


class Recorder:
    """Stands in for a Model: remembers what it was asked, and answers as told."""

    def __init__(self, *answers, tuned=True):
        self.answers, self.asked, self.tuned, self.tokenizer = iter(answers), [], tuned, toy.Bytes()

    def chat(self, messages, sampling, stream, exact=True):
        self.asked.append(([dict(m) for m in messages], sampling.seed))
        yield from next(self.answers)

    generate = chat


def interrupted(text):
    yield text
    raise KeyboardInterrupt


def test_history_grows_resets_and_seeds_differ():
    model = Recorder(["你", "好"], ["二"], ["三"])
    assert talk(model, "一", " ", "再来", "/reset", "新的") == "你好\n二\n(forgotten)\n三\n\n"
    contents = [[m["content"] for m in messages] for messages, _ in model.asked]
    assert contents == [["一"], ["一", "你好", "再来"], ["新的"]]
    assert len({seed for _, seed in model.asked}) == 3


def test_ctrl_c_stops_the_answer_and_not_the_chat():
    model = Recorder(interrupted("半"), ["好"])
    assert talk(model, "问", "又问", "/exit", "never read") == "半 …\n好\n"
    assert [m["content"] for m in model.asked[1][0]] == ["问", "半", "又问"]
    assert talk(Recorder(), KeyboardInterrupt()) == "\n"


def test_a_base_model_continues_text():
    model = Recorder("。", tuned=False)
    model.chat = None
    model.generate = lambda text, sampling, stream: iter([f"<{text}>"])
    written = talk(model, "从前")
    assert written.startswith("(a base model")
    assert written.endswith("<从前>\n\n")


def test_a_line_too_long_is_said_and_forgotten():
    model = toy.model()
    written = talk(model, "很长" * 100, "短", sampling=SHORT)
    assert written.startswith("(the prompt has ")
    assert written.count("\n") >= 3


def test_old_turns_are_dropped():
    history = [{"role": r, "content": f"{n}" * 20} for n in range(5) for r in ("user", "assistant")][:-1]
    shorten(toy.model(), history, 120)
    assert [m["content"][0] for m in history] == ["3", "3", "4"]
    shorten(toy.model(), history, 1)
    assert [m["content"][0] for m in history] == ["4"]
