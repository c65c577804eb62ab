"""Counters and latencies of one server, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from prometheus_client import (
    CONTENT_TYPE_PLAIN_0_0_4,
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics import MetricWrapperBase

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


@dataclass(frozen=True, slots=True)
class BatchStats:
    """One forward pass: how many inputs, and for how long the model's thread ran (s)."""

    kind: str
    size: int
    seconds: float


Observe = Callable[[BatchStats], None]


class Metrics:
    """What one server counts, in a registry of its own."""

    def __init__(self) -> None:
        disable_created_metrics()  # a second series for each one, which nothing here needs
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self.requests = self.counter(
            "footnote_requests_total", "Answers by route and status.", "route", "method", "status"
        )
        self.seconds = self._histogram(
            "footnote_request_seconds", "Time to the whole answer.", "route", BUCKETS_S
        )
        # Looking up the labels takes longer than counting: once for each route is enough.
        self._labelled = cache(
            lambda route, method, status: (
                self.requests.labels(route, method, status),
                self.seconds.labels(route),
            )
        )
        self.batch = self._histogram(
            "footnote_batch_size", "Inputs in one forward pass.", "kind", BATCH_SIZES
        )
        self.batch_seconds = self._histogram(
            "footnote_batch_seconds", "Time of one forward pass.", "kind", BUCKETS_S
        )

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        """Add a counter."""
        return Counter(name, text, labels, registry=self.registry)

    def gauge(self, name: str, text: str, *labels: str) -> Gauge:
        """Add a gauge that is set."""
        return Gauge(name, text, labels, registry=self.registry)

    def gauges(self, read: Mapping[str, tuple[str, Callable[[], float]]]) -> None:
        """Add gauges: name to help text and what reads the value when it is asked for."""
        for name, (text, function) in read.items():
            self.gauge(name, text).set_function(function)

    def observe_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one answer."""
        counter, histogram = self._labelled(route, method, status)
        counter.inc()
        histogram.observe(seconds)

    def observe_batch(self, stats: BatchStats) -> None:
        """Count one forward pass."""
        self.batch.labels(stats.kind).observe(stats.size)
        self.batch_seconds.labels(stats.kind).observe(stats.seconds)

    def text(self) -> bytes:
        """Everything in Prometheus' text format, version 0.0.4."""
        return generate_latest(self.registry)

    def _histogram(self, name: str, text: str, label: str, bounds: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, (label,), buckets=bounds, registry=self.registry)


def values(metric: MetricWrapperBase) -> dict[tuple[str, ...], float]:
    """The present numbers of a counter or gauge by its label values."""
    return {tuple(s.labels.values()): s.value for m in metric.collect() for s in m.samples}
