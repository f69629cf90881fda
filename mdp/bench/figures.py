"""Small statistics: quantiles of many values in bounded memory, medians of few."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import median

import msgspec

_MOST_TENTHS = 1_000_000  # 100 s; what is above counts as that


class Quantiles(msgspec.Struct):
    """What a histogram says, in milliseconds. All 0 where nothing was counted."""

    count: int = 0
    p50: float = 0.0
    p99: float = 0.0
    max: float = 0.0


class Histogram:
    """Durations in milliseconds to a tenth of one; a bounded number of buckets, negative counts as 0."""

    def __init__(self) -> None:
        self._tenths: Counter[int] = Counter()
        self.count = 0

    def add(self, ms: float) -> None:
        """Count one."""
        self.count += 1
        self._tenths[min(max(int(ms * 10), 0), _MOST_TENTHS)] += 1

    def quantile(self, q: float) -> float:
        """The smallest value that a share `q` of all does not exceed; 0 where nothing was counted."""
        need = max(math.ceil(self.count * q), 1)
        seen = 0
        for tenth in sorted(self._tenths):
            seen += self._tenths[tenth]
            if seen >= need:
                return tenth / 10
        return 0.0

    def quantiles(self) -> Quantiles:
        """p50, p99 and the maximum."""
        return Quantiles(self.count, self.quantile(0.5), self.quantile(0.99), self.quantile(1.0))


def middle(values: Sequence[float]) -> float:
    """The median; 0 of nothing."""
    return float(median(values)) if values else 0.0


def ratio(value: float, of: float) -> float:
    """`value / of`; 0 where there is nothing to divide by."""
    return value / of if of else 0.0
