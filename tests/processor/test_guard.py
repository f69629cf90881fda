"""Isolation of analyzers: one that raises loses its batch and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from structlog.testing import capture_logs

from mdp.analyzers.base import Analyzer, EventBatch
from mdp.analyzers.state import Market
from mdp.cache.memory import MemoryBus, MemoryCache
from mdp.events import Trade
from mdp.processor.guard import Guard
from mdp.processor.results import Results
from mdp.queues.base import Batch


class Fragile(Analyzer):
    """Raises when told to."""

    name: ClassVar[str] = "fragile"

    def __init__(self) -> None:
        bus = MemoryBus(epoch=1)
        super().__init__(Market(), Results(bus, MemoryCache(bus)))
        self.raises: BaseException | None = None
        self.calls = 0
        self.steps = 0

    def process(self, batch: EventBatch) -> None:
        self.calls += 1
        if self.raises is not None:
            raise self.raises

    def flush(self) -> Iterator[None]:
        for _ in range(3):
            self.steps += 1
            yield
            if self.raises is not None:
                raise self.raises


class Clock:
    """Monotonic nanoseconds by hand."""

    ns = 10**18

    def __call__(self) -> int:
        return self.ns


def batch(events: int = 4) -> Batch:
    """Trades."""
    return Batch([Trade("AAA", 1, 1, n) for n in range(events)], 0)


def guarded(limit: int = 100) -> tuple[Guard, Fragile, Clock]:
    """A guard with its analyzer and clock."""
    analyzer, clock = Fragile(), Clock()
    return Guard(analyzer, max_failures=limit, clock=clock), analyzer, clock


def test_a_healthy_analyzer_costs_nothing() -> None:
    """No failure, no loss, no log."""
    guard, analyzer, _ = guarded()
    with capture_logs() as logs:
        guard.process(batch())
    assert (analyzer.calls, guard.failures, guard.lost_events, guard.disabled, logs) == (1, 0, 0, False, [])


@pytest.mark.parametrize(
    "error", [ValueError("x"), KeyError("x"), RecursionError(), MemoryError(), OSError()]
)
def test_what_it_raises_is_counted_with_the_events_lost(error: Exception) -> None:
    """And the next batch goes to it again."""
    guard, analyzer, _ = guarded()
    analyzer.raises = error
    guard.process(batch(4))
    guard.process(batch(3))
    analyzer.raises = None
    guard.process(batch(2))
    assert (analyzer.calls, guard.failures, guard.lost_events) == (3, 2, 7)


def test_being_told_to_end_is_no_failure() -> None:
    """KeyboardInterrupt and the like go through."""
    guard, analyzer, _ = guarded()
    analyzer.raises = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        guard.process(batch())


def test_it_is_logged_once_a_minute() -> None:
    """The first failure, and then the first of each minute, with the count so far."""
    guard, analyzer, clock = guarded()
    analyzer.raises = ValueError("boom")
    with capture_logs() as logs:
        for _ in range(7):
            guard.process(batch())
            clock.ns += 10_000_000_000
    assert [(entry["event"], entry["analyzer"], entry["failures"]) for entry in logs] == [
        ("analyzer_failed", "fragile", 1), ("analyzer_failed", "fragile", 7),
    ]  # fmt: skip
    assert logs[0]["hook"] == "process"
    assert logs[0]["exc_info"] is analyzer.raises


def test_after_the_limit_it_is_not_called_any_more() -> None:
    """By no hook; that is logged at once, whenever the last failure was."""
    guard, analyzer, _ = guarded(limit=3)
    analyzer.raises = ValueError("boom")
    with capture_logs() as logs:
        for _ in range(10):
            guard.process(batch())
    assert (analyzer.calls, guard.failures, guard.disabled) == (3, 3, True)
    assert [entry["event"] for entry in logs] == ["analyzer_failed", "analyzer_disabled"]
    called: list[Any] = []
    guard.call("on_day", lambda: called.append(1))
    assert list(guard.flush()) == []
    assert called == []


def test_a_flush_that_fails_midway_ends_there() -> None:
    """What it did before stays; it is a failure without lost events; the next flush is tried."""
    guard, analyzer, _ = guarded()
    steps = guard.flush()
    next(steps)
    analyzer.raises = ValueError("boom")
    assert list(steps) == []
    assert (analyzer.steps, guard.failures, guard.lost_events) == (1, 1, 0)
    analyzer.raises = None
    assert len(list(guard.flush())) == 3


def test_hooks_are_guarded_too() -> None:
    """Their name is logged; failures of all hooks count together."""
    guard, analyzer, _ = guarded(limit=2)

    def hook() -> None:
        raise ValueError("boom")

    with capture_logs() as logs:
        guard.call("replay", hook)
    assert logs[0]["hook"] == "replay"
    analyzer.raises = ValueError("boom")
    guard.process(batch())
    assert guard.disabled


def test_an_analyzer_without_a_flush() -> None:
    """The base's does nothing, in no steps."""
    bus = MemoryBus(epoch=1)
    guard = Guard(Analyzer(Market(), Results(bus, MemoryCache(bus))), max_failures=1)
    assert list(guard.flush()) == []
    assert guard.failures == 0
