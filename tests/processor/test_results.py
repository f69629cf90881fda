"""Where results go: the journal first, then lists, last values and the bus, and nothing before `commit`."""

from __future__ import annotations

from typing import Any

from mdp.cache.memory import MemoryBus, MemoryCache
from mdp.feeds import AGG, HALTS, HOD_ALERT, LULD, QUOTE
from mdp.processor.results import Results


class Recorder:
    """A results object, and everything that left it, in order."""

    def __init__(self, *, journal: bool = True) -> None:
        self.left: list[tuple[str, Any]] = []
        self.bus = MemoryBus(epoch=1)
        self.cache = MemoryCache(self.bus)
        self.results = Results(self.bus, self.cache, self if journal else None)
        for pattern in ("quote:*", "daily_range_hod_alert", "halts", "stocks:luld:*"):
            self.bus.subscribe(pattern, lambda message: self.left.append((message.feed, message.value)))

    def write(self, records: list[Any]) -> None:
        self.left.append(("journal", records))


def test_nothing_leaves_before_commit() -> None:
    """Neither to the journal, nor to subscribers, nor into the cache."""
    rec = Recorder()
    rec.results.publish(QUOTE, "AAPL", {"a": 1})
    rec.results.emit(HOD_ALERT, "", {"b": 1}, journal=True)
    rec.results.journal("daily_range", [1])
    assert rec.left == []
    assert rec.cache.lists() == {}


async def test_the_journal_is_written_first_then_all_in_order() -> None:
    """One write a commit; an alert is in its list by the time subscribers hear of it."""
    rec = Recorder()
    seen: list[int] = []
    rec.bus.subscribe("halts", lambda _message: seen.append(len(rec.cache.lists().get("halts", []))))
    rec.results.publish(QUOTE, "AAPL", 1)
    rec.results.emit(HALTS, "", 2, journal=True)
    rec.results.publish(QUOTE, "MSFT", 3)
    rec.results.journal("halts", "state")
    rec.results.commit()
    assert rec.left == [
        ("journal", [["e", "halts", 2], ["s", "halts", "state"]]),
        ("quote:AAPL", 1), ("halts", 2), ("quote:MSFT", 3),
    ]  # fmt: skip
    assert seen == [1]
    assert (rec.results.published, rec.results.emitted) == (2, 1)


def test_a_commit_sends_once() -> None:
    """What left does not leave again; an empty commit does nothing."""
    rec = Recorder()
    rec.results.emit(HOD_ALERT, "", 1, journal=True)
    rec.results.commit()
    left = list(rec.left)
    rec.results.commit()
    assert rec.left == left


async def test_lists_are_newest_first() -> None:
    """In the order of emission; events that need no journal are kept all the same."""
    rec = Recorder()
    for n in range(3):
        rec.results.emit(HOD_ALERT, "", n)
    rec.results.commit()
    entry = await rec.cache.get("daily_range_hod_alert")
    assert entry is not None
    assert (entry.value, entry.seq) == ([2, 1, 0], 3)
    assert [feed for feed, _ in rec.left] == ["daily_range_hod_alert"] * 3


async def test_an_event_of_a_feed_without_a_list_is_its_last_value() -> None:
    """What the interface promises: kept in its list, or as the last value."""
    rec = Recorder()
    rec.results.emit(LULD, "AAPL", 1)
    rec.results.emit(LULD, "AAPL", 2)
    rec.results.publish(LULD, "MSFT", 3)
    assert await rec.cache.get("stocks:luld:AAPL") is None
    rec.results.commit()
    entry = await rec.cache.get("stocks:luld:AAPL")
    assert entry is not None
    assert entry.value == 2
    assert await rec.cache.get("stocks:luld:MSFT") is None
    assert rec.left == [("stocks:luld:AAPL", 1), ("stocks:luld:AAPL", 2), ("stocks:luld:MSFT", 3)]


def test_without_a_journal_everything_else_leaves() -> None:
    """And records do not pile up."""
    rec = Recorder(journal=False)
    rec.results.emit(HOD_ALERT, "", 1, journal=True)
    rec.results.journal("x", 1)
    rec.results.commit()
    rec.results.journal_writer = rec
    rec.results.commit()
    assert rec.left == [("daily_range_hod_alert", 1)]


async def test_a_symbol_with_colons_has_its_own_feed() -> None:
    """The journal names it as clients do."""
    rec = Recorder()
    rec.results.emit(AGG, "X:BTCUSD", 1, journal=True)
    rec.results.commit()
    assert rec.left == [("journal", [["e", "stocks:agg:X:BTCUSD", 1]])]


async def test_interest_and_providers_are_the_buss_and_the_caches() -> None:
    """An analyzer sees who subscribes, and answers `get`."""
    rec = Recorder()
    interest = rec.results.interest(AGG)
    assert not interest
    subscription = rec.bus.subscribe("stocks:agg:AAPL", lambda _message: None)
    assert interest.symbols == {"AAPL"}
    subscription.close()
    assert not interest
    rec.results.provide(AGG, lambda symbol: {"symbol": symbol})
    entry = await rec.cache.get("stocks:agg:AAPL")
    assert entry is not None
    assert entry.value == {"symbol": "AAPL"}
