"""The partitions that a processor owns: taken over from their checkpoints, fed by one reader, handed over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import structlog

from mdp.cache.leases import Lease
from mdp.cache.redis_link import REDIS_ERRORS
from mdp.cache.tasks import Background, end
from mdp.processor import checkpoint
from mdp.processor.checkpoint import Checkpoint, CheckpointStore, NewerCheckpoint
from mdp.processor.engine import Engine
from mdp.processor.partition import Partition
from mdp.processor.partition_gaps import PartitionGaps, gaps_of
from mdp.processor.partition_losses import PartitionLosses
from mdp.processor.partition_output import PartitionOutput
from mdp.processor.recall import Recall
from mdp.queues.entry import NewerEntry
from mdp.queues.stream_reader import Cursor, StreamReader
from mdp.stage import Health

log = structlog.get_logger(__name__)

_FIRST_SECONDS = 1.0  # between two checkpoints of a partition
_LAST_SECONDS = 15.0
_SHARE = 10.0  # checkpoints take a tenth of the time of a process at most
_RETRY_SECONDS = 0.2
_WAIT_MS = 100  # of one read where nothing comes: so long a partition that was just taken waits at most
_STEP_SECONDS = 0.005  # of entries, before the loop is given back
_BEHIND_MS = 1_000  # so far behind after a replay: what came meanwhile is replayed, too, before it expires
_REPLAYS = 4
_PARKED_SECONDS = 600.0  # a state is kept for its lease to come back, e.g. from a Redis that was restarted

#: (partition, epoch, lease) -> its way out and a new engine over it.
Build = Callable[[int, Lease], tuple[PartitionOutput, Engine]]

#: (when it was dropped, its state, how far it had read).
_Parked = tuple[float, Partition, dict[str, Cursor]]


class Partitions(Background):
    """An `Owner` for `Spread`, and a stage: start it before, stop it after.

    Args:
        reader: Of this process; nobody else uses it.
        store: Checkpoints.
        build: Makes the way out and the engine of a partition.
        observe: Called with (queue or analyzer, seconds) after each step.
        clock: Monotonic seconds.

    Attributes:
        working: Those at work, by number.
        on_ready: Called with each new engine after its state was taken back, before events come.
        on_gone: Called with a partition that is not worked on any more, before its last checkpoint.
        on_unable: Called once with the reason why this process can go on with nothing, e.g. a newer version.
    """

    name = "partition_workers"

    def __init__(
        self,
        reader: StreamReader,
        store: CheckpointStore,
        build: Build,
        *,
        observe: Callable[[str, float], None] = lambda _name, _seconds: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.working: dict[int, Partition] = {}
        self.on_ready: list[Callable[[int, Engine], None]] = []
        self.on_unable: Callable[[str], None] = lambda _reason: None
        self.on_gone: list[Callable[[int], None]] = []
        self.losses = PartitionLosses(self._gaps_of)
        self.checkpoints = 0
        self.checkpoint_seconds = 0.0  # of the last one
        self.checkpoint_failures = 0
        self.replayed_seconds = 0.0  # of the last take-over, from the lease to live
        self._reader = reader
        self._recall = Recall(store.client, store.keys, reader.redis_ms)
        self._store = store
        self._build = build
        self._observe = observe
        self._clock = clock
        self._unable = ""
        self._took: dict[int, float] = {}  # partition -> when its lease was gained
        self._replays: dict[int, int] = {}
        self._parked: dict[int, _Parked] = {}
        self._keeping: dict[int, asyncio.Task[None]] = {}
        self._unsaved: set[int] = set()  # Redis has no checkpoint as new as our state
        self._ending: set[asyncio.Task[None]] = set()
        reader.on_caught_up = self._caught_up
        reader.on_missed = lambda queue, partition, events, _header: self._lost(
            queue, partition, events, "missed"
        )
        reader.on_unread = self._lost
        reader.on_lost = self._bars_lost

    # -- as a stage ---------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Stop reading, end whatever is still at work. Safe to call twice, or before `start`."""
        await super().stop()
        for number in list(self.working):
            self.drop(number)
        await asyncio.gather(*self._ending, return_exceptions=True)

    def health(self) -> Health:
        """Whether it reads, and what it has."""
        if self._unable:
            return Health(False, self._unable)
        if self._task is None or self._task.done():
            return Health(False, "does not read")
        waiting = [number for number, one in self.working.items() if not one.live]
        replaying = f", {len(waiting)} of them replayed" if waiting else ""
        if not self.working:
            return Health(True, "no partition owned")
        return Health(True, f"{len(self.working)} partitions{replaying}")

    @property
    def processed(self) -> int:
        """Events processed of the partitions at work, those before they came here included."""
        return sum(one.total for one in self.working.values())

    # -- as an owner --------------------------------------------------------------------------------

    async def take(self, partition: int, lease: Lease) -> None:
        """Load, and begin to replay.

        Raises:
            CheckpointError: It is damaged.
            REDIS_ERRORS: Redis went meanwhile.
        """
        self._took[partition] = self._clock()
        self._unsaved.discard(partition)
        try:
            saved = await self._store.load(partition)
        except NewerCheckpoint as exc:
            self._too_old(str(exc))
            return
        parked = self._newer(partition, saved)
        if parked is not None:
            await parked[1].room()  # what it had taken from the streams when it was dropped is in its state
        kept = {} if saved is None or parked is not None else await self._store.windows(partition)
        out, engine = self._build(partition, lease)
        cursors: dict[str, Cursor] = {}
        one = Partition(partition, lease.epoch, engine, out, observe=self._observe)
        if parked is not None:
            self._unsaved.add(partition)
            log.warning("partition_from_memory", partition=partition, checkpoint=saved is not None)
            saved = await self._from_memory(one, parked, recall=saved is not None)
            cursors = saved.head.cursors
        elif saved is not None:
            saved.hydrate(engine)
            cursors = saved.head.cursors
            await asyncio.to_thread(one.windows.restore, kept)
            await self._recall(partition, engine, cursors)
        if saved is not None:
            cursors, one.processed = saved.head.cursors, dict(saved.head.processed)
            one.go_on(cursors)
            one.lost = {queue: dict(reasons) for queue, reasons in saved.head.lost.items()}
        for ready in self.on_ready:
            ready(partition, engine)
        # Lost, or lost and ours again. One that is past its margin may yet be renewed: then nobody takes the
        # partition a second time, and who is told that it is lost drops it.
        if lease.epoch != one.epoch:
            if parked is not None:  # still the newest state there is
                self._parked[partition] = (parked[0], one, cursors)
            return
        self._parked.pop(partition, None)
        self._replays[partition] = 1
        self.working[partition] = one
        self._reader.add(partition, cursors)
        log.info(
            "partition_taken",
            partition=partition,
            epoch=lease.epoch,
            symbols=len(engine.market.symbols),
            windows=one.windows.restored,
            checkpoint=saved is not None,
        )

    def _newer(self, partition: int, saved: Checkpoint | None) -> _Parked | None:
        """What we still have in memory of a partition, unless another wrote a checkpoint after us.

        It is newer than our own last checkpoint: what was repaired since is in no stream, and clients were
        told it. What was read since is replayed either way. None is left where Redis lost everything.
        """
        parked = self._parked.get(partition)
        if parked is None:
            return None
        since, one, _ = parked
        ours = saved is None or saved.head.epoch <= one.epoch
        if ours and self._clock() - since < _PARKED_SECONDS:
            return parked
        del self._parked[partition]
        return None

    async def _from_memory(self, one: Partition, parked: _Parked, *, recall: bool) -> Checkpoint:
        """Let a partition go on with a state of this process; `recall`: its streams are still there."""
        _, before, cursors = parked
        try:
            dumped = await checkpoint.dump(
                before.engine, before.epoch, cursors, before.processed, before.lost
            )
            saved = checkpoint.unpack(await asyncio.to_thread(checkpoint.pack, dumped))
            saved.hydrate(one.engine)
            if recall:
                await self._recall(one.number, one.engine, cursors)
            one.windows.adopt(before.engine)
        except REDIS_ERRORS:
            raise
        except Exception:  # of no use: the next attempt begins with the checkpoint, if there is one
            self._parked.pop(one.number, None)
            raise
        one.out.output.inherit(before.out.output)  # its state has them already: no replay brings them again
        return saved

    async def give(self, partition: int) -> None:
        """Read no more, write the last checkpoint and all that waits."""
        one = self.working.get(partition)
        self._tell_gone(partition)
        await end(self._keeping.pop(partition, None))
        if one is None:
            return
        await one.room()
        cursors = self._reader.remove(partition)
        try:
            await one.save(self._store, lambda: cursors)
        except REDIS_ERRORS as exc:
            log.warning("checkpoint_failed", partition=partition, error=type(exc).__name__)
        await one.out.close()
        self.working.pop(partition, None)
        await one.stop()
        log.info("partition_given", partition=partition, epoch=one.epoch)

    def drop(self, partition: int) -> None:
        """Stop at once, write nothing. What is known is kept for a while, in case it comes back to us."""
        one = self.working.pop(partition, None)
        self._tell_gone(partition)
        keeping = self._keeping.pop(partition, None)
        cursors = self._reader.remove(partition)
        if one is None:
            return
        one.gone = True
        self._parked[partition] = (self._clock(), one, cursors)
        ending = asyncio.create_task(self._end(one, keeping), name=f"drop-{partition}")
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    async def _end(self, one: Partition, keeping: asyncio.Task[None] | None) -> None:
        await end(keeping)
        await one.stop()
        await one.out.close(0.0)

    def _tell_gone(self, partition: int) -> None:
        for told in self.on_gone:
            told(partition)

    def forget_parked(self, foreign: Callable[[int], bool]) -> None:
        """Forget what was kept of partitions that are another's by now, or for too long. Once a second."""
        now = self._clock()
        for number, (since, _, _) in list(self._parked.items()):
            if now - since > _PARKED_SECONDS or foreign(number):
                del self._parked[number]

    # -- reading ------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            try:
                await self._read()
            except NewerEntry as exc:
                self._too_old(str(exc))
                return
            except Exception as exc:  # a defect must not end reading for good
                log.error("reading_failed", exc_info=exc)
                await asyncio.sleep(_RETRY_SECONDS)

    def _too_old(self, reason: str) -> None:
        """A newer version writes what we cannot read: say so once, and let others work."""
        if not self._unable:
            self._unable = reason
            log.error("processor_too_old", reason=reason)
            self.on_unable(reason)

    async def _read(self) -> None:
        began = self._clock()
        async for delivery in self._reader.read(_WAIT_MS):
            one = self.working.get(delivery.partition)
            if one is None:
                continue
            age_ms = max(0, self._reader.redis_ms() - delivery.id[0])
            one.take(delivery, time.monotonic_ns() - age_ms * 1_000_000)
            if self._clock() - began > _STEP_SECONDS:
                await asyncio.sleep(0)
                began = self._clock()
        for one in list(self.working.values()):
            await one.room()
        # Also where everything was there at once: an entry may not let others starve.
        await asyncio.sleep(0)

    def _gaps_of(self, partition: int) -> PartitionGaps | None:
        one = self.working.get(partition)
        return None if one is None else gaps_of(one.engine)

    def _lost(
        self, queue: str, partition: int, events: int, reason: str, bars: list[Any] | None = None
    ) -> None:
        """Events of a partition went by unread."""
        self.losses.note(queue, partition, events, reason, bars)
        one = self.working.get(partition)
        if one is not None and events:
            reasons = one.lost.setdefault(queue, {})
            reasons[reason] = reasons.get(reason, 0) + events

    def _bars_lost(self, partition: int, lost: Mapping[str, Collection[str] | None]) -> None:
        one = self.working.get(partition)
        if one is not None:
            one.bars_lost(lost)

    def _caught_up(self, partition: int) -> None:
        one = self.working.get(partition)
        if one is None or one.live or partition in self._keeping:
            return
        self._keeping[partition] = asyncio.create_task(self._keep(one), name=f"keep-{partition}")

    async def _keep(self, one: Partition) -> None:
        """From the end of a replay on: let it go live, then write checkpoints."""
        number = one.number
        if one.gone or await self._replay_more(one):
            return
        while not one.live:
            if one.gone or one.out.output.refused:
                return
            try:
                new = await one.go_live(self._reader.redis_ms())
            except REDIS_ERRORS as exc:
                log.warning("replay_not_ended", partition=number, error=type(exc).__name__)
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if not one.live:
                return
            self.replayed_seconds = self._clock() - self._took.get(number, self._clock())
            log.info(
                "partition_live", partition=number, seconds=round(self.replayed_seconds, 3), new_events=new
            )
        pause, before = 0.0 if number in self._unsaved else _FIRST_SECONDS, (-1, -1)
        while not one.gone:
            await asyncio.sleep(pause)
            now = (one.total, one.engine.market.revision)
            if now == before:  # only heartbeats came, and nothing was repaired
                continue
            pause = await self._save(one)
            before = now if one.saved else (-1, -1)

    async def _replay_more(self, one: Partition) -> bool:
        """Whether the replay took so long that what came meanwhile is replayed as well: it would expire."""
        number = one.number
        cursors = self._reader.cursors(number)
        newest = max((cursor.id[0] for cursor in cursors.values()), default=0)
        behind = self._reader.redis_ms() - newest
        if not one.first_ms or behind <= _BEHIND_MS or self._replays[number] >= _REPLAYS:
            return False
        self._replays[number] += 1
        del self._keeping[number]
        self._reader.add(number, self._reader.remove(number))
        return True

    async def _save(self, one: Partition) -> float:
        """Write a checkpoint; returns seconds until the next one."""
        try:
            seconds = await one.save(self._store, lambda: self._reader.cursors(one.number))
        except REDIS_ERRORS as exc:
            self.checkpoint_failures += 1
            if self.checkpoint_failures.bit_count() == 1:
                log.warning("checkpoint_failed", partition=one.number, error=type(exc).__name__)
            return _FIRST_SECONDS
        if seconds:
            self.checkpoints += 1
            self.checkpoint_seconds = seconds
        return min(_LAST_SECONDS, max(_FIRST_SECONDS, _SHARE * seconds * len(self.working)))
