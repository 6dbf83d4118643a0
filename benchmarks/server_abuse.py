"""10,000 requests, many of them broken, over-long, slow, or left by their clients: no leak, no crash, no wrong status.

Usage: python benchmarks/server_abuse.py [MODEL] [requests=10000] [clients=64] [seed=1] [key=value of serve …]
Without MODEL: the preset demo with random weights and 65,536 ids (folder /tmp/congling-benchmark).
"""

import asyncio
import json
import random
import sys
import time
from collections import Counter
from contextlib import suppress

from common import store
from server_process import COMMON, holdings, random_model, serving

LIMITS = (
    "serve.max_body_bytes=100000",
    "serve.body_timeout=2",
    "serve.max_prompt_tokens=512",
    "serve.max_tokens=48",
    "engine.memory_mb=128",
)
GONE = "gone"  # the client has left: no status is expected
TEXT = ("application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "")


class Abuse:
    """One client after the other asks what its dice say, and looks whether the status is one that may be."""

    def __init__(self, port, seed):
        self.port, self.dice = port, random.Random(seed)
        self.statuses, self.kinds, self.wrong = Counter(), Counter(), []
        self.ways = [name for name in dir(self) if name.startswith("do_")]

    async def one(self):
        way = self.dice.choice(self.ways)
        self.kinds[way[3:]] += 1
        status, expected = await getattr(self, way)()
        self.statuses[status] += 1
        if status not in expected:
            self.wrong.append(f"{way}: {status}, not {sorted(expected, key=str)}")

    # -- what is asked -------------------------------------------------------------------------------------------

    def text(self, low=1, high=40):
        return "".join(self.dice.choices(COMMON, k=self.dice.randint(low, high)))

    def body(self, **more):
        messages = [{"role": "user", "content": self.text()} for _ in range(self.dice.randint(1, 3))]
        return {"messages": messages, "max_tokens": self.dice.randint(1, 48), **more}

    async def do_whole(self):
        return await self.ask(self.body(n=self.dice.randint(1, 3))), {200, 429}

    async def do_stream(self):
        return await self.ask(self.body(stream=True, stop=[self.text(1, 1)], logprobs=True, top_logprobs=3)), {200, 429}

    async def do_completion(self):
        prompt = self.dice.choice([self.text(), [self.text(), self.text()], [300, 301, 302], [[300], [400, 500]]])
        body = {"prompt": prompt, "max_tokens": 8, "echo": True, "logprobs": self.dice.choice([None, 0, 2])}
        return await self.ask(body, "completions"), {200, 429}

    async def do_search(self):
        way = self.dice.choice([{"beams": 3}, {"tree": 2}, {"n": 2, "best_of": 3}, {"temperature": 0}])
        return await self.ask(self.body(**{**way, "max_tokens": 6})), {200, 429}

    async def do_form(self):
        return await self.ask(self.body(regex="[0-9]{1,5}", max_tokens=8)), {200, 429}

    async def do_leave_stream(self):
        return await self.ask(self.body(stream=True, n=2), leave=self.dice.randint(1, 4000)), {GONE, 200, 429}

    async def do_leave_at_once(self):
        return await self.ask(self.body(stream=self.dice.random() < 0.5), leave=0), {GONE}

    async def do_leave_in_body(self):
        data = self.request(self.body())
        return await self.send([data[: self.dice.randint(1, len(data) - 1)]], leave=0), {GONE}

    async def do_slow_body(self):
        data = self.request(self.body())
        parts = [data[:120], data[120:140], data[140:]]
        return await self.send(parts, pause=0.2), {200, 429}

    async def do_too_slow_body(self):
        return await self.send([self.request(self.body())[:-5]]), {408}

    async def do_slow_reader(self):
        return await self.ask(self.body(stream=True), slow=0.02), {200, 429}

    async def do_broken_json(self):
        data = json.dumps(self.body()).encode()
        place = self.dice.randrange(1, len(data))
        broken = self.dice.choice([data[:place], b"\xff" + data, b"", b"[" * 5000, b"null", b'{"a":\\ud800}'])
        return await self.ask(broken), {400}

    async def do_wrong_field(self):
        wrong = [
            {"n": 99}, {"temperature": "hot"}, {"tools": [{}]}, {"colour": 1}, {"messages": []}, {"seed": 2**70},
            {"regex": "("}, {"logit_bias": {"99999": 1}}, {"stop": 3}, {"max_tokens": -1}, {"top_p": 0},
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": 3}}}},
        ]  # fmt: skip
        return await self.ask(self.body(**self.dice.choice(wrong))), {400}

    async def do_long_prompt(self):
        return await self.ask(self.body(messages=[{"role": "user", "content": self.text(3000, 9000)}])), {400}

    async def do_long_body(self):
        return await self.ask(b" " * self.dice.randint(100_001, 900_000)), {413}

    async def do_wrong_model(self):
        return await self.ask(self.body(model="gpt-9")), {404}

    async def do_wrong_path(self):
        return await self.ask(self.body(), "nothing"), {404}

    async def do_wrong_type(self):
        return await self.ask(self.body(), kind=self.dice.choice(TEXT[1:])), {415}

    async def do_wrong_host(self):
        return await self.ask(self.body(), host="evil.example"), {403}

    async def do_get(self):
        path, status = self.dice.choice([("/health", 200), ("/v1/models", 200), ("/metrics", 200), ("/x", 404)])
        return await self.send([f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()]), {status}

    async def do_no_http(self):
        return await self.send([self.dice.randbytes(self.dice.randint(1, 300)) + b"\r\n\r\n"]), {400}

    # -- how ---------------------------------------------------------------------------------------------------------

    def request(self, body, path="chat/completions", kind="application/json", host="localhost"):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = (
            f"POST /v1/{path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        return head.encode() + data

    async def ask(self, body, path="chat/completions", leave=None, slow=0.0, **head):
        return await self.send([self.request(body, path, **head)], leave=leave, slow=slow)

    async def send(self, parts, pause=0.0, leave=None, slow=0.0):
        """Status of the answer; ``leave``: bytes of it after which the client goes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(pause)
            return await asyncio.wait_for(self.read(reader, leave, slow), 120)
        finally:
            writer.transport.abort()

    async def read(self, reader, leave, slow):
        found = b""
        while leave is None or len(found) < leave:
            part = await reader.read(512 if slow else 65536)
            found += part
            if not part or self.complete(found):
                return int(found[9:12]) if found[:5] == b"HTTP/" else "closed"
            await asyncio.sleep(slow)
        return GONE

    @staticmethod
    def complete(found):
        head, end, body = found.partition(b"\r\n\r\n")
        lower = head.lower()
        if b"content-length: " in lower:
            return end and len(body) >= int(lower.split(b"content-length: ")[1].split(b"\r\n")[0])
        return found.endswith(b"0\r\n\r\n") and b"chunked" in lower


async def run(port, count, clients, seed):
    abuse, left = Abuse(port, seed), iter(range(count))

    async def client():
        for _ in left:
            await abuse.one()

    await asyncio.gather(*(client() for _ in range(clients)))
    return abuse


async def figures_of(port):
    """The server's own account, once it is idle."""
    end = time.monotonic() + 60
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        text = (await reader.read()).decode()
        with suppress(ConnectionError):
            writer.close()
            await writer.wait_closed()
        found = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("congling_"))
        held = {
            name: float(found[f"congling_{name}"])
            for name in ("requests_open", "engine_running", "engine_waiting", "engine_pages_held")
        }
        if not any(held.values()) or time.monotonic() > end:
            ended = {name: float(value) for name, value in found.items() if "ended" in name or "disconnects_t" in name}
            return held, ended
        await asyncio.sleep(0.2)


async def measure(process, port, count, clients, seed):
    await run(port, count // 4, clients, seed + 1)  # everything has been made once, and the cache is full
    await figures_of(port)
    await asyncio.sleep(3)
    before, start = holdings(process.pid), time.monotonic()
    abuse = await run(port, count, clients, seed)
    held, ended = await figures_of(port)
    await asyncio.sleep(8)  # kept connections end
    return {
        "requests": count,
        "seconds": round(time.monotonic() - start, 1),
        "wrong": len(abuse.wrong),
        "examples": abuse.wrong[:10],
        "statuses": {str(status): n for status, n in sorted(abuse.statuses.items(), key=str)},
        "kinds": dict(sorted(abuse.kinds.items())),
        "held_at_the_end": held,
        "ended": ended,
        "before": before,
        "after": holdings(process.pid),
        "alive": process.poll() is None,
    }


def main(words):
    settings = dict(word.split("=", 1) for word in words if "=" in word)
    model = next((word for word in words if "=" not in word), None) or random_model("/tmp/congling-benchmark", "demo")
    count, clients, seed = (int(settings.pop(k, d)) for k, d in (("requests", 10_000), ("clients", 64), ("seed", 1)))
    rest = [f"{key}={value}" for key, value in settings.items()]
    with serving(model, *LIMITS, *rest) as (process, port):
        figures = asyncio.run(measure(process, port, count, clients, seed))
    store("server-abuse", figures)
    leaks = any(figures["held_at_the_end"].values())
    grown = [figures["after"][key] - figures["before"][key] for key in ("threads", "files")]
    if figures["wrong"] or leaks or max(grown) > 0 or not figures["alive"]:
        raise SystemExit("not clean: see above")


if __name__ == "__main__":
    main(sys.argv[1:])
