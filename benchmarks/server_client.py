"""A light streaming client of many connections, a process of its own; tells its figures as JSON.

Usage: python benchmarks/server_client.py PORT CLIENTS SECONDS MAX_TOKENS [SEED]
"""

import asyncio
import json
import random
import sys
import time

WORDS = [chr(c) for c in range(0x4E00, 0x4E00 + 4000)]


class Stream(asyncio.Protocol):
    """One request on its connection. Looks at bytes only: parsing each event would cost more than making it."""

    def __init__(self, data):
        self.data, self.done = data, asyncio.get_running_loop().create_future()
        self.first, self.last, self.gaps, self.tail, self.head = None, 0.0, [], b"", b""

    def connection_made(self, transport):
        self.transport, self.start = transport, time.perf_counter()
        transport.write(self.data)

    def data_received(self, data):
        now = time.perf_counter()
        if not self.head:
            self.head = data[:12]
        if b'"content":"' in data and b'"role"' not in data:
            if self.first is None:
                self.first = now - self.start
            else:
                self.gaps.append(now - self.last)
            self.last = now
        self.tail = (self.tail + data)[-1500:]
        if b"data: [DONE]" in self.tail or not self.head.endswith(b"200"):
            self.finish()

    def connection_lost(self, error):
        self.finish()

    def finish(self):
        if not self.done.done():
            self.transport.close()
            self.done.set_result(None)

    def tokens(self):
        found = self.tail.rsplit(b'"completion_tokens":', 1)
        return int(found[1].split(b",")[0].split(b"}")[0]) if len(found) == 2 else None


def request(random_, max_tokens):
    text = "".join(random_.choices(WORDS, k=random_.randint(10, 50)))
    body = {
        "messages": [{"role": "user", "content": text}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": max_tokens,
        "top_p": 1.0,  # random weights give flat distributions, of which a nucleus takes unusually long to find
        "logit_bias": {"1": -100, "2": -100, "3": -100},
    }
    data = json.dumps(body).encode()
    head = f"Host: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    head = f"POST /v1/chat/completions HTTP/1.1\r\n{head}"
    return head.encode() + data


async def client(port, end, max_tokens, random_, results):
    while time.perf_counter() < end:
        _, stream = await asyncio.get_running_loop().create_connection(
            lambda: Stream(request(random_, max_tokens)), "127.0.0.1", port
        )
        await stream.done
        results.append((stream, time.perf_counter()))


async def main(port, clients, seconds, max_tokens, seed=0):
    results = []
    start = time.perf_counter()
    end = start + seconds
    work = [client(port, end, max_tokens, random.Random(1000 * seed + n), results) for n in range(clients)]
    await asyncio.gather(*work)
    took = max(at for _, at in results) - start
    tokens = [stream.tokens() for stream, _ in results]
    firsts = sorted(stream.first for stream, _ in results if stream.first is not None)
    gaps = sorted(gap for stream, _ in results for gap in stream.gaps)

    def at(values, part):
        return round(values[int(part * (len(values) - 1))] * 1000, 1) if values else None

    figures = {
        "clients": clients,
        "seconds": round(took, 1),
        "requests": len(results),
        "errors": sum(count is None for count in tokens),
        "tokens": sum(filter(None, tokens)),
        "tokens_per_second": round(sum(filter(None, tokens)) / took, 1),
        "first_token_ms": {"p50": at(firsts, 0.5), "p95": at(firsts, 0.95)},
        "gap_ms": {"p50": at(gaps, 0.5), "p95": at(gaps, 0.95), "p99": at(gaps, 0.99)},
        "client_cpu_seconds": round(time.process_time(), 1),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
