"""A pipeline without sockets and tasks for tests of analyzers: wire events in, what leaves it out."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec

from mdp.analyzers.base import Analyzer
from mdp.analyzers.daily_range import DailyRange
from mdp.analyzers.enriched_quote import EnrichedQuote
from mdp.analyzers.leaderboards import Leaderboards
from mdp.analyzers.raw_feeds import RawFeeds
from mdp.analyzers.state import Market
from mdp.analyzers.top_trades import TopTrades
from mdp.analyzers.trade_stats import TradeStats
from mdp.cache.base import Message
from mdp.cache.memory import MemoryBus, MemoryCache
from mdp.events import QUEUE_OF, FrameDecoder
from mdp.processor.engine import Engine
from mdp.processor.results import Results
from mdp.queues.base import Batch
from mdp.sessions import NEW_YORK

#: A Tuesday without anything special about it; the tests' day.
DAY = (2024, 3, 5)


def at(hour: int, minute: int = 0, second: int = 0, *, day: tuple[int, int, int] = DAY, ms: int = 0) -> int:
    """A New York time of the tests' day in ms since the epoch."""
    return int(datetime(*day, hour, minute, second, tzinfo=NEW_YORK).timestamp()) * 1000 + ms


class FakeClock:
    """A monotonic clock (ns) that moves when told to."""

    def __init__(self) -> None:
        self.ns = 1_000_000_000_000

    def __call__(self) -> int:
        return self.ns

    def advance(self, seconds: float) -> None:
        self.ns += int(seconds * 1e9)


class Journal:
    """Notes what was written."""

    def __init__(self) -> None:
        self.records: list[Any] = []

    def write(self, records: list[Any]) -> None:
        self.records.extend(records)


class Rig:
    """Everything between the queues and the hub, in memory and by hand."""

    def __init__(self, *, include_otc: bool = False, max_symbols: int = 100_000) -> None:
        self.clock = FakeClock()
        self.market = Market(include_otc=include_otc, max_symbols=max_symbols)
        self.bus = MemoryBus(epoch=1)
        self.cache = MemoryCache(self.bus, self.clock)
        self.journal = Journal()
        self.results = Results(self.bus, self.cache, self.journal)
        self.raw = RawFeeds(self.market, self.results, self.clock)
        self.quote = EnrichedQuote(self.market, self.results, self.clock)
        self.boards = Leaderboards(self.market, self.results)
        self.trades = TopTrades(self.market, self.results)
        self.stats = TradeStats(self.market, self.results)
        self.range = DailyRange(self.market, self.results)
        analyzers: list[Analyzer] = [self.raw, self.quote, self.boards, self.trades, self.stats, self.range]
        self.engine = Engine(self.market, self.results, analyzers, max_failures=3)
        self.decoder = FrameDecoder()
        self.messages: list[Message] = []

    def subscribe(self, pattern: str) -> None:
        """Note what is published on a pattern in `messages`."""
        self.bus.subscribe(pattern, self.messages.append)

    def taken(self) -> list[tuple[str, Any]]:
        """(feed, payload as plain values) of the messages since the last call."""
        messages, self.messages[:] = list(self.messages), []
        return [(message.feed, plain(message.value)) for message in messages]

    def send(self, *wire: dict[str, Any]) -> None:
        """One frame: encode, decode, group by queue, process."""
        if not wire:
            return
        frame = json.dumps(wire)
        groups: dict[str, list[Any]] = {}
        for event in self.decoder.decode(frame):
            groups.setdefault(QUEUE_OF[type(event)], []).append(event)
        sources: list[tuple[int, str | bytes]] = [(self.clock(), frame)]
        for queue, events in groups.items():
            self.engine.process(queue, Batch(events, self.clock(), sources))
        for guard in self.engine.guards:  # what is due many times a second is due now
            if guard.analyzer.flush_on_tick:
                self.flush(guard.analyzer)
        self.check()

    def tick(self, ms: int) -> None:
        """Move the market clock: three symbols quote at a time, however far away it is."""
        self.send(*[{"ev": "Q", "sym": symbol, "t": ms} for symbol in ("ZZX", "ZZY", "ZZZ")])

    def check(self) -> None:
        """No analyzer raised."""
        assert [guard.name for guard in self.engine.guards if guard.failures] == []

    def flush(self, analyzer: Analyzer) -> None:
        """A whole flush, as a worker does it."""
        for guard in self.engine.guards:
            if guard.analyzer is analyzer:
                for _ in guard.flush():
                    self.results.commit()
                self.results.commit()
        self.check()

    def get(self, key: str) -> Any:
        """What `get` answers, as plain values."""
        asking = self.cache.get(key)
        while True:  # memory gives the loop back at most, and waits for nothing
            try:
                asking.send(None)
            except StopIteration as answer:
                return None if answer.value is None else plain(answer.value.value)


def plain(value: Any) -> Any:
    """A payload as a client sees it: through JSON."""
    return json.loads(msgspec.json.encode(value))


def bar(
    symbol: str,
    start: int,
    close: float,
    *,
    ev: str = "A",
    high: float | None = None,
    low: float | None = None,
    **more: Any,
) -> dict[str, Any]:
    """An aggregate on the wire. Optional fields only as given in `more` (wire names)."""
    high = close if high is None else high
    low = close if low is None else low
    event = {"ev": ev, "sym": symbol, "o": close, "c": close, "h": high, "l": low, "s": start}
    return {**event, "e": start + (1_000 if ev == "A" else 60_000), **more}


def trade(symbol: str, t: int, size: float, price: float = 10, **more: Any) -> dict[str, Any]:
    """A trade on the wire."""
    return {"ev": "T", "sym": symbol, "p": price, "s": size, "t": t, **more}


def by_symbol(rows: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Rows by their symbol."""
    return {row["symbol"]: row for row in rows}
