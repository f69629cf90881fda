"""One partition at work: an engine of its own, fed from its streams, replayed silently, checkpointed."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping

import structlog

from mdp.analyzers.price_history import SLOT_MS
from mdp.analyzers.raw_feeds import SEARCHED as RAW_SEARCHED
from mdp.processor import checkpoint
from mdp.processor.checkpoint import CheckpointStore, Dumped
from mdp.processor.engine import Engine
from mdp.processor.flushers import Flushers
from mdp.processor.partition_gaps import PartitionGaps
from mdp.processor.partition_output import PartitionOutput
from mdp.processor.windows import WindowKeeper, Write
from mdp.queues.base import Batch
from mdp.queues.entry import PackedEvents
from mdp.queues.stream_reader import Cursor, Delivery

log = structlog.get_logger(__name__)

_STEP_SECONDS = 0.005  # of entries that were held back, before the loop is given back
_REWOUND_MS = 120_000  # a market does not go back; so far back a simulator or a replay began again
_REWOUND_ENTRIES = 3


class Partition:
    """See the module.

    Args:
        number: Which one.
        epoch: Of the lease's acquisition.
        engine: New; over `out.results`, with a `LedClock`.
        out: Where results go; silent at first.
        observe: Called with (queue or `flush_{analyzer}`, seconds) after each step.

    Attributes:
        live: The replay is over: results leave, checkpoints are written.
        saved: The last checkpoint did not fail.
        processed: Events by queue, those of the partition's earlier owners included.
        lost: Events that went by unread, by queue and reason, likewise: what is replayed counts once.
        first_ms: Redis time of the first entry with events that was processed here; 0 before it.
    """

    def __init__(
        self,
        number: int,
        epoch: int,
        engine: Engine,
        out: PartitionOutput,
        *,
        observe: Callable[[str, float], None] = lambda _name, _seconds: None,
    ) -> None:
        self.number = number
        self.epoch = epoch
        self.engine = engine
        self.out = out
        self.live = False
        self.gone = False
        self.processed: dict[str, int] = {}
        self.lost: dict[str, dict[str, int]] = {}
        self.first_ms = 0
        self.failures = 0
        self.saved = True
        self._observe = observe
        self.windows = WindowKeeper(engine)
        self._flushers = Flushers(engine, observe)
        self._holding = 0  # somebody needs the state not to move
        self._held: deque[tuple[Delivery, int]] = deque()
        self._freed = asyncio.Event()
        self._freed.set()
        self._listener_epoch = 0  # of the entries; 0: none came yet
        self._back = 0  # entries in a row that told a much earlier time
        out.output.silent = True
        out.attach(
            engine,
            gather=self._flushers.gather,
            events=lambda: self.total,
            warming_up=lambda: not self.live or out.warming_up(),
            told=lambda: self._flushers.told,
        )

    @property
    def total(self) -> int:
        """Events processed in all."""
        return sum(self.processed.values())

    @property
    def keeps(self) -> bool:
        """Whether Redis keeps what is done here, as far as known: what no stream has, e.g. a repair, would go
        back for clients where another took over without it."""
        return self.saved and self.out.taken

    # -- what comes in ------------------------------------------------------------------------------

    def take(self, delivery: Delivery, arrival_ns: int) -> None:
        """Process an entry, or keep it while the state must not move. Never raises.

        Args:
            delivery: One entry.
            arrival_ns: When its oldest event came, on our monotonic clock.
        """
        if self._holding:
            self._held.append((delivery, arrival_ns))
        else:
            self._process(delivery, arrival_ns)

    async def room(self) -> None:
        """Return when nothing is held back, and the state may move: reading on would only fill memory."""
        while self._holding:
            await self._freed.wait()

    def _process(self, delivery: Delivery, arrival_ns: int) -> None:
        began = time.perf_counter()
        queue, events = delivery.queue, delivery.events
        try:
            self._hear(delivery.header.epoch)
            if delivery.header.lost:
                self.bars_lost(delivery.header.lost)
            if delivery.header.market_ms:
                self._lead(delivery.header.market_ms)
            if events:
                if not self.first_ms:
                    self.first_ms = delivery.id[0]
                sources = [(arrival_ns, PackedEvents(queue, delivery.data))] if queue in RAW_SEARCHED else ()
                self.engine.process(queue, Batch(events, arrival_ns, sources))
        except Exception as exc:  # a defect of ours must not end the partition
            self.failures += 1
            if self.failures.bit_count() == 1:  # the 1st, 2nd, 4th, 8th ... time
                log.error("entry_failed", partition=self.number, queue=queue, exc_info=exc)
        if events:
            self.processed[queue] = self.processed.get(queue, 0) + len(events)
            self._observe(queue, time.perf_counter() - began)

    def go_on(self, cursors: Mapping[str, Cursor]) -> None:
        """The state is of these places: entries of a later listener than theirs are another's (`_hear`)."""
        self._listener_epoch = max((cursor.epoch for cursor in cursors.values()), default=0)

    def _hear(self, epoch: int) -> None:
        """Before the first entry of another listener: no price of it may be taken for a certain high."""
        if epoch > self._listener_epoch:
            if self._listener_epoch:
                for gaps in self._gaps():
                    gaps.another_writes()
            self._listener_epoch = epoch

    def bars_lost(self, lost: Mapping[str, Collection[str] | None]) -> None:
        """The listener lost bars of ours, before the next entry (`Header.lost`)."""
        for gaps in self._gaps():
            gaps.bars_lost(lost)

    def _gaps(self) -> list[PartitionGaps]:
        analyzers = [guard.analyzer for guard in self.engine.guards]
        return [analyzer for analyzer in analyzers if isinstance(analyzer, PartitionGaps)]

    def _lead(self, market_ms: int) -> None:
        engine = self.engine
        if market_ms < engine.market.clock.now_ms - _REWOUND_MS:
            self._back += 1
            if self._back >= _REWOUND_ENTRIES:
                self._back = 0
                engine.rewind(market_ms)
            return
        self._back = 0
        market = engine.market
        before = market.clock.now_ms // SLOT_MS
        engine.lead(market_ms)
        if market.clock.now_ms // SLOT_MS != before:
            # Changes over the last minutes are others now: boards are ranked anew, as in one process, where
            # some symbol of the market always has a bar.
            market.revision += 1

    # -- the state must not move --------------------------------------------------------------------

    def hold(self) -> None:
        """Keep what comes until `free`. It may be called several times, `free` as often."""
        self._holding += 1
        self._freed.clear()

    async def free(self) -> None:
        """Work off what was kept, in order, and go on as usual."""
        if self._holding == 1:
            began = time.perf_counter()
            while self._held:
                self._process(*self._held.popleft())
                if time.perf_counter() - began > _STEP_SECONDS:
                    await asyncio.sleep(0)
                    began = time.perf_counter()
        self._holding -= 1
        if not self._holding:
            self._freed.set()

    # -- from replay to live, checkpoints, the end ----------------------------------------------------

    async def go_live(self, now_ms: int) -> int:
        """The replay is over: what of its events nobody has heard yet leaves, and everything from now on.

        Args:
            now_ms: Redis's time.

        Returns:
            How many events of the replay left. Not `live` after it: the partition is another's.

        Raises:
            REDIS_ERRORS: It may be tried again.
        """
        if self.live or self.gone:
            return 0
        self.hold()
        try:
            new = await self.out.resume(self.first_ms or now_ms)
            if not self.gone and not self.out.output.refused:
                self.live = True
                self._flushers.start(at_once=True)
        finally:
            await self.free()
        return new

    async def save(self, store: CheckpointStore, cursors: Callable[[], dict[str, Cursor]]) -> float:
        """Write a checkpoint, once the events up to it have left; returns seconds of work, 0: not written.

        Args:
            store: Where to.
            cursors: How far the streams have been read, up to the last `take`.

        Raises:
            REDIS_ERRORS: The one before stays.
        """
        if not self.live or self.gone:
            return 0.0
        try:
            seconds = await self._save(store, cursors)
        except BaseException:
            self.saved = False
            raise
        self.saved = True
        return seconds

    async def _save(self, store: CheckpointStore, cursors: Callable[[], dict[str, Cursor]]) -> float:
        self.hold()
        try:
            await self._flushers.pause()
            if self.gone:
                return 0.0
            while self._held:  # what came meanwhile: the cursors are behind it already
                self._process(*self._held.popleft())
            events = self.out.output.counters.events
            dumped = await checkpoint.dump(self.engine, self.epoch, cursors(), self.processed, self.lost)
            began = time.perf_counter()
            windows = self.windows.plan()
            dumped.seconds += time.perf_counter() - began
        finally:
            self._flushers.paused = False
            await self.free()
        return await self._write(store, dumped, windows, events)

    async def _write(self, store: CheckpointStore, dumped: Dumped, windows: Write, events: int) -> float:
        began = time.perf_counter()
        data, fields = await asyncio.to_thread(lambda: (checkpoint.pack(dumped), windows.pack()))
        seconds = dumped.seconds + time.perf_counter() - began
        # A successor starts behind these events and will not find them again: they go first.
        if not await self.out.written(events) or self.gone:
            return 0.0
        if not await store.save(self.number, self.epoch, data, windows, fields):
            log.warning("checkpoint_refused", partition=self.number, epoch=self.epoch)
            return 0.0
        self.windows.written(windows)
        return seconds

    async def stop(self) -> None:
        """End the tasks. Safe to call twice."""
        self.gone = True
        tasks, self._flushers.tasks = self._flushers.tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
