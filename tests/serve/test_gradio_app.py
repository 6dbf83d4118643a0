"""The Gradio demo: what its controls do, without Gradio; and the page itself where Gradio is installed."""

import re
import sys
from html import unescape

import pytest

from congling.infer.config import SampleConfig
from congling.infer.text import TokenText
from congling.serve.gradio_app import Page, build
from infer import toy

DIALS = (0.7, 0.9, 0.0, 0.6, 0.98, 12, "7")


@pytest.fixture(scope="module")
def model():
    return toy.model()


@pytest.fixture
def page(model):
    return Page(model, SampleConfig())


def user(text):
    return [{"role": "user", "content": text}]


def test_missing_gradio_is_one_clear_line(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ValueError, match=r"pip install 'congling\[demo\]'"):
        build(model)


def test_page_is_built(model):
    pytest.importorskip("gradio")
    assert build(model).title == "从零 congling · model"


def test_a_message_is_answered(page, model):
    field, talk = page.ask("  你好 ", [])
    assert (field, talk) == ("", user("你好"))
    *_, (answered, html) = page.reply(talk, "", *DIALS)
    expected = model.chat(user("你好"), SampleConfig(max_tokens=12, seed=7))
    assert answered == [*talk, {"role": "assistant", "content": expected}]
    assert html.count('class="t"') > 0
    *_, (again, _) = page.reply(answered, "", *DIALS)  # in place of the last answer
    assert again == answered


def test_gradio_may_keep_messages_as_parts(page):
    parts = [{"role": "user", "content": [{"type": "text", "text": "你好"}]}]
    *_, (one, _) = page.reply(parts, "", *DIALS)
    *_, (other, _) = page.reply(user("你好"), "", *DIALS)
    assert one[-1] == other[-1]


def test_a_system_prompt_changes_the_answer(page):
    *_, (one, _) = page.reply(user("你好"), "", *DIALS)
    *_, (other, _) = page.reply(user("你好"), "只说英语", *DIALS)
    assert one[-1] != other[-1]


def test_nothing_asked_nothing_answered(page):
    assert page.ask("  ", []) == ("  ", [])
    assert list(page.reply([], "", *DIALS)) == [([], "")]
    assert list(page.go_on("", *DIALS)) == []


def test_visitors_do_not_mix(page):
    alone = [talk for talk, _ in page.reply(user("甲"), "", *DIALS)]
    one, other = page.reply(user("甲"), "", *DIALS), page.reply(user("乙乙"), "", *DIALS)
    together = []
    for talk, _ in one:
        together.append(talk)
        assert next(other, (user("乙乙"), ""))[0][0] == user("乙乙")[0]
    assert together[-1] == alone[-1]


def test_stopping_frees_the_engine(page, model):
    growing = page.go_on("从前", *DIALS[:5], 200, "7")
    next(growing)
    growing.close()
    while model.engine.step():
        pass
    assert model.engine.stats.running == model.engine.stats.waiting == 0


def test_tokens_are_escaped_and_whole(page):
    bad = [TokenText(16 + byte, bytes([byte]), -1.0, [(16 + ord('"'), -2.0)]) for byte in "<你>".encode()]
    html = page.html(bad, "<b>")
    assert "<b>" not in html
    assert [unescape(text) for text in re.findall(r'class="t"[^>]*>([^<]*)<', html)] == ["<", "你", ">"]
    assert 'data-tip="&lt;  36.8 %&#10;&quot;  13.5 %"' in html


def test_mistakes_are_told(page):
    with pytest.raises(ValueError, match="whole number"):
        list(page.go_on("x", *DIALS[:6], "seven"))
    with pytest.raises(ValueError, match="shorten"):
        list(page.go_on("x" * 3000, *DIALS))
