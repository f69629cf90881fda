"""Metrics of one process, in a registry of its own.

Stages count in plain integers; nothing on the hot path knows of Prometheus. A *reader* registered
here is called when somebody scrapes, and hands over what the stage counted. Histograms are fed once
per step or batch, never per event.

Conventions, checked when a metric is registered: names start with `mdp_`, times are in seconds and
sizes in bytes and their names say so, counters end in `_total`, every metric has a help text.
"""

from __future__ import annotations

import math
import platform
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from mdp import __version__

log = structlog.get_logger(__name__)

#: Seconds; from a tenth of a millisecond to ten seconds, denser around the 10 ms that a step may take.
DURATION_BUCKETS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05,
    0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip

CONTENT_TYPE = CONTENT_TYPE_LATEST

#: What a stage counted: a tuple of label values, in the order of the metric's labels, to the value now.
#: (The key's type is `tuple[str, ...]`; it says Any because mappings are invariant in their keys.)
Read = Callable[[], Mapping[Any, float]]

_NAME = re.compile(r"mdp(_[a-z0-9]+)+")
_LABEL = re.compile(r"[a-z][a-z0-9_]*")
# Prometheus keeps to base units; a name that ends otherwise would be read wrongly on a dashboard.
_NOT_BASE_UNITS = {
    "ms", "us", "ns", "msec", "millis", "milliseconds", "microseconds", "nanoseconds", "minutes", "hours",
    "days", "kb", "mb", "gb", "kib", "mib", "gib", "kilobytes", "megabytes", "gigabytes", "bits", "percent",
}  # fmt: skip
_RESERVED_ENDINGS = ("_count", "_sum", "_bucket", "_created", "_info")


class Metrics:
    """Everything that `/metrics` shows. One per process; passed to whoever has something to show.

    Not thread-safe: registered, fed and rendered by the event loop's thread.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._names: set[str] = set()
        self._read_failures: dict[tuple[str, ...], float] = {}  # (metric,) -> failures
        ProcessCollector(namespace="mdp", registry=self._registry)
        self._registry.register(
            _Family(
                GaugeMetricFamily,
                self._claim("mdp_build_info", "Version of the program and of Python; always 1.", gauge=True),
                "Version of the program and of Python; always 1.",
                ("version", "python"),
                lambda: {(__version__, platform.python_version()): 1.0},
                self._read_failures,
            )
        )
        self.counters(
            "mdp_metrics_read_failures_total",
            "Readers of metrics that raised; such a metric is missing from that scrape.",
            ("metric",),
            lambda: self._read_failures,
        )

    def counters(self, name: str, help: str, labels: tuple[str, ...], read: Read) -> None:
        """Show counters that only grow; `read` is called at each scrape.

        Args:
            name: Starts with `mdp_` and ends in `_total`.
            help: One sentence for whoever reads the dashboard.
            labels: Names of the labels; `()` for a single value under the key `()`.
            read: Returns the values now. One that raises loses only itself and is counted.

        Raises:
            ValueError: The name, help text or a label breaks a convention, or the name is taken.
        """
        if not name.endswith("_total"):
            raise ValueError(f"counter {name!r} must end in '_total'")
        self._claim(name, help, labels)
        self._registry.register(_Family(CounterMetricFamily, name, help, labels, read, self._read_failures))

    def gauges(self, name: str, help: str, labels: tuple[str, ...], read: Read) -> None:
        """Show values that go up and down; otherwise as `counters`, but never named `_total`."""
        self._claim(name, help, labels, gauge=True)
        self._registry.register(_Family(GaugeMetricFamily, name, help, labels, read, self._read_failures))

    def histogram(
        self,
        name: str,
        help: str,
        buckets: Sequence[float] = DURATION_BUCKETS,
        labels: tuple[str, ...] = (),
    ) -> Histogram:
        """A histogram to observe values with; with labels, `histogram.labels(...)` gives one to observe.

        Args:
            buckets: Upper bounds, ascending and finite; the last bucket, to infinity, is added.

        Raises:
            ValueError: As for `counters`, or the buckets are not ascending finite numbers.
        """
        self._claim(name, help, labels, gauge=True)
        if "le" in labels:
            raise ValueError(f"histogram {name!r}: the label 'le' is Prometheus' own")
        histogram = LabelledHistogram(buckets, labels) if labels else Histogram(buckets)
        self._registry.register(_HistogramFamily(name, help, labels, histogram))
        return histogram

    def render(self) -> bytes:
        """All metrics now, in the Prometheus text format (`CONTENT_TYPE`). About 5 us a sample."""
        return generate_latest(self._registry)

    def _claim(self, name: str, help: str, labels: tuple[str, ...] = (), *, gauge: bool = False) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(f"metric {name!r} must be lower case words after 'mdp_'")
        if gauge and name.endswith("_total"):
            raise ValueError(f"metric {name!r} is no counter and must not end in '_total'")
        if name.endswith(_RESERVED_ENDINGS) and name != "mdp_build_info":
            raise ValueError(
                f"metric {name!r} ends in one of {', '.join(_RESERVED_ENDINGS)}, which are taken"
            )
        unit = _NOT_BASE_UNITS.intersection(name.split("_"))
        if unit:
            raise ValueError(f"metric {name!r}: use seconds, bytes or a ratio, not {unit.pop()!r}")
        if not help.strip():
            raise ValueError(f"metric {name!r} needs a help text")
        for label in labels:
            if not _LABEL.fullmatch(label) or labels.count(label) > 1:
                raise ValueError(f"metric {name!r}: {label!r} is no label, or there twice")
        if name in self._names:
            raise ValueError(f"metric {name!r} is already registered")
        self._names.add(name)
        return name


class Histogram:
    """Counts of observed values by bucket. `observe` costs a fraction of a microsecond.

    Attributes:
        count: How many values were observed.
        total: Their sum.
        max: The largest of them; 0 before the first.
    """

    __slots__ = ("_bounds", "_counts", "count", "max", "total")

    def __init__(self, buckets: Sequence[float]) -> None:
        bounds = tuple(float(bound) for bound in buckets)
        ascending = all(low < high for low, high in pairwise(bounds))
        if not bounds or not ascending or not all(map(math.isfinite, bounds)):
            raise ValueError(f"buckets must be ascending finite numbers, not {bounds}")
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.count = 0
        self.total = 0.0
        self.max = 0.0

    def observe(self, value: float) -> None:
        """Count one value. NaN is ignored: it belongs to no bucket and would spoil the sum for ever."""
        self.observe_many(value, 1)

    def observe_many(self, value: float, n: int) -> None:
        """Count `n` times the same value, at the price of one."""
        if value != value or n <= 0:
            return
        self._counts[bisect_left(self._bounds, value)] += n
        self.count += n
        self.total += value * n
        if value > self.max:
            self.max = value

    def labels(self, *values: str) -> Histogram:
        """The histogram of these label values, made at the first call; keep it, do not look it up each time.

        Raises:
            ValueError: The number of values is not that of the metric's labels.
        """
        if values:
            raise ValueError(f"this histogram has no labels, got {values}")
        return self

    def mark(self) -> tuple[int, ...]:
        """The counts now, for `quantile(..., since=mark)`: the measure of an interval."""
        return tuple(self._counts)

    def quantile(self, q: float, *, since: tuple[int, ...] = ()) -> float:
        """An estimate of the `q` quantile (0 to 1), as exact as the buckets are narrow; 0 if nothing came.

        Interpolates linearly within a bucket and never exceeds the largest value observed.

        Args:
            since: Only what was observed after this `mark`.
        """
        if not 0 <= q <= 1:
            raise ValueError(f"a quantile is from 0 to 1, not {q}")
        counts = self._counts
        if since:
            counts = [now - then for now, then in zip(counts, since, strict=True)]
        rank = q * sum(counts)
        if not any(counts):
            return 0.0
        seen = 0
        for index, n in enumerate(counts):
            if n and seen + n >= rank:
                low = self._bounds[index - 1] if index else min(0.0, self._bounds[0])
                high = self._bounds[index] if index < len(self._bounds) else self.max
                return min(low + (high - low) * max(rank - seen, 0.0) / n, self.max)
            seen += n
        return self.max

    def samples(self) -> Iterator[tuple[tuple[str, ...], Histogram]]:
        """Each histogram of the metric with its label values."""
        yield (), self

    def cumulative(self) -> list[tuple[str, float]]:
        """(upper bound as text, values at or below it), ending with `+Inf`."""
        bounds = [*map(str, self._bounds), "+Inf"]
        return list(zip(bounds, map(float, accumulate(self._counts)), strict=True))


class LabelledHistogram(Histogram):
    """A histogram per combination of label values; only what `labels(...)` returns can be observed."""

    __slots__ = ("_children", "_labels")

    def __init__(self, buckets: Sequence[float], labels: tuple[str, ...]) -> None:
        super().__init__(buckets)
        self._labels = labels
        self._children: dict[tuple[str, ...], Histogram] = {}  # label values -> histogram

    def observe_many(self, value: float, n: int) -> None:
        """Refused: which combination of labels would it be?"""
        raise TypeError(f"observe what labels(...) returns; this histogram has the labels {self._labels}")

    def labels(self, *values: str) -> Histogram:
        """As in the base class."""
        child = self._children.get(values)
        if child is None:
            if len(values) != len(self._labels):
                raise ValueError(f"expected values for the labels {self._labels}, got {values}")
            child = self._children[values] = Histogram(self._bounds)
        return child

    def samples(self) -> Iterator[tuple[tuple[str, ...], Histogram]]:
        """As in the base class."""
        yield from self._children.items()


class _Family(Collector):
    """One metric whose values are read from a stage at scrape time."""

    def __init__(
        self,
        family: type[CounterMetricFamily] | type[GaugeMetricFamily],
        name: str,
        help: str,
        labels: tuple[str, ...],
        read: Read,
        failures: dict[tuple[str, ...], float],
    ) -> None:
        self._family, self._name, self._help = family, name, help
        self._labels, self._read, self._failures = labels, read, failures

    def describe(self) -> Iterable[Metric]:
        return [self._family(self._name, self._help, labels=self._labels)]

    def collect(self) -> Iterable[Metric]:
        family = self._family(self._name, self._help, labels=self._labels)
        try:
            for values, value in self._read().items():
                if len(values) != len(self._labels):
                    raise ValueError(f"values {values} for the labels {self._labels}")
                # float() here, so that a reader's nonsense is caught now and not while rendering.
                family.add_metric([str(item) for item in values], float(value))
        except Exception as exc:
            key = (self._name,)
            first = key not in self._failures
            self._failures[key] = self._failures.get(key, 0) + 1
            if first:  # the counter tells the rest; a line per scrape would fill the log
                log.warning("metric_read_failed", metric=self._name, error=repr(exc))
            return []
        return [family]


class _HistogramFamily(Collector):
    def __init__(self, name: str, help: str, labels: tuple[str, ...], histogram: Histogram) -> None:
        self._name, self._help, self._labels, self._histogram = name, help, labels, histogram

    def describe(self) -> Iterable[Metric]:
        return [HistogramMetricFamily(self._name, self._help, labels=self._labels)]

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(self._name, self._help, labels=self._labels)
        for values, histogram in self._histogram.samples():
            family.add_metric(values, histogram.cumulative(), histogram.total)
        return [family]
