"""The engine: what happens to a batch once a worker has taken it.

It moves the market clock, resets analyzers at 04:00 and 09:30, hands the batch to the analyzers of
its queue, and lets their results leave. Synchronous; knows nothing of sockets, queues or tasks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import structlog

from mdp.analyzers.base import Analyzer, EventBatch
from mdp.analyzers.state import Market
from mdp.events import AGGREGATES, QUOTES, UNKNOWN, Aggregate, milliseconds
from mdp.processor.guard import Guard
from mdp.processor.led_clock import LedClock
from mdp.processor.results import Results
from mdp.sessions import CLOSED

log = structlog.get_logger(__name__)

_NOT_MS = 100_000_000_000_000  # a time from here on is in micro- or nanoseconds
#: Quotes tell nothing here but the time, and most events are quotes: of many, one in eight tells it as well.
_MANY_QUOTES = 64
_EVERY = 8


class Engine:
    """See the module.

    Args:
        market: Shared by all analyzers.
        results: Their output.
        analyzers: In the order in which they see a batch.
        max_failures: Per analyzer, before it is disabled.
    """

    def __init__(
        self, market: Market, results: Results, analyzers: list[Analyzer], *, max_failures: int
    ) -> None:
        self.market = market
        self.results = results
        #: Newest time of the events looked at since somebody (`RewindWatch`) set it to 0, accepted by the
        #: clock or not.
        self.newest_ms: float = 0
        self.guards = [Guard(analyzer, max_failures=max_failures) for analyzer in analyzers]
        self._by_queue: dict[str, list[Guard]] = {}
        for guard in self.guards:
            for queue in guard.analyzer.queues:
                self._by_queue.setdefault(queue, []).append(guard)

    def process(self, queue: str, batch: EventBatch) -> None:
        """Take one batch through everything. Never raises."""
        if queue != UNKNOWN:
            self._tell_time(queue, batch)
        if queue == AGGREGATES:
            self.market.take(batch.events)
        for guard in self._by_queue.get(queue, ()):
            guard.process(batch)
        self.results.commit()

    def _tell_time(self, queue: str, batch: EventBatch) -> None:
        events = batch.events
        market = self.market
        if queue == AGGREGATES:
            newest = max([event.start_timestamp for event in events])
            if newest >= _NOT_MS:
                newest = _normalise(events, "start_timestamp", "end_timestamp")
            changed = market.clock.observe(newest, ((e.symbol, e.start_timestamp) for e in events))
        else:
            looked_at = events
            if queue == QUOTES and len(events) >= _MANY_QUOTES:
                looked_at = events[::-_EVERY]  # the last one among them
            newest = max([event.timestamp for event in looked_at])
            if newest >= _NOT_MS:
                newest = _normalise(events, "timestamp")
            changed = market.clock.observe(newest, ((e.symbol, e.timestamp) for e in events))
        if newest > self.newest_ms:
            self.newest_ms = newest
        self._see_boundaries(changed)

    def lead(self, now_ms: float) -> None:
        """The market's time as the listener knows it, with an event of ours or without. Never raises.

        Only where the market clock is a `LedClock`: all partitions begin the day and its sessions by it.
        """
        clock = self.market.clock
        assert isinstance(clock, LedClock)
        self._see_boundaries(clock.lead(now_ms))
        self.results.commit()

    def _see_boundaries(self, new_day: bool) -> None:
        market = self.market
        if new_day:
            self._new_day()
        day = market.clock.day
        if day is not None:
            session = day.session(market.clock.now_ms)
            if session != market.session:
                self._new_session(session)

    def _new_day(self) -> None:
        day = self.market.clock.day
        assert day is not None
        self.market.session = CLOSED
        self.market.start_day()
        if self.results.journal_writer is not None:
            self.results.journal_writer.write([["d", day.day.isoformat(), self.market.clock.now_ms]])
        for guard in self.guards:
            guard.call("on_day", lambda guard=guard: guard.analyzer.on_day(day))  # type: ignore[misc]
        log.info("trading_day", day=day.day.isoformat())

    def _new_session(self, session: str) -> None:
        self.market.session = session
        self.market.start_session()
        for guard in self.guards:
            guard.call("on_session", lambda guard=guard: guard.analyzer.on_session(session))  # type: ignore[misc]
        log.info("session", session=session)

    def refill(self, bars: list[Aggregate]) -> None:
        """Take bars of today that were missed in an outage and fetched afterwards. Never raises."""
        self.market.refill(bars)
        for guard in self.guards:
            guard.call("on_refill", guard.analyzer.on_refill)
        self.results.commit()

    def repaired(self, symbols: Collection[str], number: int) -> None:
        """Nothing of these symbols is missing any more of the losses up to `number`. Never raises."""
        for symbol in symbols:
            self.market.trust.repaired(symbol, number)
        self.market.revision += 1
        self._tell_repaired(symbols)

    def raise_volumes(self, volumes: Mapping[str, float]) -> None:
        """Take the day's volumes of symbols that lost some (`Market.raise_volumes`). Never raises."""
        changed = self.market.raise_volumes(volumes)
        if changed:
            self._tell_repaired(changed)

    def _tell_repaired(self, symbols: Collection[str]) -> None:
        for guard in self.guards:
            guard.call("on_repaired", lambda guard=guard: guard.analyzer.on_repaired(symbols))  # type: ignore[misc]
        self.results.commit()

    def rewind(self, now_ms: float) -> None:
        """The provider's own clock says that the market is at an earlier time: start the day afresh."""
        log.warning("market_time_went_back", now_ms=now_ms, clock_ms=self.market.clock.now_ms)
        self.market.clock.set(now_ms)
        self._new_day()


def _normalise(events: list[Any], *names: str) -> float:
    """Bring times in other units to milliseconds; returns the newest of the first name."""
    for event in events:
        for name in names:
            value = getattr(event, name)
            if value is not None and value >= _NOT_MS:
                setattr(event, name, milliseconds(value))
    newest: float = max(getattr(event, names[0]) for event in events)
    return newest
