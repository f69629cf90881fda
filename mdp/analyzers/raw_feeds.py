"""Raw feeds: each event as it came (`stocks:*`), and what could not be recognized (`unknown`).

The last trade or quote of a symbol is looked for in the frames of the last seconds, when somebody asks.
Keeping it for every symbol, just in case, cost a quarter of the throughput: half a million live objects
a second have to be freed one by one from memory that is in no cache any more, and even an index from
symbol to frame costs a tenth. Frames are there anyway, one object for a hundred events.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, ClassVar

import msgspec

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

_MAX_BYTES = 64 * 1024 * 1024  # of frames: five seconds at 100,000 events/s; beyond that rate, less
_MAX_PACKED_BYTES = 8 * 1024 * 1024  # the same of one partition of many
_STEP_BYTES = 2 * 1024 * 1024  # looked through before the loop is given back: about 2 ms
_MAX_ASKED = 10_000  # symbols whose answers are remembered
_DUMP_STEP = 500  # symbols a step


class _Asked(msgspec.Struct):
    """What an earlier search for a symbol found, so that the next one looks at newer frames alone."""

    until_ns: int  # arrival of the newest frame looked at
    found_ns: int = 0
    event: Any = None


class LastValues:
    """The last event of each symbol, for a time to live, found in the frames that brought it.

    Args:
        kind: Class of the events.
        ttl_ns: How long, by arrival.
        clock: Monotonic nanoseconds, the clock of arrivals.
    """

    def __init__(self, kind: type[Trade] | type[Quote], ttl_ns: int, clock: Callable[[], int]) -> None:
        self._kind = kind
        self._ttl_ns = ttl_ns
        self._clock = clock
        self._decoder = FrameDecoder()
        #: The frames of each step of decoding with their bytes, oldest first.
        self._steps: deque[tuple[Sequence[tuple[int, Any]], int]] = deque()
        self._bytes, self._most = 0, _MAX_BYTES
        self._asked: dict[str, _Asked] = {}

    def keep(self, sources: Sequence[tuple[int, Any]]) -> None:
        """Take note of the frames of a batch, once for all batches of a step."""
        steps = self._steps
        if sources and (not steps or steps[-1][0] is not sources):
            size = sum([len(frame) for _, frame in sources])
            steps.append((sources, size))
            self._most = _MAX_BYTES if isinstance(sources[0][1], str | bytes) else _MAX_PACKED_BYTES
            self._bytes += size
        too_old = self._clock() - self._ttl_ns
        while steps and (self._bytes > self._most or steps[0][0][-1][0] < too_old):
            self._bytes -= steps.popleft()[1]

    def get(self, symbol: str) -> Generator[None, None, dict[str, Any] | None]:
        """Work out, step by step, the payload of a symbol's last event; None where it is too old."""
        now = self._clock()
        asked = self._asked.get(symbol) or _Asked(until_ns=0)
        # A copy: frames come and go while we look.
        fresh = [
            source
            for sources, _ in reversed(self._steps)
            if sources[-1][0] >= asked.until_ns
            for source in reversed(sources)
        ]
        looked = 0
        for arrival, frame in fresh:
            event = self._find(symbol, frame) if arrival >= asked.until_ns else None
            if event is not None:
                asked.found_ns, asked.event = arrival, event
                break
            looked += len(frame)
            if looked >= _STEP_BYTES:
                looked = 0
                yield
        if fresh:
            asked.until_ns = fresh[0][0]
        if len(self._asked) >= _MAX_ASKED:
            self._asked.clear()
        self._asked[symbol] = asked
        if asked.event is None or now - asked.found_ns > self._ttl_ns:
            return None
        return payload(asked.event)

    def _find(self, symbol: str, frame: Any) -> Trade | Quote | None:
        """The last event of a symbol in a frame, if there is one."""
        events = self._read(symbol, frame) if isinstance(frame, str | bytes) else frame.events_of(symbol)
        for event in reversed(events):
            if isinstance(event, self._kind) and event.symbol == symbol:
                event.timestamp = milliseconds(event.timestamp)
                return event
        return None

    def _read(self, symbol: str, frame: str | bytes) -> list[Any]:
        text = f'"{symbol}"'
        if (text not in frame) if isinstance(frame, str) else (text.encode() not in frame):
            return []
        try:
            return self._decoder.decode(frame)
        except (ValueError, RecursionError):
            return self._decoder.salvage(frame, 0)[0]


_SEARCHED: tuple[tuple[str, type[Trade] | type[Quote], Family], ...] = (
    (TRADES, Trade, TRADES_FEED),
    (QUOTES, Quote, QUOTES_FEED),
)

#: Queues whose frames are looked through.
SEARCHED = frozenset(queue for queue, _, _ in _SEARCHED)


class RawFeeds(Analyzer):
    """Last values of `stocks:trades|quotes|luld:{S}`; publishes each raw event somebody subscribes to.

    The last aggregate is `EnrichedQuote`'s to give: it has it anyway.
    """

    name: ClassVar[str] = "raw_feeds"
    queues: ClassVar[tuple[str, ...]] = (AGGREGATES, TRADES, QUOTES, HALTS, UNKNOWN)

    def __init__(self, market: Market, out: Output, clock: Callable[[], int] = time.monotonic_ns) -> None:
        super().__init__(market, out)
        self._families = {AGGREGATES: AGG, TRADES: TRADES_FEED, QUOTES: QUOTES_FEED, HALTS: LULD}
        self._interest = {queue: out.interest(family) for queue, family in self._families.items()}
        self._last = {
            queue: LastValues(kind, int(family.ttl_seconds * 1e9), clock) for queue, kind, family in _SEARCHED
        }
        self._clock = clock
        self._luld: dict[str, tuple[int, dict[str, Any]]] = {}  # symbol -> (arrival, last payload)
        for queue, last in self._last.items():
            out.provide(self._families[queue], last.get)
        out.provide(LULD, self._last_luld)

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
                    self._luld[event.symbol] = (self._clock(), payload(event))
        elif queue != AGGREGATES:
            self._last[queue].keep(batch.sources)
        interest = self._interest[queue]
        if interest.all or interest.symbols:
            self._publish(self._families[queue], batch, interest)

    def remember(self, queue: str, sources: Sequence[tuple[int, Any]]) -> None:
        """Take note of frames that another process had, oldest first, before any batch."""
        if queue in self._last:
            self._last[queue].keep(sources)

    def dump(self) -> Iterator[Any]:
        """The last bands of prices, with their age in ms."""
        now = self._clock()
        rows = list(self._luld.items())
        for at in range(0, len(rows), _DUMP_STEP):
            yield [[name, (now - came) // 1_000_000, row] for name, (came, row) in rows[at : at + _DUMP_STEP]]

    def hydrate(self, records: Iterable[Any]) -> None:
        now = self._clock()
        for record in records:
            for name, age_ms, row in record:
                self._luld[name] = (now - age_ms * 1_000_000, row)

    def _last_luld(self, symbol: str) -> dict[str, Any] | None:
        held = self._luld.get(symbol)
        if held is None or self._clock() - held[0] > LULD.ttl_seconds * 1e9:
            return None
        return held[1]

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
                if family is QUOTES_FEED:  # the engine does not look at each quote
                    event.timestamp = milliseconds(event.timestamp)
                publish(family, event.symbol, payload(event))
