"""The labelling page in a real browser: keys, undo, notes, languages; markup in a text stays text."""

import json
import queue
import shutil
import socket
import subprocess
import threading
import time
from contextlib import closing

import pytest
import uvicorn
from fastapi import Request
from fastapi.responses import HTMLResponse
from fastapi.testclient import TestClient

from congling.clean.quality.config import LabelConfig
from congling.clean.quality.labels import read
from congling.clean.quality.page import Desk, create_app
from congling.clean.quality.sample import Document

EVIL = "<img src=x onerror=alert(1)>\n<script>document.title='evil'</script>"
PROBE = """<script>
const found = {errors: []}, box = () => document.getElementById("text");
onerror = message => found.errors.push(message);
const sleep = () => new Promise(done => setTimeout(done, 10));
const until = async test => { for (let n = 0; n < 300 && !test(); n++) await sleep(); };
const press = async (key, test) => {
  document.body.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
  await until(() => test() && !waiting);
};
Object.defineProperty(document, "title", {set: () => found.errors.push("evil")});
(async () => {
  await until(() => current && !waiting);
  found.first = box().textContent;
  found.markup = box().children.length;
  await press("1", () => current?.number === 1);
  document.getElementById("note").value = "还行";
  await press("M", () => current?.number === 2);
  await press("z", () => current?.number === 1);
  await press("3", () => current?.number === 2);
  await press("ArrowLeft", () => current?.number === 1);
  found.again = box().className;
  document.getElementById("language").click();
  found.english = [document.documentElement.lang, box().offsetHeight > 100, document.querySelector(".mark").innerText];
  await press("ArrowRight", () => current?.number === 2);
  await press("l", () => !current);
  found.end = box().textContent;
  found.fits = document.documentElement.scrollWidth <= innerWidth;
  fetch("found", {method: "POST", body: JSON.stringify(found)});
})();
</script></body>"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_labelling_by_keyboard(tmp_path):
    config = LabelConfig(labels=str(tmp_path / "labels.jsonl"))
    documents = [Document(text, len(text), n, "源") for n, text in enumerate((EVIL, "二", "三"))]
    app, found = create_app(Desk(documents, "a@0", config), config), queue.Queue()
    page = TestClient(app, base_url="http://localhost").get("/").text.replace("</body>", PROBE)
    app.get("/probe")(lambda: HTMLResponse(page))

    @app.post("/found")
    async def take(request: Request):
        found.put(await request.body())

    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --window-size=500,800"
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/probe"
        command = ["chromium", *flags.split(), f"--user-data-dir={tmp_path / 'browser'}", url]
        browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            report = json.loads(found.get(timeout=30))
        finally:
            browser.terminate()
            browser.wait(10)
            server.should_exit = True
            thread.join(10)
    assert report == {
        "errors": [],
        "first": EVIL,
        "markup": 0,
        "again": "low",
        "english": ["en", True, "从零 · label"],
        "end": "All done. Thank you!",
        "fits": True,
    }
    rows = [(row.id, row.label, row.note) for row in read(tmp_path / "labels.jsonl")]
    assert rows == [(0, "high", ""), (1, "mid", "还行"), (1, None, ""), (1, "low", ""), (2, "low", "")]
    assert read(tmp_path / "labels.jsonl")[0].time <= time.time()
