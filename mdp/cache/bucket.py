"""A token bucket: how many requests a second may start, with a short burst after a pause."""

from __future__ import annotations


class TokenBucket:
    """Says when the next request may start. No clock of its own: the caller tells the time.

    Args:
        per_second: Tokens that come in a second.
        burst: Tokens that gather at most; 1 at least.
    """

    def __init__(self, per_second: float, burst: float) -> None:
        self._per_second = per_second
        self._burst = max(burst, 1.0)
        self._tokens = self._burst
        self._at: float | None = None

    def take(self, now: float) -> float:
        """Take a token if there is one.

        Args:
            now: Monotonic seconds.

        Returns:
            0 where it was taken, else the seconds until there will be one.
        """
        if self._at is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_second)
        self._at = now
        # A wait of exactly the time that was asked for may come back an ulp early.
        if self._tokens >= 1.0 - 1e-9:
            self._tokens -= 1.0
            return 0.0
        # Never so short that adding it to a clock changes nothing.
        return max((1.0 - self._tokens) / self._per_second, 1e-6)

    def reserve(self, now: float) -> float:
        """Take the next token, whether it is there or not; returns the seconds until it will be."""
        wait = self.take(now)
        if wait:
            self._tokens -= 1.0
        return wait
