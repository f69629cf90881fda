"""What waits for the streams, and how it is packed: queues that never wait, entries by stream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog

from mdp.cache.keys import Keys
from mdp.config import MdqConfig
from mdp.events import AGGREGATES, HALT_NOTICES, HALTS, QUOTES, TRADES, UNKNOWN, milliseconds
from mdp.queues.base import Batch
from mdp.queues.entry import EntryError, Header, Partitions, pack, pack_header, scatter
from mdp.queues.memory import MemoryQueue
from mdp.queues.streams import EXPIRING, Outgoing, Stream
from mdp.sessions import MarketClock

log = structlog.get_logger(__name__)

#: In the order in which they are packed: what is rare and matters most comes first.
_ORDER = (HALTS, HALT_NOTICES, UNKNOWN, AGGREGATES, TRADES, QUOTES)
_STEP_EVENTS = 8_000  # packed in one step: 2 ms of the loop
_LONG_STEP_EVENTS = 24_000  # where so many wait: a slow Redis must cost time, not events
_EVENT_BYTES = 64  # about, packed; what "64 KB" means in events
_NO_EVENTS = pack([])
_MOST_NAMED = 100  # symbols of a partition whose bars were lost; of more it may have been anybody's
SHED = "shed"  # why, where frames were given up before they were decoded

#: Reason -> whose bars were lost; None: it may have been anybody's.
Lost = dict[str, dict[str, None] | None]


class Packer:
    """See the module.

    Args:
        keys: Names.
        config: `[mdq]`.
        wake: Is set when so much waits that it is worth sending before its time.
        market_clock: Is moved by what is packed.
        clock: Monotonic nanoseconds, the clock of arrivals.
        wall_ms: Epoch milliseconds.
        trace: Trace context of an entry, or None.
        packed: Called with (arrival_ns, market clock in ms) once a step.

    Attributes:
        queues: By name, where to put batches. Their events are rows from then on, and nobody else's.
        streams: By queue and partition.
        early: So many waiting events are worth sending at once.
        unwritable: Events that could not be packed.
        on_loss: Told of what expired or was dropped here: queue, reason, events. Must be quick.
        shed: How many frames were given up before they were decoded, so far.
    """

    def __init__(
        self,
        keys: Keys,
        config: MdqConfig,
        wake: asyncio.Event,
        market_clock: MarketClock,
        *,
        clock: Callable[[], int],
        wall_ms: Callable[[], int],
        trace: Callable[[], str | None],
        packed: Callable[[int, float], None],
    ) -> None:
        self.market_clock = market_clock
        self.unwritable = 0
        self.on_loss: Callable[[str, str, Batch], None] = lambda _queue, _reason, _batch: None
        self.shed: Callable[[], int] = lambda: 0
        self._shed = 0
        self._lost: dict[int, Lost] = {}  # by partition, until an entry says it
        self._clock_failures = 0
        self._clock = clock
        self._wall_ms = wall_ms
        self._trace = trace
        self._packed = packed
        self._count = config.partitions
        self._most = max(1, config.flush_bytes // _EVENT_BYTES)  # events of an entry
        self.early = config.partitions * self._most
        self._partitions = Partitions(config.partitions)
        ttl_ns = int(config.ttl_seconds * 1e9)
        self.queues: dict[str, MemoryQueue] = {
            name: _Inbox(
                name,
                self.early,
                wake,
                max_events=config.max_events,
                ttl_ns=ttl_ns if name in EXPIRING else 0,
                clock=clock,
            )
            for name in _ORDER
        }
        for name in EXPIRING:
            self.queues[name].on_loss = partial(self._queue_lost, name)
        self.streams = {
            (queue, partition): Stream(key, queue, partition)
            for partition in range(config.partitions)
            for key, queue in keys.streams(partition).items()
        }

    def pack(self, epoch: int) -> list[list[Outgoing]]:
        """Take what waits, for one step, and pack it: pipelines with one entry at most for each stream."""
        self._look_at_shed()
        waiting = sum(queue.waiting for queue in self.queues.values())
        left = min(max(_STEP_EVENTS, waiting), _LONG_STEP_EVENTS)
        rounds: list[list[Outgoing]] = []
        most = self._most
        newest_ns = 0
        for name, queue in self.queues.items():
            events: list[Any] = []
            oldest_ns = 0
            while left > 0 and (batch := queue.take()) is not None:
                oldest_ns = oldest_ns or batch.arrival_ns
                newest_ns = max(newest_ns, batch.arrival_ns)
                left -= len(batch)
                try:
                    self._tell_time(name, batch)
                except Exception as exc:  # a clock that stands still is better than events that are gone
                    self._clock_failures += 1
                    if self._clock_failures.bit_count() == 1:  # the 1st, 2nd, 4th, 8th ... time
                        log.error("market_clock_failed", failures=self._clock_failures, exc_info=exc)
                events += batch.events
            if not events:
                continue
            arrival_ms = self._wall_ms() - (self._clock() - oldest_ns) // 1_000_000
            market_ms = int(self.market_clock.now_ms)
            for partition, rows in scatter(name, events, self._partitions).items():
                stream = self.streams[name, partition]
                for at in range(0, len(rows), most):
                    part = rows[at : at + most]
                    try:
                        data = pack(part)
                    except EntryError:
                        part, data = self._writable(part)
                    number = at // most
                    while len(rounds) <= number:
                        rounds.append([])
                    rounds[number].append(self._entry(stream, epoch, part, data, arrival_ms, market_ms))
        if newest_ns:
            self._packed(newest_ns, self.market_clock.now_ms)
        return rounds

    def _writable(self, rows: list[Any]) -> tuple[list[Any], bytes]:
        """Those of the rows that can be packed: a bad event loses only itself."""
        good = []
        for row in rows:
            try:
                pack([row])
            except EntryError:
                self.unwritable += 1
            else:
                good.append(row)
        return good, pack(good)

    def _entry(
        self, stream: Stream, epoch: int, rows: list[Any], data: bytes, arrival_ms: int, market_ms: int
    ) -> Outgoing:
        stream.place += 1
        stream.total += len(rows)
        lost = self._lost.pop(stream.partition, {}) if self._lost and stream.queue == AGGREGATES else {}
        header = Header(
            epoch,
            stream.place,
            stream.total,
            len(rows),
            arrival_ms,
            market_ms,
            self._trace(),
            {reason: None if names is None else sorted(names) for reason, names in lost.items()} or None,
        )
        return Outgoing(stream, epoch, stream.place, len(rows), pack_header(header), data)

    def heartbeat(self, epoch: int, since_ms: int) -> list[Outgoing]:
        """Entries without events, with the market clock, for partitions whose bars got nothing since then."""
        quiet = [
            stream
            for partition in range(self._count)
            if (stream := self.streams[AGGREGATES, partition]).last_ms <= since_ms
        ]
        return self._empty(quiet, epoch)

    def shut(self, epoch: int) -> list[Outgoing]:
        """Entries without events for all streams that have some: nothing older is written behind them."""
        return self._empty([stream for stream in self.streams.values() if stream.place], epoch)

    def _empty(self, streams: list[Stream], epoch: int) -> list[Outgoing]:
        market_ms = int(self.market_clock.now_ms)
        return [self._entry(stream, epoch, [], _NO_EVENTS, 0, market_ms) for stream in streams]

    def _queue_lost(self, queue: str, reason: str, batch: Batch) -> None:
        if queue == AGGREGATES:
            for symbol in batch.symbols:
                self._note(self._partitions[symbol], reason, symbol)
        self.on_loss(queue, reason, batch)

    def _look_at_shed(self) -> None:
        """What is behind frames that were given up is decoded later, and packed later still."""
        shed = self.shed()
        if shed != self._shed:
            self._shed = shed
            for partition in range(self._count):
                self._note(partition, SHED, None)

    def _note(self, partition: int, reason: str, symbol: str | None) -> None:
        lost = self._lost.setdefault(partition, {})
        names = lost.setdefault(reason, {})
        if names is None:
            return
        if symbol is None or not symbol.isascii() or len(names) >= _MOST_NAMED:
            lost[reason] = None
        else:
            names[symbol] = None

    def _tell_time(self, queue: str, batch: Batch) -> None:
        """Move the market clock as the processors' engine does (`mdp.processor.engine`); by all quotes."""
        if queue == AGGREGATES:
            events = batch.events
            newest = milliseconds(max([event.start_timestamp for event in events]))
            self.market_clock.observe(newest, ((e.symbol, milliseconds(e.start_timestamp)) for e in events))
        elif queue != UNKNOWN:
            events = batch.events
            newest = milliseconds(max([event.timestamp for event in events]))
            self.market_clock.observe(newest, ((e.symbol, milliseconds(e.timestamp)) for e in events))


class _Inbox(MemoryQueue):
    """A queue that wakes the writer early when much waits."""

    def __init__(self, name: str, early: int, wake_writer: asyncio.Event, **options: Any) -> None:
        super().__init__(name, **options)
        self._early = early
        self._wake_writer = wake_writer

    def put(self, batch: Batch) -> int:
        dropped = super().put(batch)
        if self._waiting >= self._early:
            self._wake_writer.set()
        return dropped
