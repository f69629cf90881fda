"""A circuit breaker: an endpoint that only fails is left alone for a while, and then tried once.

Without it every retry of every asker would wait out its timeouts against a provider that is down. One
endpoint's breaker says nothing of the others: they fail one by one, too (plans lack some of them).
"""

from __future__ import annotations

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half_open"


class Breaker:
    """Closed (requests pass), open (refused), or half open (one passes and decides).

    Args:
        failures: In a row, before it opens.
        seconds: For which it is open at first; doubles each time the trial fails, up to `max_seconds`.
    """

    def __init__(self, *, failures: int = 8, seconds: float = 5.0, max_seconds: float = 60.0) -> None:
        self._limit = failures
        self._first_seconds, self._max_seconds = seconds, max_seconds
        self._failures = 0
        self._seconds = seconds
        self._until = 0.0
        self._trial = False
        self.state = CLOSED
        self.opened = 0  # how often

    def allow(self, now: float) -> float:
        """Whether a request may start at `now` (monotonic seconds): 0, or the seconds to wait before asking
        again. Where it may, `succeeded`, `failed` or `gave_up` must follow."""
        if self.state == CLOSED:
            return 0.0
        if now < self._until:
            return self._until - now
        if self._trial:  # somebody is finding out
            return self._first_seconds
        self.state, self._trial = HALF_OPEN, True
        return 0.0

    def succeeded(self) -> None:
        """The server answered, whatever it said."""
        self.state, self._trial = CLOSED, False
        self._failures, self._seconds = 0, self._first_seconds

    def failed(self, now: float) -> None:
        """No answer, or one that says that the server is not well."""
        self._failures += 1
        if self.state == HALF_OPEN:
            self._seconds = min(2 * self._seconds, self._max_seconds)
        elif self.state == OPEN or self._failures < self._limit:
            return  # of those that were under way when it opened
        self.state, self._trial = OPEN, False
        self._until = now + self._seconds
        self.opened += 1

    def gave_up(self) -> None:
        """The asker went away before the answer: nothing is known."""
        self._trial = False
