"""The demo page in Gradio, for Spaces of Hugging Face and studios of ModelScope, and ``congling demo MODEL``.

The page at ``/`` of ``congling serve`` can do more; hubs run Gradio without a line of set-up: that is why this is here.
Nothing is shared between visitors but the model: a conversation is in the visitor's own session.
"""

import codecs
import random
from collections.abc import Iterator
from html import escape
from math import exp, log
from pathlib import Path
from typing import TYPE_CHECKING, Any

from congling.chat import stop_ids, stop_strings
from congling.infer.config import EngineConfig, SampleConfig
from congling.infer.model import Model
from congling.infer.request import QueueFull, Request
from congling.infer.search import make_strategy
from congling.infer.terminal import shorten
from congling.infer.text import TextStream, TokenText
from congling.reporter import Reporter
from congling.serve.config import ServeConfig
from congling.serve.shapes import Names

if TYPE_CHECKING:
    import gradio

_TOP = 5
_AT_ONCE, _WAITING = 8, 64  # answers under way, visitors who wait for one
_LONGEST = 512
_STYLE = """<style>
.tokens { white-space: pre-wrap; overflow-wrap: anywhere; line-height: 2; font-size: 1.05em; padding: .3em .2em;
  position: relative; z-index: 20; }
.tokens .t { position: relative; border-radius: .2em; cursor: help;
  background: color-mix(in srgb, #d9462f calc(var(--doubt) * 1%), transparent); }
.tokens .t:is(:hover, :focus) { outline: 2px solid #2a6f97; }
.tokens .t:is(:hover, :focus)::after { content: attr(data-tip); position: absolute; z-index: 9; left: 0; top: 100%;
  width: max-content; padding: .3em .7em; border-radius: .4em; background: #1c2230; color: #f7f6f3; font-size: .8em;
  line-height: 1.6; white-space: pre; pointer-events: none; }
.tokens .given { opacity: .6; }
footer { display: none !important; }
</style>"""
_DIALS = (  # name, label, least, most, step
    ("temperature", "随机性 temperature", 0, 2, 0.05),
    ("top_p", "Top-p", 0.05, 1, 0.05),
    ("min_p", "Min-p", 0, 0.5, 0.01),
    ("repetition_penalty", "重复惩罚 repetition penalty", 0, 5, 0.1),
    ("repetition_decay", "惩罚的衰减 its decay", 0.5, 1, 0.01),
    ("max_tokens", "最长（词元）longest answer", 1, _LONGEST, 1),
)
Talk = list[dict[str, Any]]


def build(model: Model, defaults: SampleConfig | None = None) -> "gradio.Blocks":
    """The demo of one model, to be launched. Raises ValueError without Gradio."""
    gr = _gradio()
    page = Page(model, defaults or SampleConfig(), gr.Error)
    with gr.Blocks(title=f"从零 congling · {model.name}", analytics_enabled=False) as demo:
        gr.HTML(f"{_STYLE}<h2>从零 congling <small>{escape(model.name)}</small></h2>")
        with gr.Accordion("设置 Settings", open=False):
            dials = [
                gr.Slider(a, b, getattr(page.defaults, name), step=s, label=label) for name, label, a, b, s in _DIALS
            ]
            dials.append(gr.Textbox(label="种子 seed（空：每次不同 empty: another each time）", max_length=15))
            system = gr.Textbox(label="系统提示 System prompt", lines=2, max_length=20_000, visible=model.tuned)
        if model.tuned:
            with gr.Tab("对话 Chat"):
                _chat(gr, page, system, dials)
        with gr.Tab("续写 Continue"):
            _continue(gr, page, dials)
    demo.queue(max_size=_WAITING, default_concurrency_limit=_AT_ONCE)
    return demo


def run(
    folder: Path,
    config: ServeConfig,
    reporter: Reporter,
    defaults: SampleConfig | None = None,
    engine: EngineConfig | None = None,
) -> None:
    """Serves the demo until the process is stopped. Raises ValueError without Gradio, OSError for a port in use."""
    gr = _gradio()
    demo = build(Model.load(folder, engine=engine), defaults)
    auth = [("congling", key) for key in config.keys] or None
    reporter.line(f"demo: http://{config.host}:{config.port}/   Ctrl-C stops" + (", user: congling" if auth else ""))
    theme = gr.themes.Default(font="system-ui", font_mono="ui-monospace")  # else fonts are fetched from Google
    demo.launch(server_name=config.host, server_port=config.port, auth=auth, quiet=True, share=False, theme=theme)


def _gradio() -> Any:
    try:
        import gradio
    except ImportError:
        raise ValueError("the demo page needs Gradio: pip install 'congling[demo]'") from None
    return gradio


class Page:
    """What the controls do. Everything of a visitor comes in and goes out as an argument."""

    def __init__(self, model: Model, defaults: SampleConfig, error: type[Exception] = ValueError) -> None:
        """error: what visitors are told by."""
        self.model, self.names, self._error = model, Names(model.tokenizer), error
        self.defaults = defaults.model_copy(update={"max_tokens": min(defaults.max_tokens, _LONGEST)})

    def ask(self, text: str, talk: Talk) -> tuple[str, Talk]:
        """The field emptied, and the conversation with the visitor's message."""
        return ("", [*talk, {"role": "user", "content": text.strip()}]) if text.strip() else (text, talk)

    def reply(self, talk: Talk, system: str, *dials: Any) -> Iterator[tuple[Talk, str]]:
        """The conversation as its last message is answered (anew, where it was), and the tokens of the answer."""
        while talk and talk[-1]["role"] == "assistant":
            talk = talk[:-1]
        if not talk:
            yield talk, ""
            return
        sampling = self._sampling(dials)
        messages = [{"role": m["role"], "content": _plain(m["content"])} for m in talk]
        shorten(self.model, messages, max(1, sampling.max_context - sampling.max_tokens))
        if system.strip():
            messages.insert(0, {"role": "system", "content": system.strip()})
        stops = stop_strings(self.model.tokenizer)
        for text, tokens in self._grow(self.model.chat_prompt(messages), sampling, stops):
            yield [*talk, {"role": "assistant", "content": text}], self.html(tokens)

    def go_on(self, text: str, *dials: Any) -> Iterator[str]:
        """A beginning and what the model writes behind it, as tokens."""
        for _, tokens in self._grow(self.model.text_prompt(text), self._sampling(dials), ()) if text else ():
            yield self.html(tokens, text)

    def html(self, tokens: list[TokenText], given: str = "") -> str:
        """Tokens coloured by how likely they were, with what else was likely; the text of a model is escaped."""
        start = f'<span class="given">{escape(given)}</span>' if given else ""
        return f'<div class="tokens">{start}{"".join(self._chip(group) for group in _whole(tokens))}</div>'

    def _chip(self, group: list[TokenText]) -> str:
        text = b"".join(token.data for token in group).decode("utf-8", "replace")
        doubt = min(60.0, -9 * sum(token.logprob or 0.0 for token in group) / log(2))
        tips = [
            f"{self.names.text(number)}  {100 * exp(logprob):.1f} %".replace("\n", "⏎")
            for token in group
            for number, logprob in [(token.token, token.logprob or 0.0), *(o for o in token.top if o[0] != token.token)]
        ]
        tip = escape("\n".join(tips)).replace("\n", "&#10;")
        return f'<span class="t" tabindex="0" style="--doubt:{doubt:.0f}" data-tip="{tip}">{escape(text)}</span>'

    def _sampling(self, dials: tuple[Any, ...]) -> SampleConfig:
        *values, seed = dials
        given = dict(zip((name for name, *_ in _DIALS), values, strict=True))
        seed = str(seed or "").strip()
        if seed and not seed.isdecimal():
            raise self._error(f"种子是一个整数 a seed is a whole number, not {seed!r}")
        longest = min(int(given["max_tokens"]), _LONGEST)
        given.update(max_tokens=longest, seed=int(seed) if seed else random.getrandbits(31))
        try:
            return SampleConfig(**{**self.defaults.model_dump(), **given})
        except ValueError as error:  # what no slider has: somebody asks without the page
            raise self._error(str(error)) from None

    def _grow(
        self, prompt: list[int], sampling: SampleConfig, stops: tuple[str, ...]
    ) -> Iterator[tuple[str, list[TokenText]]]:
        """(text, tokens) so far, after each step. Leaving before the end cancels the request."""
        model = self.model
        try:
            limit = model.room(prompt, sampling)
            rows, ends = model.transformer.architecture.vocab_size, stop_ids(model.tokenizer)
            sampling = sampling.model_copy(update={"max_tokens": limit})
            strategy = make_strategy(sampling, rows, ends, logprobs=_TOP)
            handle = model.engine.submit(Request(prompt, strategy, limit, exact=True))
        except (ValueError, QueueFull) as error:
            raise self._error(str(error)) from None
        stream, text, tokens = TextStream(model.tokenizer, stops), "", list[TokenText]()
        events = handle.events()
        try:
            for event in events:
                if event.finish == "error":
                    raise self._error(event.error or "the answer could not be made")
                for piece in stream.push(event):
                    text, tokens = text + piece.text, tokens + piece.tokens
                    yield text, tokens
                if stream.stopped:
                    return
        finally:
            events.close()


def _chat(gr: Any, page: Page, system: Any, dials: list[Any]) -> None:
    talk = gr.Chatbot(
        show_label=False, height=340, render_markdown=False, buttons=["copy"], placeholder="说点什么吧 Say something"
    )
    with gr.Row():
        field = gr.Textbox(show_label=False, placeholder="说点什么…… Say something …", scale=6, max_length=20_000)
        send = gr.Button("发送 Send", variant="primary", scale=1)
    with gr.Row():
        stop, again, clear = gr.Button("停止 Stop"), gr.Button("重新生成 Regenerate"), gr.Button("清空 Clear")
    tokens = gr.HTML(label="词元 Tokens")
    answer = {"fn": page.reply, "inputs": [talk, system, *dials], "outputs": [talk, tokens]}
    runs = []
    for trigger in (field.submit, send.click):
        asked = trigger(page.ask, [field, talk], [field, talk], queue=False)
        runs.append(asked.then(**answer))
    runs.append(again.click(**answer))
    stop.click(None, cancels=runs)
    clear.click(lambda: ([], ""), None, [talk, tokens], cancels=runs)


def _continue(gr: Any, page: Page, dials: list[Any]) -> None:
    text = gr.Textbox(label="开头 Beginning", lines=4, max_length=20_000, placeholder="从前有一座山，山上")
    with gr.Row():
        go, stop = gr.Button("续写 Continue", variant="primary"), gr.Button("停止 Stop")
    out = gr.HTML()
    run = go.click(page.go_on, [text, *dials], out)
    stop.click(None, cancels=[run])


def _plain(content: Any) -> str:
    """The text of a message as Gradio keeps it: a string, or parts."""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content if isinstance(part, dict))


def _whole(tokens: list[TokenText]) -> Iterator[list[TokenText]]:
    """Tokens put together until they are whole characters."""
    decoder, group = codecs.getincrementaldecoder("utf-8")("replace"), list[TokenText]()
    for token in tokens:
        group.append(token)
        decoder.decode(token.data)
        if not decoder.getstate()[0]:  # no character is half there
            yield group
            group = []
    if group:
        yield group
