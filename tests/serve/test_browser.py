"""The page in a real browser, against a real server with a model of nothing. Skips itself without Chromium."""

import socket
import threading
import time
from contextlib import contextmanager

import pytest
import uvicorn

from congling.infer.config import SampleConfig
from congling.serve.app import create_app
from congling.serve.config import ServeConfig
from infer import toy
from serve import chromium

pytestmark = pytest.mark.skipif(chromium.PATH is None, reason="no Chromium here")
IDLE = "document.querySelector('#stop').hidden"
LAST = "[...document.querySelectorAll('.assistant')].at(-1)"


@contextmanager
def serving(tuned=True, **config):
    app = create_app(toy.model(tuned), ServeConfig(**config), SampleConfig(max_tokens=24, seed=1))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join(20)


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    browser = chromium.Chromium(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture
def browser(started):
    started.complaints.clear()
    started.size(1000, 800)
    return started


@pytest.fixture(scope="module")
def address():
    with serving() as address:
        yield address


def ask(browser, text):
    browser.type("#chat-text", text)
    browser.wait(f"{IDLE} && document.querySelector('.assistant .acts button, .notice')")


def test_chat_with_coloured_tokens_history_and_languages(browser, address):
    browser.open(address)
    browser.wait("document.querySelectorAll('#dials input').length === 6")
    assert browser.run("document.documentElement.lang") == "zh"
    ask(browser, "你好<b>")
    assert browser.run("document.querySelector('.user .body').textContent") == "你好<b>"
    said = browser.run(f"{LAST}.querySelector('.tokens').textContent")
    assert said
    assert browser.run(f"{LAST}.querySelector('.t').style.getPropertyValue('--doubt')")
    browser.run(f"{LAST}.querySelector('.t').click()")
    assert browser.run("document.querySelectorAll('#tip li').length") >= 6
    browser.key("Escape")
    assert browser.run("document.querySelector('#tip').hidden")
    browser.run(f"{LAST}.querySelector('.tokens').focus()")
    browser.key("ArrowRight")
    assert not browser.run("document.querySelector('#tip').hidden")

    browser.open(address + "?lang=en")  # the conversation is still there
    assert browser.run(f"{LAST}.querySelector('.tokens').textContent") == said
    assert browser.run("document.querySelector('#send').innerText") == "Send"
    assert browser.run("document.querySelector('#chat-text').ariaLabel") == "Message"
    browser.run("document.querySelector('#new').click()")
    assert browser.run("document.querySelectorAll('.m').length") == 0
    browser.run("document.querySelector('#list .name').click()")
    assert browser.run(f"{LAST}.querySelector('.tokens').textContent") == said
    assert browser.complaints == []


def test_regenerate_stop_and_the_same_seed(browser, address):
    browser.open(address)
    browser.run("seed.value = '5'; seed.dispatchEvent(new Event('input'))")
    ask(browser, "甲")
    first = browser.run(f"{LAST}.querySelector('.tokens').textContent")
    browser.run("document.querySelector('.acts button').click()")
    browser.wait(f"{IDLE} && document.querySelector('.assistant .acts button')")
    assert browser.run(f"{LAST}.querySelector('.tokens').textContent") == first
    assert browser.run("document.querySelectorAll('.assistant').length") == 1
    browser.run("document.querySelector('.acts button').click(); document.querySelector('#stop').click()")
    browser.wait(IDLE)
    assert browser.run("document.querySelectorAll('.notice').length") == 0
    assert browser.run(f"{LAST}.querySelector('.tokens').textContent") == first  # stopped before anything came
    assert browser.complaints == []


def test_continuation_and_attention(browser, address):
    browser.open(address)
    browser.run("document.querySelector('#tab-write').click(); document.querySelector('#samples button').click()")
    browser.wait("!document.querySelector('#write-go').hidden && document.querySelector('#write-out .t')")
    browser.run("document.querySelector('#write-look').click()")
    browser.wait("!document.querySelector('#look-out').hidden")
    assert browser.run("document.querySelectorAll('#heads button').length") == 4
    browser.run("document.querySelectorAll('#heads button')[3].click()")
    browser.wait("document.querySelectorAll('#heads button')[3].ariaPressed === 'true'")
    assert browser.run("document.querySelectorAll('#curves path').length") == 4
    assert "%" in browser.run("document.querySelector('#look-at').innerText")
    assert browser.complaints == []


def test_a_phone_scrolls_in_one_direction(browser, address):
    browser.size(390, 844)
    browser.open(address)
    ask(browser, "你好" * 200)
    for tab in ("chat", "write", "look"):
        browser.run(f"document.querySelector('#tab-{tab}').click()")
        assert browser.run("document.documentElement.scrollWidth") == 390


def test_key_is_asked_for_and_errors_are_told(browser):
    with serving(api_key="geheim", max_prompt_tokens=40) as address:
        browser.open(address)
        browser.type("#chat-text", "你好")
        browser.wait("document.querySelector('#key-dialog').open")
        browser.type("#key", "falsch")
        browser.wait("document.querySelector('#key-dialog').open && !document.querySelector('#key-wrong').hidden")
        browser.type("#key", "geheim")
        browser.wait(f"{IDLE} && document.querySelector('.assistant .acts button')")
        ask(browser, "长" * 50)
        browser.wait("document.querySelector('.notice')")
        assert "太长了" in browser.run("document.querySelector('.notice').innerText")
        assert browser.run("sessionStorage.getItem('congling.key')") == "geheim"
        assert "geheim" not in browser.run("JSON.stringify(localStorage)")
    browser.run("document.querySelector('#new').click()")
    browser.type("#chat-text", "在吗")
    browser.wait("document.querySelector('.notice')")
    assert "连不上" in browser.run("document.querySelector('.notice').innerText")


def test_a_base_model_opens_at_continuation(browser):
    with serving(tuned=False) as address:
        browser.open(address)
        assert browser.run("document.querySelector('#tab-write').ariaSelected") == "true"
        assert browser.run("document.querySelector('#send').disabled")
