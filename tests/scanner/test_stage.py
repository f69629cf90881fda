"""The scanner stage: what the bus carries reaches scanners, and none of them hurts another."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import pytest
from structlog.testing import capture_logs

from mdp.analyzers.base import Output
from mdp.cache.base import Message
from mdp.cache.memory import MemoryBus, MemoryCache
from mdp.feeds import HALTS, HOD_ALERT, QUOTE
from mdp.processor.results import Results
from mdp.scanner import stage as stage_module
from mdp.scanner.base import Scanner
from mdp.scanner.stage import ScannerStage


class Notes(Scanner):
    """Keeps what it got; raises when told to."""

    name: ClassVar[str] = "notes"
    patterns: ClassVar[tuple[str, ...]] = ("quote:*", "daily_range_hod_alert")

    def __init__(self, out: Output) -> None:
        super().__init__(out)
        self.got: list[Any] = []
        self.batches: list[int] = []
        self.fails = False
        self.status_fails = False

    def process(self, messages: list[Message]) -> None:
        self.batches.append(len(messages))
        if self.fails:
            raise ValueError("told to")
        self.got += [(message.feed, message.value) for message in messages]
        self.out.emit(HALTS, "", len(messages))

    def status_fields(self) -> dict[str, Any]:
        if self.status_fails:
            raise ValueError("told to")
        return {self.name: len(self.got)}


class Other(Notes):
    """A second one."""

    name: ClassVar[str] = "other"
    patterns: ClassVar[tuple[str, ...]] = ("daily_range_hod_alert",)


class Setting:
    """A bus with two scanners on it."""

    def __init__(self, *, max_failures: int = 3) -> None:
        self.bus = MemoryBus(epoch=1)
        results = Results(self.bus, MemoryCache(self.bus))
        self.notes, self.other = Notes(results), Other(results)
        self.stage = ScannerStage(self.bus, results, [self.notes, self.other], max_failures=max_failures)

    async def drained(self) -> None:
        """Until nothing waits any more."""
        async with asyncio.timeout(60):
            while any(c.received > c.processed + c.dropped for c in self.stage.counters.values()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)  # nobody says when


async def test_messages_reach_the_scanners_that_want_them() -> None:
    """In order; what they emit leaves; the accounting adds up."""
    s = Setting()
    await s.stage.start()
    assert s.stage.health().ok
    for n in range(5):
        s.bus.publish(QUOTE, "AAA", n)
    s.bus.publish(HOD_ALERT, "", "x")
    assert s.notes.got == [], "the publisher's step only notes them"
    await s.drained()
    await s.stage.stop()
    assert s.notes.got == [("quote:AAA", n) for n in range(5)] + [("daily_range_hod_alert", "x")]
    assert s.other.got == [("daily_range_hod_alert", "x")]
    assert s.stage.counters["notes"].processed == 6
    assert s.bus.place("halts")[1] == len(s.notes.batches) + len(s.other.batches)
    assert s.stage.status_fields() == {"notes": 6, "other": 1}


async def test_stopping_works_off_what_waits_and_unsubscribes() -> None:
    """Nothing is lost at the end, and nothing comes after it; stopping twice is no harm."""
    s = Setting()
    await s.stage.stop()
    await s.stage.start()
    for n in range(2_500):
        s.bus.publish(QUOTE, "AAA", n)
    await s.stage.stop()
    await s.stage.stop()
    assert len(s.notes.got) == 2_500
    assert max(s.notes.batches) <= 1_000
    s.bus.publish(QUOTE, "AAA", "late")
    assert s.stage.counters["notes"].received == 2_500
    assert not s.bus.interest(QUOTE)
    assert not s.stage.health().ok


async def test_one_that_raises_is_disabled_after_the_limit() -> None:
    """The other goes on; the first failure and the end are logged; health names it."""
    s = Setting(max_failures=3)
    await s.stage.start()
    s.notes.fails = True
    with capture_logs() as logs:
        for _ in range(5):
            s.bus.publish(HOD_ALERT, "", "x")
            for slot in s.stage._slots:
                s.stage.step(slot)
    assert len(s.notes.batches) == 3
    assert len(s.other.got) == 5
    assert s.stage.counters["notes"].failures == 3
    assert s.stage.counters["notes"].processed == 5
    assert [(entry["scanner"], entry["disabled"]) for entry in logs] == [("notes", False), ("notes", True)]
    assert s.stage.health().ok
    assert "notes" in s.stage.health().detail
    await s.stage.stop()


async def test_status_fields_that_raise_take_no_others_away() -> None:
    """It is a failure like any other."""
    s = Setting(max_failures=2)
    s.notes.status_fails = True
    for _ in range(3):
        assert s.stage.status_fields() == {"other": 0}
    assert s.stage.counters["notes"].failures == 2


async def test_the_oldest_messages_are_dropped_where_a_scanner_lags(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounded, counted: received = processed + dropped + waiting."""
    monkeypatch.setattr(stage_module, "_MAX_WAITING", 10)
    s = Setting()
    await s.stage.start()
    for n in range(25):
        s.bus.publish(QUOTE, "AAA", n)
    await s.stage.stop()
    assert [value for _, value in s.notes.got] == list(range(15, 25))
    counters = s.stage.counters["notes"]
    assert (counters.received, counters.processed, counters.dropped) == (25, 10, 15)
