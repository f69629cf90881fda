"""Raw feeds: each event as it came (`stocks:*`), and what could not be recognized (`unknown`).

The last trade and quote of a symbol are kept as the frame they came in, and decoded again for the few
who ask. Keeping the events instead cost a quarter of the throughput: a million live objects a second
have to be freed one by one from memory that is in no cache any more. A frame is one object for a
hundred events, and alive anyway.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, ClassVar

from mdp.analyzers.base import Analyzer, EventBatch, Output
from mdp.analyzers.state import Market
from mdp.events import (
    AGGREGATES,
    HALTS,
    QUEUE_OF,
    QUOTES,
    TRADES,
    UNKNOWN,
    FrameDecoder,
    Quote,
    Trade,
    milliseconds,
    payload,
)
from mdp.feeds import AGG, LULD, Family, is_symbol
from mdp.feeds import QUOTES as QUOTES_FEED
from mdp.feeds import TRADES as TRADES_FEED
from mdp.feeds import UNKNOWN as UNKNOWN_FEED


class LastValues:
    """Where the last event of each symbol is, for a time to live.

    Args:
        kind: Class of the events.
        ttl_ns: How long, by arrival.
        clock: Monotonic nanoseconds, the clock of arrivals.
        max_symbols: Bound on the symbols kept.
    """

    def __init__(self, kind: type, ttl_ns: int, clock: Callable[[], int], max_symbols: int) -> None:
        self._kind = kind
        self._ttl_ns = ttl_ns
        self._clock = clock
        self._max_symbols = max_symbols
        self._decoder = FrameDecoder()
        self._swept_ns = clock()
        self._last: dict[str, tuple[int, Any]] = {}  # symbol -> (arrival, frame or event)

    def keep(self, batch: EventBatch, arrival_ns: int) -> None:
        """Take note of a batch."""
        last = self._last
        events = batch.events
        if batch.marks:
            at = 0
            for end, source in batch.marks:
                for event in events[at:end]:
                    last[event.symbol] = source
                at = end
        else:
            for event in events:
                last[event.symbol] = (arrival_ns, event)
        now = self._clock()
        if now - self._swept_ns > self._ttl_ns or len(last) > self._max_symbols:
            self._sweep(now)

    def get(self, symbol: str) -> dict[str, Any] | None:
        """The payload of a symbol's last event, or None where it is older than the TTL."""
        held = self._last.get(symbol)
        if held is None or self._clock() - held[0] > self._ttl_ns:
            return None
        source = held[1]
        if not isinstance(source, str | bytes):
            return payload(source)
        try:
            events: list[Any] = self._decoder.decode(source)
        except (ValueError, RecursionError):
            events, _ = self._decoder.salvage(source, 0)
        for event in reversed(events):
            if event.__class__ is self._kind and event.symbol == symbol:
                event.timestamp = milliseconds(event.timestamp)
                return payload(event)
        return None

    def _sweep(self, now: int) -> None:
        """Let go of what has expired, so that no frame outlives it for long."""
        self._swept_ns = now
        too_old = now - self._ttl_ns
        self._last = {symbol: held for symbol, held in self._last.items() if held[0] >= too_old}
        if len(self._last) > self._max_symbols:  # a broken feed that invents symbols
            self._last.clear()


class RawFeeds(Analyzer):
    """Last values of `stocks:trades|quotes|luld:{S}`; publishes each raw event somebody subscribes to.

    The last aggregate is `EnrichedQuote`'s to give: it has it anyway.
    """

    name: ClassVar[str] = "raw_feeds"
    queues: ClassVar[tuple[str, ...]] = (AGGREGATES, TRADES, QUOTES, HALTS, UNKNOWN)

    def __init__(self, market: Market, out: Output, clock: Callable[[], int] = time.monotonic_ns) -> None:
        super().__init__(market, out)
        self._clock = clock
        self._families = {AGGREGATES: AGG, TRADES: TRADES_FEED, QUOTES: QUOTES_FEED, HALTS: LULD}
        self._interest = {queue: out.interest(family) for queue, family in self._families.items()}
        self._last = {
            queue: LastValues(kind, int(family.ttl_seconds * 1e9), clock, market.max_symbols)
            for queue, kind, family in ((TRADES, Trade, TRADES_FEED), (QUOTES, Quote, QUOTES_FEED))
        }
        self._luld: dict[str, dict[str, Any]] = {}  # symbol -> last payload, of today
        for queue, last in self._last.items():
            out.provide(self._families[queue], last.get)
        out.provide(LULD, self._luld.get)

    def process(self, batch: EventBatch) -> None:
        events = batch.events
        queue = QUEUE_OF[events[0].__class__]
        if queue == UNKNOWN:
            for event in events:
                self.out.emit(UNKNOWN_FEED, "", payload(event))
            return
        if queue == HALTS:
            for event in events:
                if len(self._luld) < self.market.max_symbols or event.symbol in self._luld:
                    self._luld[event.symbol] = payload(event)
        elif queue != AGGREGATES:
            self._last[queue].keep(batch, self._clock())
        interest = self._interest[queue]
        if interest.all or interest.symbols:
            self._publish(self._families[queue], batch, interest)

    def _publish(self, family: Family, batch: EventBatch, interest: Any) -> None:
        wanted = interest.wanted(batch.symbols)
        if not wanted:
            return
        events: Any = batch.events
        if family.kind == "state":
            events = {event.symbol: event for event in events}.values()
        publish = self.out.publish
        for event in events:
            if event.symbol in wanted and is_symbol(event.symbol):
                publish(family, event.symbol, payload(event))
