"""Repairs what partitions of this process lost: each partition's owner its own symbols, and nobody else's.

A stage. One `Backfill` for each partition that is live; all of a process together ask no more than one would,
those symbols first that somebody looks at, whosever partition they are in. Repairs and what they know are in
the partition's checkpoint: where it is taken over, what was not finished is begun again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import structlog

from mdp.cache.rest import RestClient
from mdp.cache.tasks import Background
from mdp.cache.validate import Rejected
from mdp.listener.announcement import Announcement
from mdp.observability.loop_lag import StepTimer
from mdp.observability.metrics import Metrics
from mdp.processor.backfill import CONCURRENCY, Backfill
from mdp.processor.backfill_sources import SharedSnapshot, Turns
from mdp.processor.engine import Engine
from mdp.processor.gap_report import GAPS, pack
from mdp.processor.missed_bars import volumes
from mdp.processor.partition import Partition
from mdp.processor.partition_gaps import PartitionGaps, gaps_of
from mdp.queues.entry import partition_of
from mdp.sessions import TradingDay
from mdp.stage import Health

log = structlog.get_logger(__name__)

LOOK_SECONDS = 1.0
_KEEP_SECONDS = 0.2  # between two looks whether Redis keeps things again


class _Repair:
    """Of one partition."""

    def __init__(self, one: Partition, gaps: PartitionGaps, backfill: Backfill) -> None:
        self.one, self.gaps, self.backfill = one, gaps, backfill
        self.told: list[dict[str, Any]] = []  # what the part says
        self.parts = 0


class Repairs(Background):
    """See the module.

    Args:
        rest: The provider; its rate limit is shared with all of this process who ask.
        partitions: How many there are in all.
        working: The partitions at work, by number.
        enabled, max_symbols, include_otc, wanted, boards: As of `Backfill`, `max_symbols` for each partition.
        server_ms: The provider's time; None while unknown.
        step: Durations of its steps on the event loop.
        sleep: Injected by tests.
    """

    name = "repairs"

    def __init__(
        self,
        rest: RestClient,
        partitions: int,
        working: Callable[[], Mapping[int, Partition]],
        *,
        enabled: bool,
        max_symbols: int,
        include_otc: bool,
        wanted: Callable[[], Iterable[str]] = lambda: (),
        boards: Callable[[], Awaitable[Iterable[str]]] | None = None,
        server_ms: Callable[[], int | None] = lambda: None,
        step: StepTimer | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._rest, self._partitions, self._working = rest, partitions, working
        self._enabled, self._max_symbols, self._include_otc = enabled, max_symbols, include_otc
        self._wanted, self._boards, self._server_ms = wanted, boards, server_ms
        self._step = step if step is not None else StepTimer()
        self._sleep = sleep
        self._turns = Turns(CONCURRENCY)
        self._snapshot_checks = Rejected()
        self._snapshot = SharedSnapshot(self._volumes, self._partition_of)
        self._repairs: dict[int, _Repair] = {}
        self._said: tuple[Announcement, bool] | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._counts: dict[tuple[str, ...], float] = {}  # of repairs that are over: (kind, word ...)

    # -- as a stage ---------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Give up what is under way; it is in the checkpoints. Safe to call twice, or before `start`."""
        await super().stop()
        for number in list(self._repairs):
            self.gone(number)
        await asyncio.gather(*self._ending, return_exceptions=True)

    def health(self) -> Health:
        """Always good: whatever the provider does, live data flows."""
        if not self._enabled:
            return Health(True, "off")
        waiting = sum(repair.backfill.waiting for repair in self._repairs.values())
        return Health(True, f"{waiting} symbols wait" if waiting else "nothing to repair")

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
            except Exception as exc:  # the next second may be well; rows would say nothing of losses else
                log.error("repairs_look_failed", exc_info=exc)
            await asyncio.sleep(LOOK_SECONDS)

    # -- partitions ---------------------------------------------------------------------------------

    def ready(self, partition: int, engine: Engine) -> None:
        """A partition was taken over, its state taken back (`Partitions.on_ready`)."""
        gaps = gaps_of(engine)
        gaps.owns = lambda symbol: self._partition_of(symbol) == partition
        gaps.server_ms = self._server_ms

    def gone(self, partition: int) -> None:
        """A partition is not worked on any more (`Partitions.on_gone`): nothing of it is changed now."""
        repair = self._repairs.pop(partition, None)
        if repair is None:
            return
        self._fold(self._counts, repair)
        ending = asyncio.create_task(repair.backfill.stop(), name=f"repair-{partition}-ends")
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    def hear(self, said: Announcement, *, silent: bool) -> None:
        """Take the newest word of the listener; it counts from the next look on."""
        if said.ts:
            self._said = said, silent

    async def look(self) -> None:
        """Bring ledgers up to date, begin the repairs of partitions that went live, say what there is."""
        for number, one in list(self._working().items()):
            repair = self._repairs.get(number)
            if repair is not None and repair.one is not one:
                self.gone(number)
                repair = None
            await one.room()  # the state must not move while it is written down
            if one.gone or not one.live or self._working().get(number) is not one:
                continue
            if repair is None:
                repair = self._repairs[number] = self._begin(number, one)
                repair.gaps.repair_by(repair.backfill)
                await repair.backfill.start()
                await one.room()
            if self._said is not None:
                said, silent = self._said
                repair.gaps.hear(said, silent=silent)
            repair.gaps.losses.look()
            self._tell(repair)

    def _begin(self, number: int, one: Partition) -> _Repair:
        async def free() -> bool:
            while not (one.keeps or one.gone):  # noqa: ASYNC110  no event tells that Redis keeps things
                await asyncio.sleep(_KEEP_SECONDS)
            await one.room()
            return not one.gone

        async def snapshot(day: TradingDay, since: float) -> dict[str, float]:
            return await self._snapshot.of(number, day, since)

        backfill = Backfill(
            self._rest,
            one.engine,
            enabled=self._enabled,
            max_symbols=self._max_symbols,
            include_otc=self._include_otc,
            wanted=self._wanted,
            boards=self._boards,
            owns=lambda symbol: self._partition_of(symbol) == number,
            snapshot=snapshot,
            turns=self._turns,
            free=free,
            step=self._step,
            sleep=self._sleep,
        )
        return _Repair(one, gaps_of(one.engine), backfill)

    def _tell(self, repair: _Repair) -> None:
        """Say in Redis what the partition's ledger has, where that changed."""
        entries = repair.gaps.entries()
        if entries == repair.told:
            return
        repair.told = entries
        repair.parts += 1
        output = repair.one.out.output
        part = pack(repair.one.epoch, repair.parts, entries)
        output.parts[GAPS] = output.last_parts[GAPS] = part

    def _partition_of(self, symbol: str) -> int:
        return partition_of(symbol, self._partitions)

    async def _volumes(self, day: TradingDay) -> dict[str, float]:
        checks = self._snapshot_checks.at("snapshot")
        return await volumes(self._rest, day, checks, self._step, include_otc=self._include_otc)

    # -- what is shown ------------------------------------------------------------------------------

    def entries(self) -> dict[int, list[dict[str, Any]]]:
        """The ledgers of our own partitions, by number."""
        return {number: repair.gaps.entries() for number, repair in self._repairs.items()}

    def uncertain(self) -> int:
        """How many of today's symbols may have wrong highs and lows."""
        return sum(repair.gaps.losses.uncertain() for repair in self._repairs.values())

    @staticmethod
    def _fold(into: dict[tuple[str, ...], float], repair: _Repair) -> None:
        backfill, losses = repair.backfill, repair.gaps.losses
        rows: list[tuple[tuple[str, ...], float]] = [(("bars",), backfill.bars)]
        rows += [(("outcome", outcome), n) for outcome, n in backfill.requests.items()]
        rows += [(("rejected", *where), n) for where, n in backfill.rejected.counts.items()]
        rows += [(("lost", reason), n) for reason, n in losses.events.items()]
        for key, number in rows:
            into[key] = into.get(key, 0.0) + number

    def _of(self, kind: str) -> dict[tuple[str, ...], float]:
        counts = dict(self._counts)
        for repair in self._repairs.values():
            self._fold(counts, repair)
        return {key[1:]: number for key, number in counts.items() if key[0] == kind}

    def register(self, metrics: Metrics) -> None:
        """Show its counters, under the names that they have in one process."""
        metrics.counters(
            "mdp_gap_lost_events_total",
            "Events of partitions that were never processed, by where they were lost.",
            ("reason",),
            lambda: self._of("lost"),
        )
        metrics.gauges(
            "mdp_gap_uncertain_symbols",
            "Symbols of today in our partitions whose highs and lows may be wrong.",
            (),
            lambda: {(): float(self.uncertain())},
        )
        metrics.counters(
            "mdp_backfill_symbols_total",
            "Symbols whose missed bars were asked for, by what came of it.",
            ("outcome",),
            lambda: self._of("outcome"),
        )
        metrics.gauges(
            "mdp_backfill_waiting_symbols",
            "Symbols whose missed bars are still to be asked for.",
            (),
            lambda: {(): float(sum(repair.backfill.waiting for repair in self._repairs.values()))},
        )
        metrics.counters(
            "mdp_backfill_bars_total",
            "Missed bars that were taken.",
            (),
            lambda: {(): self._of("bars").get((), 0.0)},
        )
        metrics.counters(
            "mdp_backfill_rejected_total",
            "Values of the provider's bars that were missing, wrong or absurd and not used.",
            ("endpoint", "reason"),
            lambda: {**self._snapshot_checks.counts, **self._of("rejected")},
        )
