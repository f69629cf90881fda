"""How long to wait before the next attempt: capped exponential, full jitter."""

from __future__ import annotations

import random

BASE_SECONDS = 0.5


class Backoff:
    """Delays that grow with each failure and forget nothing until `reset`.

    Full jitter (uniform from zero to the ceiling) spreads clients that lost the same server; the
    ceiling doubles from `BASE_SECONDS` to the cap.

    Args:
        cap_seconds: The ceiling never exceeds it.
        rng: Source of the jitter.
    """

    def __init__(self, *, cap_seconds: float, rng: random.Random) -> None:
        self._cap_seconds = cap_seconds
        self._rng = rng
        self.failures = 0

    @property
    def ceiling_seconds(self) -> float:
        """The longest delay that the next call may return."""
        # The exponent is bounded first: 2.0 ** 1100 overflows after a long night of failures.
        return min(self._cap_seconds, BASE_SECONDS * 2.0 ** min(self.failures, 32))

    def next_delay(self) -> float:
        """Seconds to wait now; counts one failure."""
        delay = self._rng.uniform(0.0, self.ceiling_seconds)
        self.failures += 1
        return delay

    def reset(self) -> None:
        """Start from the shortest delay again: the connection has proved itself."""
        self.failures = 0
