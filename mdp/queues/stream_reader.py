"""The processors' end of the queues over Redis: the entries of some partitions, in order, each one batch.

One XREAD waits for all streams of all partitions that are read; what it brings is handed out in the order of
the ids, over all streams, so that a replay after a hand-over meets the queues' entries in the order in which
the listener sent them. A lost connection costs nothing: reading goes on behind the last entry.

An entry older than the TTL (by its id, against Redis's clock) expires, but not halts, not what was not
understood, and nothing of a partition that catches up. Counts in headers tell how many events went by unread.

**Accounting**, in events per stream, at any time: what the listener wrote behind the place where reading
began is `delivered + expired + missed + unreadable`, up to the last entry read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from typing import Any

import msgspec
import structlog
from redis.asyncio import Redis, RedisCluster

from mdp.cache.keys import Keys
from mdp.cache.redis_link import REDIS_ERRORS, Link
from mdp.events import AGGREGATES
from mdp.queues.entry import EntryError, Header, NewerEntry, read_version, unpack, unpack_header
from mdp.queues.streams import EXPIRING, START, EntryId, end_of, format_id, parse_id

log = structlog.get_logger(__name__)

_LEAST_COUNT, _MOST_COUNT = 4, 32  # entries of one stream and command
_ROUND_ENTRIES = 1_000  # of all streams and one command, about: 10 ms to read
_BLOCK_MS = 500  # so long one command waits for something new; less than the client's patience
_CLOCK_SECONDS = 1.0  # between two questions for Redis's time
_SILENCE_SECONDS = 5.0  # without a heartbeat, before the ends of streams are looked at
_CLUSTER_PAUSE_SECONDS = 0.01  # between two rounds that brought nothing, where no command can wait for all


class Cursor(msgspec.Struct):
    """How far a stream has been read."""

    id: EntryId = START
    total: int = -1  # the listener's cumulative count up to there; -1: not known
    epoch: int = 0  # the highest that was met


class ReaderCounters(msgspec.Struct):
    """Of one partition, in events unless said otherwise."""

    delivered: int = 0
    expired: int = 0
    missed: int = 0  # trimmed before they were read, by the counts of what follows
    unreadable: int = 0  # of entries that are damaged, as far as their headers say
    fenced: int = 0  # of a listener that had lost its lease
    entries: int = 0  # entries read
    resets: int = 0  # times a stream was found to begin anew (Redis came back empty)


class Delivery(msgspec.Struct, frozen=True):
    """One entry: one batch of one queue and partition."""

    queue: str
    partition: int
    id: EntryId
    header: Header
    events: list[Any]  # empty: a heartbeat, which only tells the market clock
    catching_up: bool  # it was there when the partition was taken over
    data: bytes = b""  # the events as they came


class _Stream:
    __slots__ = ("cursor", "key", "partition", "queue")

    def __init__(self, key: str, queue: str, partition: _Partition, cursor: Cursor) -> None:
        self.key, self.queue, self.partition, self.cursor = key, queue, partition, cursor


class _Partition:
    __slots__ = ("counters", "heard", "number", "streams", "until_ms")

    def __init__(self, number: int) -> None:
        self.number = number
        self.counters = ReaderCounters()
        self.streams: dict[str, _Stream] = {}
        self.until_ms = -1  # it catches up with what was there by then; -1: not known yet; 0: it has
        self.heard = 0.0  # last entry, monotonic


class StreamReader:
    """See the module. Used by one task; `add` and `remove` may be called between deliveries.

    Args:
        client: Redis, `cache.url`.
        keys: Names.
        link: Is told how things go.
        ttl_seconds: `mdq.ttl_seconds`.
        clock: Monotonic seconds.

    Attributes:
        counters: By partition; those of a removed one are gone (`removed` has their sum).
        on_missed: Called with (queue, partition, events, header) where events went by unread; `header` is of
            the entry behind them.
        on_unread: Called with (queue, partition, events, "expired" or "unreadable", bars) where an entry
            that came is not delivered. Bars: those in it; None: they cannot be read, or there are none.
        on_lost: Called with (partition, `Header.lost`) of an entry that came and is not delivered.
        on_caught_up: Called with a partition once all that was there when it was added has been delivered.
    """

    def __init__(
        self,
        client: Redis,
        keys: Keys,
        link: Link,
        *,
        ttl_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.on_missed: Callable[[str, int, int, Header], None] = lambda *_: None
        self.on_unread: Callable[[str, int, int, str, list[Any] | None], None] = lambda *_: None
        self.on_lost: Callable[[int, Mapping[str, Collection[str] | None]], None] = lambda *_: None
        self.on_caught_up: Callable[[int], None] = lambda _: None
        self._client = client
        self._keys = keys
        self._link = link
        self._ttl_ms = int(ttl_seconds * 1_000)
        self._clock = clock
        self._partitions: dict[int, _Partition] = {}
        self._streams: dict[bytes, _Stream] = {}
        self._changed = asyncio.Event()
        self._offset_ms: float | None = None  # Redis's time - monotonic time
        self._asked = 0.0
        self.removed = ReaderCounters()

    # --- which partitions ---

    def add(self, partition: int, cursors: Mapping[str, Cursor] | None = None) -> None:
        """Read a partition from now on.

        Args:
            partition: Its number.
            cursors: By queue, where to go on (a checkpoint's); a queue that is not named is read from the
                oldest entry there is. All that is there at the next read is *caught up*: it does not expire.
        """
        if partition in self._partitions:
            return
        added = _Partition(partition)
        for key, queue in self._keys.streams(partition).items():
            cursor = (cursors or {}).get(queue) or Cursor()
            stream = _Stream(key, queue, added, msgspec.structs.replace(cursor))
            added.streams[queue] = self._streams[key.encode()] = stream
        added.heard = self._clock()
        self._partitions[partition] = added
        self._changed.set()

    def remove(self, partition: int) -> dict[str, Cursor]:
        """Read a partition no more; returns where its streams were, by queue if it was read."""
        gone = self._partitions.pop(partition, None)
        if gone is None:
            return {}
        for name in ReaderCounters.__struct_fields__:
            setattr(self.removed, name, getattr(self.removed, name) + getattr(gone.counters, name))
        for stream in gone.streams.values():
            del self._streams[stream.key.encode()]
        return {queue: stream.cursor for queue, stream in gone.streams.items()}

    @property
    def partitions(self) -> Iterable[int]:
        """Those that are read."""
        return self._partitions.keys()

    @property
    def counters(self) -> dict[int, ReaderCounters]:
        """By partition."""
        return {number: partition.counters for number, partition in self._partitions.items()}

    def cursors(self, partition: int) -> dict[str, Cursor]:
        """How far a partition has been read, by queue, up to the last delivery: copies, for a checkpoint."""
        streams = self._partitions[partition].streams
        return {queue: msgspec.structs.replace(stream.cursor) for queue, stream in streams.items()}

    def catching_up(self, partition: int) -> bool:
        """Whether some of what was there when it was added has not been delivered yet."""
        return partition in self._partitions and self._partitions[partition].until_ms != 0

    def redis_ms(self) -> int:
        """Redis's time, as far as known; 0: not yet."""
        return 0 if self._offset_ms is None else int(self._offset_ms + self._clock() * 1_000)

    # --- reading ---

    async def read(self, wait_ms: int = _BLOCK_MS) -> AsyncIterator[Delivery]:
        """What has come since the last time, after waiting for `wait_ms` at most; empty where nothing came.

        A cursor moves just before its entry is delivered. Entries that were not taken out of the iterator
        come again. Where Redis fails, it is waited for a moment, and nothing comes.

        Raises:
            NewerEntry: The next entry is of a newer version; it will be the next again.
        """
        if not self._streams:
            self._changed.clear()
            try:
                async with asyncio.timeout(wait_ms / 1_000):
                    await self._changed.wait()
            except TimeoutError:
                return
        try:
            await self._look_at_clock()
            rows = await self._fetch(wait_ms)
            await self._look_for_resets()
        except REDIS_ERRORS as error:
            self._link.bad(error)
            await self._link.pause()
            return
        self._link.good()
        for delivery in self._in_order(rows):
            yield delivery
        self._settle(rows)

    def _in_order(self, rows: _Rows) -> Iterable[Delivery]:
        """Deliveries of a round by id, up to where every stream is known."""
        full = self._count_of_each()
        horizon = min((entries[-1][0] for entries in rows.values() if len(entries) >= full), default=None)
        merged = [
            (entry_id, number, stream, fields)
            for number, (stream, entries) in enumerate(rows.items())
            for entry_id, fields in entries
            if horizon is None or entry_id <= horizon
        ]
        merged.sort(key=lambda row: row[:2])
        for entry_id, _, stream, fields in merged:
            if self._partitions.get(stream.partition.number) is stream.partition:  # not removed meanwhile
                delivery = self._take(stream, entry_id, fields)
                if delivery is not None:
                    yield delivery

    def _take(self, stream: _Stream, entry_id: EntryId, fields: Mapping[bytes, bytes]) -> Delivery | None:
        """Read one entry, move the cursor, count; None where it is not to be delivered."""
        partition, cursor = stream.partition, stream.cursor
        counters = partition.counters
        header: Header | None = None
        events: list[Any] = []
        broken, expired = "", False
        try:
            read_version(fields.get(b"v", b""))
            header = unpack_header(fields.get(b"h", b""))
            expired = self._is_expired(stream, entry_id)
            if not expired and header.epoch >= cursor.epoch:
                events = unpack(stream.queue, fields.get(b"d", b""))
        except NewerEntry:
            raise
        except EntryError as error:
            broken = str(error)
        cursor.id = entry_id
        partition.heard = self._clock()
        counters.entries += 1
        if header is not None:
            if header.epoch < cursor.epoch:
                counters.fenced += header.count
                return None
            self._count(stream, header)
        if header is not None and header.lost and (broken or expired):
            self.on_lost(partition.number, header.lost)
        if broken or header is None:
            counters.unreadable += header.count if header else 0
            self.on_unread(stream.queue, partition.number, header.count if header else 0, "unreadable", None)
            log.error("entry_unreadable", stream=stream.key, id=format_id(entry_id), reason=broken)
            return None
        if expired:
            counters.expired += header.count
            bars = _bars_of(stream.queue, fields)
            self.on_unread(stream.queue, partition.number, header.count, "expired", bars)
            return None
        counters.delivered += len(events)
        catching_up = partition.until_ms < 0 or entry_id[0] <= partition.until_ms
        data = fields.get(b"d", b"")
        return Delivery(stream.queue, partition.number, entry_id, header, events, catching_up, data)

    def _is_expired(self, stream: _Stream, entry_id: EntryId) -> bool:
        until_ms = stream.partition.until_ms
        if stream.queue not in EXPIRING or until_ms < 0 or entry_id[0] <= until_ms:
            return False
        return entry_id[0] < self.redis_ms() - self._ttl_ms

    def _count(self, stream: _Stream, header: Header) -> None:
        """Whether something went by unread between the last entry and this one."""
        cursor = stream.cursor
        before = header.total - header.count
        if cursor.total >= 0:
            # A listener that found the streams empty counts from 0.
            missed = (
                before - cursor.total
                if before >= cursor.total
                else before
                if header.epoch > cursor.epoch
                else 0
            )
            if missed > 0:
                stream.partition.counters.missed += missed
                self.on_missed(stream.queue, stream.partition.number, missed, header)
        cursor.total = header.total
        cursor.epoch = header.epoch

    def _settle(self, rows: _Rows) -> None:
        """Note which partitions have caught up: those of which a round brought all there was."""
        full = self._count_of_each()
        for partition in list(self._partitions.values()):
            if partition.until_ms <= 0:
                continue
            for stream in partition.streams.values():
                entries = rows.get(stream, [])
                rest = bool(entries) and (len(entries) >= full or entries[-1][0] > stream.cursor.id)
                if rest and stream.cursor.id[0] <= partition.until_ms:
                    break
            else:
                partition.until_ms = 0
                self.on_caught_up(partition.number)

    # --- Redis ---

    async def _fetch(self, wait_ms: int) -> _Rows:
        streams = self._streams.copy()
        if not streams:  # the last one was lost while we asked for the time: XREAD of nothing is an error
            return {}
        for partition in self._partitions.values():
            if partition.until_ms < 0:
                partition.until_ms = max(1, self.redis_ms())
                wait_ms = 0  # see at once whether there is anything to catch up with
        if isinstance(self._client, RedisCluster):
            answer = await self._fetch_by_slot(streams, wait_ms)
        else:
            answer = await self._xread(streams, wait_ms)
        rows: _Rows = {}
        for key, entries in answer:
            stream = streams[key]
            if self._streams.get(key) is stream:
                rows[stream] = [(parse_id(entry_id), fields) for entry_id, fields in entries if fields]
        return rows

    async def _xread(self, streams: Mapping[bytes, _Stream], wait_ms: int) -> list[Any]:
        words: list[Any] = ["XREAD", "COUNT", self._count_of_each(), *(("BLOCK", wait_ms) if wait_ms else ())]
        words += ["STREAMS", *streams, *(format_id(stream.cursor.id) for stream in streams.values())]
        return await self._client.execute_command(*words) or []  # type: ignore[no-untyped-call]

    def _count_of_each(self) -> int:
        """Entries that a round brings of a stream at most: many while catching up, and no round too long."""
        return max(_LEAST_COUNT, min(_MOST_COUNT, _ROUND_ENTRIES // max(1, len(self._streams))))

    async def _fetch_by_slot(self, streams: Mapping[bytes, _Stream], wait_ms: int) -> list[Any]:
        """In a cluster a command reaches one slot: one for each partition, again and again."""
        until = self._clock() + wait_ms / 1_000
        numbers = {stream.partition.number for stream in streams.values()}
        while True:
            parts = [
                self._xread({key: s for key, s in streams.items() if s.partition.number == number}, 0)
                for number in numbers
            ]
            found = [row for part in await asyncio.gather(*parts) for row in part]
            if found or self._clock() >= until:
                return found
            await asyncio.sleep(_CLUSTER_PAUSE_SECONDS)

    async def _look_at_clock(self) -> None:
        now = self._clock()
        if self._offset_ms is not None and now - self._asked < _CLOCK_SECONDS:
            return
        seconds, micros = await self._client.time()
        after = self._clock()
        self._offset_ms = seconds * 1_000 + micros / 1_000 - (now + after) * 500
        self._asked = after

    async def _look_for_resets(self) -> None:
        """A partition is silent though a listener beats each second: do its streams end before our cursors?

        So it is where Redis came back empty and its clock, or the listener's idea of it, is behind.
        """
        now = self._clock()
        for partition in list(self._partitions.values()):  # one may come or go while we wait
            if now - partition.heard < _SILENCE_SECONDS:
                continue
            partition.heard = now
            pipe = self._client.pipeline(transaction=False)
            streams = list(partition.streams.values())
            for stream in streams:
                pipe.execute_command("XREVRANGE", stream.key, "+", "-", "COUNT", 1)
            for stream, answer in zip(streams, await pipe.execute(), strict=True):
                end = end_of(answer)
                if START < end.id < stream.cursor.id:
                    log.warning("stream_begins_anew", stream=stream.key)
                    partition.counters.resets += 1
                    stream.cursor = Cursor(START, 0, 0)


_Rows = dict[_Stream, list[tuple[EntryId, Mapping[bytes, bytes]]]]


def _bars_of(queue: str, fields: Mapping[bytes, bytes]) -> list[Any] | None:
    """The bars that an entry holds; None where it cannot be read, or holds something else."""
    if queue != AGGREGATES:
        return None
    try:
        return unpack(queue, fields.get(b"d", b""))
    except EntryError:
        return None
