"""Isolation of analyzers: one that raises loses its batch and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import structlog

from mdp.analyzers.base import Analyzer, EventBatch

log = structlog.get_logger(__name__)

_LOG_EVERY_NS = 60_000_000_000


class Guard:
    """Runs one analyzer's hooks, counts what they raise, and disables it after a limit.

    Args:
        analyzer: The analyzer.
        max_failures: After so many failures it is not called any more; its last values stay.
        clock: Monotonic nanoseconds.
    """

    def __init__(
        self, analyzer: Analyzer, *, max_failures: int, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self.analyzer = analyzer
        self.name = analyzer.name
        self.failures = 0
        self.lost_events = 0  # in batches that it raised on
        self.disabled = False
        self._max_failures = max_failures
        self._clock = clock
        self._logged_ns: int | None = None

    def process(self, batch: EventBatch) -> None:
        """Hand a batch over; never raises."""
        if self.disabled:
            return
        try:
            self.analyzer.process(batch)
        except Exception as exc:  # whatever a user's analyzer does, the others go on
            self.lost_events += len(batch.events)
            self._failed("process", exc)

    def call(self, what: str, hook: Callable[[], object]) -> None:
        """Run another hook (`on_day`, `replay` ...); never raises."""
        if self.disabled:
            return
        try:
            hook()
        except Exception as exc:
            self._failed(what, exc)

    def flush(self) -> Iterator[None]:
        """The steps of a flush; ends early where the analyzer raises."""
        if self.disabled:
            return
        try:
            yield from self.analyzer.flush() or ()
        except Exception as exc:
            self._failed("flush", exc)

    def _failed(self, what: str, exc: Exception) -> None:
        self.failures += 1
        now = self._clock()
        if self.failures >= self._max_failures:
            self.disabled = True
            log.error(
                "analyzer_disabled",
                analyzer=self.name,
                failures=self.failures,
                hint="fix it and restart; the others go on",
                exc_info=exc,
            )
        elif self._logged_ns is None or now - self._logged_ns >= _LOG_EVERY_NS:
            self._logged_ns = now
            log.error("analyzer_failed", analyzer=self.name, hook=what, failures=self.failures, exc_info=exc)
