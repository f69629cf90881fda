"""The listener's end of the queues over Redis: what is decoded goes to streams, a pipeline per flush.

The decode stage puts batches into queues that never wait (`MemoryQueue`: bounded, the oldest go first, what
waited longer than the TTL expires), and one task sends them: parted by partition, one entry per stream and
pipeline, one pipeline under way at a time. Redis may be slow or gone for as long as it likes.

**Exactly once.** Entries carry ids of ours: Redis's time as we know it, growing. After a lost connection
it is not known which of a pipeline's entries were written, and a frozen Redis may even write them later,
out of the buffer of a socket that we gave up. So they are sent again with the same ids: a stream takes an
id once, and refuses one that is not larger than its last. A refusal is looked into: the entry is there, or a
higher epoch at the stream's end says that another listener has taken over and ours must not be written. So
is what was under way when a lease was lost, once another listener writes. The same rule keeps out a listener
that was frozen past its lease: its ids are older than its successor's.

**Accounting**, in events, at any time: each queue's `received = taken + expired + dropped + waiting`, and
of all queues together `taken = sent + lost + unwritable + under_way`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from mdp.cache.keys import Keys
from mdp.cache.redis_link import REDIS_ERRORS, Link
from mdp.cache.tasks import end
from mdp.config import MdqConfig
from mdp.queues.entry import VERSION
from mdp.queues.packer import Packer
from mdp.queues.streams import (
    START,
    EntryId,
    Outgoing,
    PartitionsDiffer,
    ends,
    fates,
    format_id,
    parse_id,
    settle_partitions,
)
from mdp.sessions import MarketClock
from mdp.stage import Health

log = structlog.get_logger(__name__)

_HEARTBEAT_SECONDS = 1.0
_TRIM_SECONDS = 30.0  # between two trims of streams that nothing is written to
_DRAIN_SECONDS = 1.0
_VERSION = str(VERSION).encode()
_TAKEN_ID = "equal or smaller"  # of Redis's words for an id that is not larger than the stream's last


class WriterCounters(msgspec.Struct):
    """See the module for what adds up to what."""

    sent: int = 0  # events that a stream has
    lost: int = 0  # events packed under a lease that was lost, which may not be written any more
    entries: int = 0  # written, those without events too
    bytes: int = 0  # of them
    pipelines: int = 0  # sent, those that failed too
    failed_pipelines: int = 0  # of which the fate of some entries was open
    refused_entries: int = 0  # Redis said no (out of memory, read-only) and was asked again
    found_entries: int = 0  # that were there when they were sent again
    heartbeats: int = 0


class StreamWriter:
    """See the module. A stage: start it before what decodes, stop it after.

    Args:
        client: Redis, `cache.url`.
        keys: Names.
        config: `[mdq]`.
        link: Is told how things go.
        epoch: Under which it may write now, 0: not at all. Asked before each pipeline.
        market_clock: Is moved by what is sent, and told to all partitions.
        clock: Monotonic nanoseconds, the clock of arrivals.
        wall_ms: Epoch milliseconds.
        trace: Trace context of an entry, or None.
        packed: Called with (arrival_ns, market clock in ms) once a step, for the pace of reading.

    Attributes:
        queues: By name, where to put batches. Their events belong to the writer from then on.
        packer: Makes entries; say there what is lost before it gets here, and who is told of losses here.
    """

    name = "mdq_writer"

    def __init__(
        self,
        client: Redis,
        keys: Keys,
        config: MdqConfig,
        link: Link,
        *,
        epoch: Callable[[], int],
        market_clock: MarketClock | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        trace: Callable[[], str | None] = lambda: None,
        packed: Callable[[int, float], None] = lambda _arrival_ns, _market_ms: None,
    ) -> None:
        self.counters = WriterCounters()
        self.market_clock = market_clock or MarketClock()
        self._client = client
        self._keys = keys
        self._config = config
        self._link = link
        self._epoch_now = epoch
        self._clock = clock
        self._wake = asyncio.Event()
        self.packer = Packer(
            keys,
            config,
            self._wake,
            self.market_clock,
            clock=clock,
            wall_ms=wall_ms,
            trace=trace,
            packed=packed,
        )
        self.queues = self.packer.queues
        self._under_way: list[Outgoing] = []  # of one pipeline: at most one for each stream
        self._rounds: list[list[Outgoing]] = []  # packed, to follow
        self._epoch = 0  # that `_begin` was done for
        self._offset_ms = 0.0  # Redis's time - monotonic time
        self._last_id: EntryId = START
        self._beat_at = 0.0
        self._trim_at = 0.0
        self._settle_at = 0.0
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._mismatch = ""

    # --- a stage ---

    async def start(self) -> None:
        """Begin to send what is put."""
        self._task = asyncio.create_task(self._run(), name=self.name)

    async def stop(self) -> None:
        """Refuse further batches, send what waits for a second at most, end. The rest counts as waiting."""
        self._stopping = True
        for queue in self.queues.values():
            queue.close()
        self._wake.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=_DRAIN_SECONDS)
            await end(self._task)

    def health(self) -> Health:
        """Good while it may write and does, or stands by."""
        if self._task is None or self._task.done():
            return Health(False, "does not run")
        if self._mismatch:
            return Health(False, self._mismatch)
        if not self._epoch_now():
            return Health(True, "stands by")
        return self._link.health() if not self._link.ok else Health(True, f"{self.waiting} events wait")

    @property
    def waiting(self) -> int:
        """Events that wait to be packed."""
        return sum(queue.waiting for queue in self.queues.values())

    @property
    def under_way(self) -> int:
        """Events that are packed and not known to be written."""
        return sum(entry.count for entry in self._under_way) + sum(
            entry.count for entries in self._rounds for entry in entries
        )

    def accounting(self) -> dict[str, int]:
        """Of all queues together, in events: received is the sum of all others; those under way wait, too."""
        queues = [queue.counters for queue in self.queues.values()]
        return {
            "received": sum(counters.received for counters in queues),
            "sent": self.counters.sent,
            "expired": sum(counters.expired for counters in queues),
            "dropped": sum(counters.dropped for counters in queues),
            "lost": self.counters.lost,
            "unwritable": self.packer.unwritable,
            "waiting": self.waiting + self.under_way,
        }

    # --- the task ---

    async def _run(self) -> None:
        flush_seconds = self._config.flush_ms / 1_000
        while True:
            if not (self._under_way or self._rounds or self._stopping or self.waiting >= self.packer.early):
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(flush_seconds):
                        await self._wake.wait()
            try:
                done = await self._step()
            except Exception as exc:  # a defect of ours must not end the sending for good
                log.error("mdq_writer_failed", exc_info=exc)
                done = False
            if done:
                if self._stopping and not (self.waiting or self.under_way):
                    return
                await asyncio.sleep(0)
            else:
                await self._link.pause()

    async def _step(self) -> bool:
        """Send what there is for one flush; whether it went well. Without the right to write: nothing."""
        epoch = self._epoch_now()
        if not epoch:
            await asyncio.sleep(self._config.flush_ms / 1_000)
            return await self._settle_without_lease()
        try:
            if epoch != self._epoch:
                await self._begin(epoch)
            if self._seconds() >= self._beat_at:
                await self._look_at_clock()
                self._beat(epoch)
            if not self._under_way:
                if not self._rounds:
                    self._rounds = self._pack(epoch)
                self._under_way = self._rounds.pop(0) if self._rounds else []
            if self._under_way and not await self._send():
                return False
        except REDIS_ERRORS as error:
            self._link.bad(error)
            return False
        except PartitionsDiffer as error:
            if str(error) != self._mismatch:
                log.error("partitions_differ", reason=str(error))
            self._mismatch = str(error)
            return False
        self._mismatch = ""
        self._link.good()
        return True

    async def _begin(self, epoch: int) -> None:
        """Go on where each stream ends, whoever wrote it."""
        await settle_partitions(self._client, self._keys, self._config.partitions)
        await self._look_at_clock()
        streams = list(self.packer.streams.values())
        last_entries = await ends(self._client, streams)
        for stream, last in zip(streams, last_entries, strict=True):
            self._last_id = max(self._last_id, last.id)
            stream.go_on(last)
        await self._settle(gained=True)
        # A predecessor that was frozen may write once more when it wakes up, where we have not written yet.
        if entries := self.packer.shut(epoch):
            self._number(entries)
            self._rounds.append(entries)
        self._epoch = epoch

    async def _settle_without_lease(self) -> bool:
        """Once a second: what became of what we had packed; false where Redis does not say."""
        if not (self._under_way or self._rounds) or self._seconds() < self._settle_at:
            return True
        self._settle_at = self._seconds() + _HEARTBEAT_SECONDS
        try:
            await self._settle(gained=False)
        except REDIS_ERRORS as error:
            self._link.bad(error)
            return False
        self._link.good()
        return True

    async def _settle(self, *, gained: bool) -> None:
        """What was packed under a lease that was lost: it is there, or it is to be written no more.

        Args:
            gained: Under another lease now; if not, the same one may go on until another listener writes.
        """
        pipelines = [self._under_way, *self._rounds]
        entries = [entry for entries in pipelines for entry in entries]
        open_: set[int] = set()
        for entry, (last, there) in zip(entries, await fates(self._client, entries), strict=True):
            if there:
                self._written(entry)
            elif gained or (last.header is not None and last.header.epoch > entry.epoch):
                self.counters.lost += entry.count
            else:
                open_.add(id(entry))
        self._under_way, *rounds = [[one for one in entries if id(one) in open_] for entries in pipelines]
        self._rounds = [entries for entries in rounds if entries]

    def _pack(self, epoch: int) -> list[list[Outgoing]]:
        """What waits, for one step, packed and numbered."""
        rounds = self.packer.pack(epoch)
        for entries in rounds:
            self._number(entries)
        return rounds

    def _beat(self, epoch: int) -> None:
        """Once a second: the market clock to the partitions that got nothing."""
        self._beat_at = self._seconds() + _HEARTBEAT_SECONDS
        if self._rounds:
            return  # everybody hears of it soon
        entries = self.packer.heartbeat(epoch, self._redis_ms() - int(_HEARTBEAT_SECONDS * 1_000))
        if entries:
            self._number(entries)
            self._rounds.append(entries)
            self.counters.heartbeats += 1

    def _number(self, entries: list[Outgoing]) -> None:
        """Give the entries of a pipeline their id: Redis's time, larger than every one before."""
        last_ms, last = self._last_id
        now_ms = self._redis_ms()
        self._last_id = (now_ms, 0) if now_ms > last_ms else (last_ms, last + 1)
        entry_id, ms = format_id(self._last_id), self._last_id[0]
        keep_ms, max_events = int(self._config.keep_seconds * 1_000), self._config.max_events
        for entry in entries:
            stream = entry.stream
            entry.id = entry_id
            entry.least_ms = stream.least_ms(ms, keep_ms, max_events)
            stream.last_ms = ms

    async def _look_at_clock(self) -> None:
        """Ask Redis for its time, keep the number of partitions there, trim what nobody writes to."""
        now = self._seconds()
        if now >= self._trim_at and self._epoch:
            self._trim_at = now + _TRIM_SECONDS
            pipe = self._client.pipeline(transaction=False)
            pipe.set(self._keys.partitions, self._config.partitions, nx=True)
            least = self._redis_ms() - int(self._config.keep_seconds * 1_000)
            for stream in self.packer.streams.values():
                if 0 < stream.last_ms < least:
                    pipe.execute_command("XTRIM", stream.key, "MINID", least)
                    stream.last_ms = 0
            await pipe.execute(raise_on_error=False)
        before = self._clock()
        seconds, micros = await self._client.time()
        self._offset_ms = seconds * 1_000 + micros / 1_000 - (before + self._clock()) / 2e6

    def _redis_ms(self) -> int:
        return int(self._offset_ms + self._clock() / 1e6)

    def _seconds(self) -> float:
        return self._clock() / 1e9

    async def _send(self) -> bool:
        """Send the pipeline that is under way; whether all of it is settled."""
        counters = self.counters
        pipe = self._client.pipeline(transaction=False)
        for entry in self._under_way:
            pipe.execute_command(
                "XADD", entry.stream.key, "MINID", "~", entry.least_ms, entry.id,
                "v", _VERSION, "h", entry.header, "d", entry.events,
            )  # fmt: skip
        counters.pipelines += 1
        try:
            answers = await pipe.execute(raise_on_error=False)
        except REDIS_ERRORS:
            counters.failed_pipelines += 1
            raise
        left: list[Outgoing] = []
        taken: list[Outgoing] = []
        failure: BaseException | None = None
        for entry, answer in zip(self._under_way, answers, strict=True):
            if not isinstance(answer, BaseException):
                self._written(entry)
            elif isinstance(answer, ResponseError) and _TAKEN_ID in str(answer):
                taken.append(entry)
            else:
                failure = answer
                counters.refused_entries += 1
                left.append(entry)
        self._under_way = left + taken
        if taken:
            self._under_way = left + await self._look_into(taken)
        if failure is not None:
            self._link.bad(failure)
        return not self._under_way

    async def _look_into(self, entries: list[Outgoing]) -> list[Outgoing]:
        """Entries whose id a stream refused: settle them; returns those to be sent again, with another id."""
        again = []
        for entry, (last, there) in zip(entries, await fates(self._client, entries), strict=True):
            if there:
                self.counters.found_entries += 1
                self._written(entry)
            elif last.header is not None and last.header.epoch > entry.epoch:
                self.counters.lost += entry.count
            else:  # Redis's clock went back, or the stream remembers a larger id of an entry that is gone
                info = await self._client.xinfo_stream(entry.stream.key)
                self._last_id = max(self._last_id, parse_id(info["last-generated-id"]))
                again.append(entry)
        if again:
            self._number(again)
        return again

    def _written(self, entry: Outgoing) -> None:
        counters = self.counters
        counters.sent += entry.count
        counters.entries += 1
        counters.bytes += len(entry.events) + len(entry.header)
