import io
import json
import re
import shutil
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from congling import pipeline
from congling.clean.rules import REASONS
from congling.report import words
from congling.report.data import STAGES, read_run
from congling.report.run import build, run
from congling.reporter import Reporter
from report.fake_run import PLANTED, make_run


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs"))


def test_the_page_knows_every_stage_and_reason():
    assert tuple(spec.name for spec in pipeline.STAGES) == STAGES == tuple(words.NAMES)
    assert set(words.REASONS) >= set(REASONS)


def test_whole_run(whole):
    path = run(whole, Reporter(io.StringIO()))
    page = path.read_text(encoding="utf-8")
    assert path == whole / "report.html"
    for shown in (
        "23.3 MB",
        "582 万",
        "5.82 M",
        "1.602",
        "完全重复",
        "a_new_rule",
        "形容专心致志",
        "211",
        "9 分 44 秒",
    ):
        assert shown in page, shown
    assert page.count('class="chart"') == 2 + 6 + 6
    assert "尚未完成。" not in page
    assert "pretrain.batch_tokens" in page
    assert build(whole) == page


def test_untrusted_text_stays_text(whole):
    page = build(whole)
    assert page.count("<script>") == 1
    assert "<img" not in page
    assert page.count("&lt;script&gt;") >= 8  # rejects, samples, notes, questions: shown, not run
    assert PLANTED not in page


def test_nothing_is_loaded_from_elsewhere(whole):
    page = build(whole).replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r'(src|href)="(?!#|data:)', page)
    assert "url(" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page


def test_run_under_way(tmp_path):
    folder = make_run(tmp_path, upto="tokenize", begun="pretrain")
    page = build(folder)
    assert "已开始，尚未完成" in page
    assert page.count("尚未完成。") == 2  # sft and evaluation
    assert page.count('class="chart"') == 2 + 6
    assert "4 / 7" in page


def test_run_that_only_began(tmp_path):
    folder = make_run(tmp_path, upto="fetch", begun=None, name="new")
    with pytest.raises(ValueError, match="no such folder"):
        build(folder)
    (folder / "clean").mkdir(parents=True)
    (folder / "clean" / ".lock").touch()
    with pytest.raises(ValueError, match="no stage has begun here"):
        build(folder)
    (folder / "clean" / "state.json").write_text("{}")
    assert "这次运行刚刚开始" in build(folder)


def test_stage_instead_of_run_is_named(whole):
    with pytest.raises(ValueError, match=r"clean: is one stage; the run is .*demo$"):
        build(whole / "clean")


def test_damaged_manifest_is_said_and_the_rest_shown(tmp_path):
    folder = make_run(tmp_path, upto="tokenizer")
    (folder / "tokenizer" / "manifest.json").write_text("{")
    out = io.StringIO()
    page = run(folder, Reporter(out)).read_text(encoding="utf-8")
    assert "not a manifest" in out.getvalue()
    assert "清单损坏" in page
    assert "完全重复" in page


def test_rejects_come_from_the_shard_when_the_summary_has_none(tmp_path):
    folder = make_run(tmp_path, upto="clean")
    path = folder / "clean" / "manifest.json"
    manifest = json.loads(path.read_bytes())
    del manifest["summary"]["examples"]
    path.write_text(json.dumps(manifest))
    assert read_run(folder).rejects["too_short"][0]["text"] == "短"
    assert "characters 1 &lt; 10" in build(folder)


def test_figures_of_the_wrong_kind_do_not_break_the_page(tmp_path):
    folder = make_run(tmp_path, upto="tokenizer")
    with open(folder / "tokenizer" / "metrics.jsonl", "a") as file:
        rows = [{"kind": "round"}, {"kind": "round", "step": "x", "pieces_by_length": [1]}, {"kind": 3}, [1]]
        file.writelines(json.dumps(row) + "\n" for row in rows)
    assert "词表" in build(folder)


# -- in a browser --------------------------------------------------------------------------------------------------

PROBE = """<!doctype html>
<iframe id=f src="report.html" style="width:390px;height:800px;border:0"></iframe><pre id=o></pre>
<script>document.getElementById("f").onload = e => {
  const page = e.target.contentDocument, root = page.documentElement, found = {};
  const seen = q => getComputedStyle(page.querySelector(q)).display !== "none";
  found.first = [root.lang, seen("h2 [lang=zh]"), seen("h2 [lang=en]")];
  page.getElementById("language").click();
  found.switched = [root.lang, seen("h2 [lang=zh]"), seen("h2 [lang=en]")];
  found.fits = root.scrollWidth <= 390;
  const frames = page.querySelector(".frames"), slider = frames.querySelector("input");
  slider.value = 0; slider.dispatchEvent(new Event("input"));
  found.frame = frames.querySelector(".frame.shown h4 [lang=en]").textContent;
  const chart = page.querySelector("#pretrain .chart"), svg = chart.querySelector("svg");
  const box = svg.getBoundingClientRect();
  const value = () => chart.querySelector(".legend b").textContent, last = value();
  const move = new PointerEvent("pointermove", {clientX: box.left + box.width * 0.3, clientY: box.top + 20});
  svg.dispatchEvent(move);
  found.hover = value() !== last && chart.querySelectorAll(".cursor circle").length;
  svg.dispatchEvent(new PointerEvent("pointerleave"));
  found.left = value() === last;
  found.title = page.title;
  document.getElementById("o").textContent = JSON.stringify(found);
};</script>"""


class _Handler(SimpleHTTPRequestHandler):
    asked: list[str]

    def do_GET(self):
        self.server.asked.append(self.path)
        super().do_GET()

    def log_message(self, *args):
        pass


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_in_a_browser(whole, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(tmp_path)))
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    here = f"http://127.0.0.1:{server.server_port}"
    page = build(whole).replace("http://example.invalid", here)  # were the planted picture loaded, we would see it
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    (tmp_path / "probe.html").write_text(PROBE, encoding="utf-8")
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --virtual-time-budget=3000 --enable-logging=stderr --dump-dom"
    command = ["chromium", *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", f"{here}/probe.html"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    server.shutdown()
    server.server_close()
    assert "CONSOLE" not in done.stderr, done.stderr
    assert set(server.asked) - {"/favicon.ico"} == {"/probe.html", "/report.html"}  # the probe itself has no icon
    found = json.loads(re.search(r'<pre id="o">(.*?)</pre>', done.stdout)[1])
    assert found == {
        "first": ["zh", True, False],
        "switched": ["en", False, True],
        "fits": True,
        "frame": "after 600 k tokens",
        "hover": 2,
        "left": True,
        "title": "demo · 从零 congling",
    }
