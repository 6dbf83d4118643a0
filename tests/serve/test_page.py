"""The page by its files, and what it asks of the server beyond the public API. Chromium looks in test_browser.py."""

import base64
import json
import re
from html import unescape
from html.parser import HTMLParser
from importlib.resources import files

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from congling.chat import render
from congling.infer.config import SampleConfig
from congling.serve.app import create_app
from congling.serve.config import ServeConfig
from congling.serve.page import MAX_LOOK_TOKENS
from infer import toy

WEB = files("congling.serve").joinpath("web")
NAMES = sorted(item.name for item in WEB.iterdir())
TEXTS = {name: WEB.joinpath(name).read_text(encoding="utf-8") for name in NAMES}
SCRIPTS = {name: text for name, text in TEXTS.items() if name.endswith(".js")}
HTML = TEXTS["index.html"]


@pytest.fixture(scope="module")
def model():
    return toy.model()


def client(model, **config):
    app: FastAPI = create_app(model, ServeConfig(**config), SampleConfig(temperature=0.3))
    return TestClient(app, base_url="http://127.0.0.1")


def look(model, body, **config):
    return client(model, **config).post("/inspect", json=body)


# -- files -------------------------------------------------------------------------------------------------------------


class Elements(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.all = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.all.append((tag, dict(attributes)))


ELEMENTS = Elements(HTML).all
IDS = [attributes["id"] for _, attributes in ELEMENTS if "id" in attributes]


def test_ids_that_scripts_ask_for_are_there_once():
    assert len(IDS) == len(set(IDS))
    made = {"temperature", "top_p", "min_p", "repetition_penalty", "repetition_decay", "max_tokens"}  # by settings.js
    asked = {name for text in SCRIPTS.values() for name in re.findall(r'\$\("([\w-]+)"\)', text)}
    assert asked
    assert asked <= {*IDS, *made}
    for _, attributes in ELEMENTS:
        for key in ("for", "aria-controls", "aria-labelledby"):
            assert attributes.get(key, IDS[0]) in IDS


def test_every_label_is_in_both_languages():
    pattern = re.compile(r'<span lang="zh">([^<]+)</span><span lang="en">([^<]+)</span>')
    pairs = pattern.findall(HTML)
    assert len(pairs) == HTML.count('lang="zh">') - 1 == HTML.count('lang="en">')  # one is the page itself
    for _, attributes in ELEMENTS:
        assert ("data-zh" in attributes) == ("data-en" in attributes)
        assert ("data-hint-zh" in attributes) == ("data-hint-en" in attributes)
    bare = re.sub(r"<noscript>.*?</noscript>|<h1>.*?</h1>", "", pattern.sub("", HTML), flags=re.DOTALL)
    bare = re.sub(r"<title>.*?</title>", "", bare)
    assert not re.findall(r"[一-鿿]", re.sub(r"<[^>]*>", "", bare))


def test_controls_have_names():
    labelled = {attributes["for"] for tag, attributes in ELEMENTS if tag == "label" and "for" in attributes}
    for tag, attributes in ELEMENTS:
        if tag == "textarea" or (tag == "input" and attributes.get("type") != "checkbox"):
            assert attributes["id"] in labelled or "data-zh" in attributes, attributes
        if tag == "button":
            assert attributes["type"] in ("button", "submit")
            assert "icon" not in attributes.get("class", "") or "data-zh" in attributes


def test_nothing_is_inline_and_nothing_comes_from_elsewhere():
    for tag, attributes in ELEMENTS:
        assert tag != "style"
        assert "style" not in attributes
        assert not [key for key in attributes if key.startswith("on")]
        assert tag != "script" or attributes["src"] == "web/main.js"
    for name, text in TEXTS.items():
        addresses = set(re.findall(r"https?://[\w./]+", text))
        assert addresses <= {"http://www.w3.org/2000/svg"}, name
        assert ".innerHTML" not in text, name  # text of a model stays text
        assert "eval(" not in text, name
    imported = {name for text in SCRIPTS.values() for name in re.findall(r'from "\./([\w.]+)"', text)}
    assert imported | {"main.js"} == set(SCRIPTS)


def test_the_page_is_small():
    assert sum(len(text.encode()) for text in TEXTS.values()) < 80_000
    assert all(text.count("\n") <= 400 for text in TEXTS.values())


# -- routes ------------------------------------------------------------------------------------------------------------


def test_page_is_served_with_its_facts(model):
    reply = client(model, name="<我的>", max_tokens=100).get("/")
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    facts = json.loads(unescape(re.search(r'data-facts="([^"]*)"', reply.text)[1]))
    assert facts["model"] == "<我的>"
    assert "<title>&lt;我的&gt;" in reply.text
    assert facts["chat"] is True
    assert facts["sampling"]["temperature"] == 0.3
    assert facts["sampling"]["max_tokens"] == facts["limits"]["max_tokens"] == 100
    assert "{{" not in reply.text


def test_files_are_open_but_only_those_of_the_page(model):
    http = client(model, api_key="geheim")
    assert http.get("/").status_code == 200
    assert http.get("/web/main.js").headers["content-type"] == "text/javascript; charset=utf-8"
    assert http.get("/web/style.css").headers["content-type"] == "text/css; charset=utf-8"
    for name in ("page.py", "..%2Fpage.py", "%2e%2e/app.py", "nothing.js"):
        assert http.get(f"/web/{name}").status_code == 404
    assert http.post("/inspect", json={"text": "你好"}).status_code == 401


def test_inspect_a_text(model):
    reply = look(model, {"text": "你好", "layer": 1, "head": 1})
    assert reply.status_code == 200
    seen = reply.json()
    assert [token["bytes"] for token in seen["tokens"]] == [None, *([byte] for byte in "你好".encode())]
    assert seen["tokens"][0]["logprob"] is None
    assert all(token["logprob"] < 0 and len(token["top_logprobs"]) == 5 for token in seen["tokens"][1:])
    weights = base64.b64decode(seen["weights"])
    assert len(weights) == 49
    assert all(abs(sum(weights[row * 7 : row * 7 + 7]) - 255) < 7 for row in range(7))
    assert weights[1] == 0
    for name in ("distance", "own", "before", "first"):
        assert [len(row) for row in seen[name]] == [2, 2]
    factor, summand = seen["decay"][0]
    assert len(factor) == len(summand) == 2
    assert len(factor[0]) == len(seen["distances"])


def test_inspect_a_conversation(model):
    messages = [{"role": "user", "content": "你好"}]
    seen = look(model, {"messages": messages}).json()
    assert len(seen["tokens"]) == 1 + len(render(messages, model.tokenizer, generation_prompt=True)[0])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "either text or messages"),
        ({"text": "x", "messages": [{"role": "user", "content": "x"}]}, "either text or messages"),
        ({"text": "x" * 500}, f"at most {MAX_LOOK_TOKENS}"),
        ({"text": "x", "layer": 9}, "2 layers of 2 heads"),
        ({"text": "x", "head": -1}, "head"),
        ({"text": "x", "what": 1}, "what"),
        ({"text": 5}, "text"),
    ],
)
def test_what_cannot_be_inspected(model, body, said):
    reply = look(model, body)
    assert reply.status_code == 400
    assert said in reply.json()["error"]["message"]
