"""Counters and latencies in Prometheus' text format (version 0.0.4)."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BATCH_SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BatchStats:
    """One forward pass: how many inputs, and for how long the model's thread ran (s)."""

    kind: str
    size: int
    seconds: float


Observe = Callable[[BatchStats], None]


class Counter:
    """A number by label values that only grows (``kind`` = ``gauge``: a sum that may fall)."""

    def __init__(self, name: str, text: str, labels: Labels, kind: str = "counter") -> None:
        self.name, self.text, self.labels, self.kind = name, text, labels, kind
        self._values: dict[Labels, float] = {}
        self._lock = threading.Lock()

    def add(self, *values: str, by: float = 1) -> None:
        """Count under these label values, in the order of ``labels``."""
        with self._lock:
            self._values[values] = self._values.get(values, 0) + by

    def values(self) -> dict[Labels, float]:
        """The present numbers by label values."""
        with self._lock:
            return dict(self._values)

    def lines(self) -> Iterable[str]:
        """The samples."""
        yield from _head(self.name, self.text, self.kind)
        for key, value in self.values().items():
            yield f"{self.name}{_labels(self.labels, key)} {value:g}"


class Histogram:
    """How often which size, by label values."""

    def __init__(self, name: str, text: str, labels: Labels, bounds: tuple[float, ...]) -> None:
        self.name, self.text, self.labels, self.bounds = name, text, labels, bounds
        self._values: dict[Labels, tuple[list[int], float]] = {}
        self._lock = threading.Lock()

    def observe(self, size: float, *values: str) -> None:
        """Count one observation under these label values."""
        place = bisect_left(self.bounds, size)
        with self._lock:
            counts, total = self._values.get(values) or ([0] * (len(self.bounds) + 1), 0.0)
            counts[place] += 1
            self._values[values] = counts, total + size

    def lines(self) -> Iterable[str]:
        """The samples: cumulated buckets, sum and count."""
        yield from _head(self.name, self.text, "histogram")
        with self._lock:
            values = {key: (list(counts), total) for key, (counts, total) in self._values.items()}
        names = (*self.labels, "le")
        for key, (counts, total) in values.items():
            seen = 0
            for bound, count in zip((*self.bounds, float("inf")), counts, strict=True):
                seen += count
                edge = "+Inf" if bound == float("inf") else f"{bound:g}"
                yield f"{self.name}_bucket{_labels(names, (*key, edge))} {seen}"
            yield f"{self.name}_sum{_labels(self.labels, key)} {total:.6f}"
            yield f"{self.name}_count{_labels(self.labels, key)} {seen}"


class Gauge:
    """A number that is read when it is asked for."""

    def __init__(self, name: str, text: str, read: Callable[[], float]) -> None:
        self.name, self.text, self.read = name, text, read

    def lines(self) -> Iterable[str]:
        """The sample."""
        yield from _head(self.name, self.text, "gauge")
        yield f"{self.name} {self.read():g}"


class Metrics:
    """What one server counts."""

    def __init__(self) -> None:
        self.requests = Counter(
            "footnote_requests_total", "Answers by route and status.", ("route", "method", "status")
        )
        self.seconds = Histogram(
            "footnote_request_seconds", "Time to the whole answer.", ("route",), BUCKETS_S
        )
        self.batch = Histogram(
            "footnote_batch_size", "Inputs in one forward pass.", ("kind",), BATCH_SIZES
        )
        self.batch_seconds = Histogram(
            "footnote_batch_seconds", "Time of one forward pass.", ("kind",), BUCKETS_S
        )
        self._gauges: list[Gauge] = []
        self._more: list[Counter] = []

    def gauges(self, read: Mapping[str, tuple[str, Callable[[], float]]]) -> None:
        """Add gauges: name to help text and what reads the value."""
        self._gauges += [Gauge(name, text, function) for name, (text, function) in read.items()]

    def add(self, *counters: Counter) -> None:
        """Tell these counters too."""
        self._more += counters

    def observe_batch(self, stats: BatchStats) -> None:
        """Count one forward pass."""
        self.batch.observe(stats.size, stats.kind)
        self.batch_seconds.observe(stats.seconds, stats.kind)

    def text(self) -> str:
        """Everything, as Prometheus reads it."""
        parts: list[Counter | Histogram | Gauge] = [
            self.requests,
            self.seconds,
            self.batch,
            self.batch_seconds,
            *self._more,
            *self._gauges,
        ]
        return "\n".join(line for part in parts for line in part.lines()) + "\n"


def _head(name: str, text: str, kind: str) -> Iterable[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"


def _labels(names: Labels, values: Labels) -> str:
    if not names:
        return ""
    return "{" + ",".join(f'{n}="{_escaped(v)}"' for n, v in zip(names, values, strict=True)) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
