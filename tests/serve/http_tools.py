"""What the tests of the server share."""

import json
import threading
import time
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from socket import SO_SNDBUF, SOL_SOCKET, create_server

from fastapi.testclient import TestClient

from congling.infer.config import SampleConfig
from congling.serve.app import create_app
from congling.serve.config import ServeConfig
from congling.serve.server import Server

ASK = {"messages": [{"role": "user", "content": "你好"}]}


@contextmanager
def client(model, sampling=None, **config):
    app = create_app(model, ServeConfig(**config), sampling or SampleConfig())
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as http:
        yield http
    assert model.idle


def post(model, body, path="chat/completions", **config):
    with client(model, **config) as http:
        return http.post(f"/v1/{path}", json={**(ASK if path.startswith("chat") else {}), **body})


def events(reply):
    lines = [line for line in reply.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


@contextmanager
def served(model, routes=None, **config):
    """Runs the server in a thread and yields (port, server); ``routes``: takes the app, to add some."""
    app = create_app(model, ServeConfig(**config))
    if routes is not None:
        routes(app)
    with closing(create_server(("127.0.0.1", 0))) as listener:
        listener.setsockopt(SOL_SOCKET, SO_SNDBUF, 1 << 14)  # connections have it too: quickly full
        server = Server(app, ServeConfig(**config))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_until(lambda: server.started)
            yield listener.getsockname()[1], server
        finally:
            model.gate.set()
            server.should_exit = True
            thread.join(10)
    assert not thread.is_alive()


def wait_until(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not come to pass"
        time.sleep(0.005)


def ask(port, path="chat/completions", **body):
    """A connection on which the request has been sent."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    full = {**ASK, "max_tokens": 500, **body} if path.startswith("chat") else body
    connection.request("POST", f"/v1/{path}", json.dumps(full), {"Content-Type": "application/json"})
    return connection


def get(port, path):
    with closing(HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status, reply.read().decode()
