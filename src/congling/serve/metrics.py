"""What ``/metrics`` tells Prometheus: requests, tokens, times, and how full the engine is."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from congling.infer.engine import Engine
from congling.serve.guard import Gate

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_GAUGES = {
    "running": "Requests that the engine works at.",
    "waiting": "Requests that wait for their turn.",
    "pages_held": "Pages of the cache in use.",
    "pages_kept": "Pages of the cache kept for prompts that begin alike.",
    "pages_total": "Pages of the cache in all.",
    "page_bytes": "Bytes of a page.",
}
_COUNTERS = {
    "steps": "Steps of the engine.",
    "seconds": "Seconds in steps.",
    "prompt_tokens": "Prompt tokens computed.",
    "reused_tokens": "Prompt tokens taken over from the cache.",
    "reused_prompts": "Prompts of which a part was taken over.",
    "tokens": "Tokens generated.",
    "guessed_tokens": "Tokens guessed by prompt lookup.",
    "accepted_tokens": "Guessed tokens that were right.",
}


class Metrics:
    """The figures of one server: a registry of its own, nothing global."""

    def __init__(self, engine: Engine, gate: Gate) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, file descriptors, processor time
        self.registry.register(_EngineFigures(engine, gate))
        self.requests = Counter(
            "congling_requests", "Requests by route and status.", ("path", "status"), registry=self.registry
        )
        self.left = Counter("congling_disconnects", "Clients that left before the end.", registry=self.registry)
        self.seconds = Histogram(
            "congling_request_seconds", "Seconds of an answer.", ("path",), buckets=_SECONDS, registry=self.registry
        )
        self.first = Histogram(
            "congling_first_token_seconds",
            "Seconds to the first token.",
            ("path",),
            buckets=_SECONDS,
            registry=self.registry,
        )

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)


class _EngineFigures(Collector):
    """The engine's own counts, read when they are asked for."""

    def __init__(self, engine: Engine, gate: Gate) -> None:
        self._engine, self._gate = engine, gate

    def collect(self) -> Iterable[Metric]:
        stats = self._engine.stats
        yield GaugeMetricFamily("congling_requests_open", "POST requests under way.", value=self._gate.running)
        for name, text in _GAUGES.items():
            yield GaugeMetricFamily(f"congling_engine_{name}", text, value=getattr(stats, name))
        for name, text in _COUNTERS.items():
            yield CounterMetricFamily(f"congling_engine_{name}", text, value=getattr(stats, name))
        refused = CounterMetricFamily("congling_refused", "Requests that reached no route.", labels=["status"])
        for status, count in self._gate.refused.items():
            refused.add_metric([str(status)], count)
        yield refused
        ended = CounterMetricFamily("congling_engine_ended", "Requests by how they ended.", labels=["how"])
        for how in ("done", "cancelled", "error"):
            ended.add_metric([how], stats.ended[how])
        yield ended
