"""Chromium without a driver: its debugging protocol over two pipes (``--remote-debugging-pipe``)."""

import json
import os
import select
import shutil
import subprocess
import sys
import time

PATH = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)


class Chromium:
    """One browser with one page in it. ``complaints``: exceptions of scripts and what the console calls errors."""

    def __init__(self, folder):
        (reads, self._out), (self._in, writes) = os.pipe(), os.pipe()
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={folder}"]
        program = f"import os, sys; os.dup2({reads}, 3); os.dup2({writes}, 4); os.execv(sys.argv[1], sys.argv[1:])"
        self._process = subprocess.Popen(
            [sys.executable, "-c", program, PATH, *options, "--remote-debugging-pipe", "about:blank"],
            pass_fds=(reads, writes),
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        os.close(reads)
        os.close(writes)
        self._data, self._count, self._session = b"", 0, None
        self.complaints = []
        self.size(1000, 800)

    def size(self, width, height):
        """A fresh page of this size, with storage of its own."""
        context = self.call("Target.createBrowserContext", at=None)["browserContextId"]
        page = {"url": "about:blank", "browserContextId": context}
        target = self.call("Target.createTarget", at=None, **page)["targetId"]
        self._session = self.call("Target.attachToTarget", at=None, targetId=target, flatten=True)["sessionId"]
        for domain in ("Runtime", "Log", "Page"):
            self.call(f"{domain}.enable")
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.call("Emulation.setDeviceMetricsOverride", **screen)

    def call(self, method, at="page", **parameters):
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if at is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return answer["result"]

    def run(self, script):
        """The value of an expression of JavaScript; promises are waited for."""
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, condition, seconds=60):
        """Until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < end, f"never: {condition}; {self.complaints}"
            time.sleep(0.03)

    def open(self, address):
        self.call("Page.navigate", url=address)
        self.wait(f"location.href === {json.dumps(address)} && document.readyState === 'complete'")

    def type(self, selector, text):
        """Into a field, by keys that end with Enter."""
        self.run(f"document.querySelector({json.dumps(selector)}).focus()")
        self.call("Input.insertText", text=text)
        self.key("Enter", "\r")

    def key(self, name, text=""):
        codes = {"Enter": 13, "Escape": 27, "ArrowRight": 39}
        key = {"key": name, "code": name, "windowsVirtualKeyCode": codes[name], "text": text}
        self.call("Input.dispatchKeyEvent", type="keyDown", **key)
        self.call("Input.dispatchKeyEvent", type="keyUp", **key)

    def close(self):
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def _read(self):
        while b"\0" not in self._data:
            assert select.select([self._in], [], [], 30)[0], "Chromium says nothing"
            part = os.read(self._in, 1 << 16)
            assert part, "Chromium has ended"
            self._data += part
        line, self._data = self._data.split(b"\0", 1)
        message = json.loads(line)
        if message.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(message["params"]["exceptionDetails"])
        if message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
            self.complaints.append(message["params"]["entry"]["text"])
        return message
