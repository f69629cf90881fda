"""Every loss of data, wherever it happens, in one place: it marks the market and enters the gap ledger.

Data is lost while the feed is away, between a process's end and its next start, in frames that the ring
sheds, and in batches that queues drop or that expire there. Rows say so at once (`stale`,
`uncertain_since`), the ledger says what cannot be had any more, and `Backfill` repairs the rest.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, ClassVar, Protocol

import structlog

from mdp.analyzers.base import Analyzer
from mdp.analyzers.state import Market
from mdp.events import AGGREGATES, HALTS, QUOTES, TRADES, oldest_start
from mdp.feeds import HALTS as HALTS_FEED
from mdp.feeds import HOD_ALERT, LOD_ALERT, LULD, TRADE_STATS, TTA, TTA_ALL
from mdp.feeds import QUOTES as QUOTES_FEED
from mdp.feeds import TRADES as TRADES_FEED
from mdp.listener.gaps import OFF, RUNNING, WAITING, Gap, GapLedger
from mdp.listener.ring import RawRing
from mdp.observability.metrics import Metrics
from mdp.queues.base import Batch
from mdp.sessions import TradingDay
from mdp.stage import Health

log = structlog.get_logger(__name__)

LOOK_SECONDS = 1.0  # the whole market is marked, and its rows published again, at most so often
QUIET_NS = 5_000_000_000  # without another loss of the kind: then the stretch is over
RESUMED_NS = 10_000_000_000  # connected, and still no event: the market is quiet
MAX_SYMBOLS = 20_000  # told apart in one second; beyond them it may have been any symbol
RING = "ring"  # where frames wait to be decoded: beside the queues a place where data is lost

#: Feeds that no later question to the provider completes, by the queue that fills them.
_LOST_WITH = {
    AGGREGATES: (HOD_ALERT.name, LOD_ALERT.name),
    TRADES: (TRADES_FEED.name, TTA.name, TTA_ALL.name, TRADE_STATS.name),
    QUOTES: (QUOTES_FEED.name,),
    HALTS: (LULD.name, HALTS_FEED.name),
}
ALL_FEEDS = tuple(name for names in _LOST_WITH.values() for name in names)


class Repairer(Protocol):
    """Repairs highs, lows and volumes."""

    def want(self, gap: Gap, number: int, until_ms: float) -> None:
        """Repair a loss that is over.

        Args:
            gap: Its entry, to be kept up to date.
            number: Of the loss in `Market.trust`; all up to it are meant.
            until_ms: Market time at which data came again.
        """


class TrustKeeper(Analyzer):
    """Keeps `market.trust` over a restart; an analyzer of no events."""

    name: ClassVar[str] = "trust"

    def dump(self) -> Iterator[Any]:
        yield from self.market.trust.dump()

    def hydrate(self, records: Iterable[Any]) -> None:
        for record in records:
            self.market.trust.load(record)


class _Stretch:
    """Losses of one kind that follow each other."""

    def __init__(self, gap: Gap, since_ms: float) -> None:
        self.gap = gap
        self.since_ms = since_ms
        self.number = 0
        self.last_ns = 0
        self.symbols: set[str] | None = set()  # None: any


class _Noted:
    """What a queue lost since the last look."""

    def __init__(self, since_ms: float) -> None:
        self.events = 0
        self.symbols: set[str] | None = set()  # None: any
        self.since_ms = since_ms
        self.marked_ms: float | None = None  # the whole market is marked since then


class _Absence:
    """The feed, or the process, was away."""

    def __init__(self, gap: Gap, day: TradingDay | None, since_ms: float) -> None:
        self.gap = gap
        self.day = day
        self.since_ms = since_ms
        self.number = 0
        self.marked_ms = since_ms
        self.back_ns = 0  # when it was over; 0 while it lasts
        self.back_ms = 0.0  # the market clock then
        self.quiet_ms = 0.0  # repaired up to this time, which the market clock has not reached


class Losses:
    """See the module. A stage; start it after the state was restored, and before events come.

    Args:
        market: What is marked.
        ring: Whose shed frames count; None: there is none.
        ledger: What tells of outages, and where losses are entered.
        repairer: Told of every loss of bars once it is over.
        server_ms: The provider's time; None while unknown.
        clock: Monotonic nanoseconds.
        period_seconds: Between two looks.
    """

    name = "losses"

    def __init__(
        self,
        market: Market,
        ring: RawRing | None,
        ledger: GapLedger,
        repairer: Repairer,
        *,
        server_ms: Callable[[], int | None] = lambda: None,
        clock: Callable[[], int] = time.monotonic_ns,
        period_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._market, self._ring, self.ledger = market, ring, ledger
        self._repairer = repairer
        self._server_ms = server_ms
        self._clock = clock
        self._period_seconds = period_seconds
        self._noted: dict[tuple[str, str], _Noted] = {}  # (queue, reason)
        self._stretches: dict[tuple[str, str], _Stretch] = {}
        self._absences: list[_Absence] = []
        self._shed_frames = self._shed_events = 0  # of the ring, noted already
        self._task: asyncio.Task[None] | None = None
        self.events: dict[str, int] = {}  # reason -> events lost
        ledger.on_open.append(self._outage_began)
        ledger.on_close.append(self._outage_ended)

    async def start(self) -> None:
        """Enter the time that the process was away; then look once a second."""
        if self._market.clock.now_ms:
            self._restarted()
        self._task = asyncio.create_task(self._run(), name=self.name)

    async def stop(self) -> None:
        """End. Safe to call twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def health(self) -> Health:
        """Always good; with what is missing."""
        trust = self._market.trust
        if not trust:
            return Health(True, "nothing is missing")
        count = "any symbol" if trust.whole_market else f"{len(trust.symbols())} symbols"
        return Health(True, f"highs and lows of {count} may be wrong")

    def register(self, metrics: Metrics) -> None:
        """Show its counters."""
        metrics.counters(
            "mdp_gap_entries_total",
            "Entries of the gap ledger by what began them.",
            ("reason",),
            lambda: {(reason,): float(n) for reason, n in self.ledger.by_reason.items()},
        )
        metrics.counters(
            "mdp_gap_lost_events_total",
            "Events that were received and lost, by where.",
            ("reason",),
            lambda: {(reason,): float(n) for reason, n in self.events.items()},
        )
        metrics.gauges(
            "mdp_gap_uncertain_symbols",
            "Symbols of today whose highs and lows may be wrong.",
            (),
            lambda: {(): float(self.uncertain())},
        )

    def uncertain(self) -> int:
        """How many of today's symbols may have wrong highs and lows."""
        trust = self._market.trust
        if not trust.whole_market:
            return len(trust.symbols())
        return sum(trust.uncertain_since(symbol) is not None for symbol in self._market.symbols)

    def queue_lost(self, queue: str, reason: str, batch: Batch) -> None:
        """A batch expired or was dropped. Quick: the symbols of bars are noted, of others the number."""
        if queue == AGGREGATES:
            since_ms = oldest_start(batch.events, self._market.clock.now_ms)
            self.note(queue, reason, len(batch), batch.symbols, since_ms)
        else:
            self.note(queue, reason, len(batch), ())

    def note(
        self,
        queue: str,
        reason: str,
        events: int,
        symbols: Collection[str] | None,
        since_ms: float | None = None,
    ) -> None:
        """Events were lost; `look` enters them, and lets rows say so.

        Highs are uncertain at once: the next bar may be told as one before the next look.

        Args:
            queue: Where, or `RING`.
            reason: One word.
            events: How many.
            symbols: Whose bars; None: it may have been any symbol's. Of other events it does not matter.
            since_ms: Market time from which on they are missing; None: now.
        """
        clock = self._market.clock
        since = clock.now_ms if since_ms is None else since_ms
        if clock.day is not None:
            since = max(since, clock.day.start_ms)
        noted = self._noted.get((queue, reason))
        if noted is None:
            noted = self._noted[queue, reason] = _Noted(since)
        noted.events += events
        noted.since_ms = min(noted.since_ms, since)
        if symbols is None:
            noted.symbols = None
        elif noted.symbols is not None and len(noted.symbols) <= MAX_SYMBOLS:
            noted.symbols.update(symbols)
        now_ms = clock.now_ms
        if queue not in (AGGREGATES, RING) or not now_ms:
            return
        if symbols is not None:
            if symbols:
                self._market.trust.lose(now_ms, symbols, since)
        elif noted.marked_ms is None or since < noted.marked_ms:
            noted.marked_ms = since
            self._market.trust.lose(now_ms, None, since)

    # -- outages, and the time between two processes ----------------------------------------------

    def _restarted(self) -> None:
        gap = self.ledger.begin(
            "restart", detail="from the last snapshot to the first event", market_ms=self._market.clock.now_ms
        )
        absence = self._absent(gap)
        if absence is not None:
            self._back(absence)

    def _outage_began(self, gap: Gap) -> None:
        self._absent(gap)

    def _outage_ended(self, gap: Gap) -> None:
        for absence in self._absences:
            if absence.gap is gap:
                self._back(absence)

    def _absent(self, gap: Gap) -> _Absence | None:
        clock = self._market.clock
        if not clock.now_ms:  # there is nothing yet that could be incomplete
            return None
        absence = _Absence(gap, clock.day, clock.now_ms)
        gap.market_start_ms = int(clock.now_ms)  # by the events, as everything else that is market time
        gap.not_recoverable = list(ALL_FEEDS)
        gap.name_uncertain(None)
        gap.repair = WAITING
        absence.number = self._market.lose(since_ms=absence.since_ms)
        # Those that only wait for an event to prove the time: this one begins where they do.
        self._absences = [other for other in self._absences if not other.quiet_ms]
        self._absences.append(absence)
        return absence

    def reach_back(self, gap: Gap, since_ms: float) -> None:
        """An outage that lasts began earlier than we heard of it, at that market time."""
        for absence in self._absences:
            if absence.gap is gap and since_ms < absence.since_ms:
                absence.since_ms = since_ms
                gap.market_start_ms = int(since_ms)
                absence.number = self._market.lose(since_ms=since_ms)

    def stretch_of(self, queue: str, reason: str) -> Gap | None:
        """The entry of the losses of a kind that follow each other now."""
        stretch = self._stretches.get((queue, reason))
        return None if stretch is None else stretch.gap

    def resume(self) -> None:
        """The ledger and the market's trust were taken back from another process: go on with what is left."""
        now_ms, number = self._market.clock.now_ms, self._market.trust.number
        for gap in self.ledger.kept():
            if gap is self.ledger.current:
                self._absences.append(self._taken_back(gap))
            elif gap.repair in (WAITING, RUNNING):
                if gap.end_ms is None:
                    self.ledger.finish(gap, market_ms=now_ms)
                self._repairer.want(gap, number, now_ms)

    def _taken_back(self, gap: Gap) -> _Absence:
        clock = self._market.clock
        since_ms = float(gap.market_start_ms or clock.now_ms)
        absence = _Absence(gap, clock.day, since_ms)
        absence.number = self._market.lose(since_ms=since_ms)
        return absence

    def _back(self, absence: _Absence) -> None:
        absence.back_ns, absence.back_ms = self._clock(), self._market.clock.now_ms

    def _see_to(self, absence: _Absence) -> bool:
        """Whether an absence is over and handed on."""
        market = self._market
        clock = market.clock
        if not absence.back_ns:
            if clock.now_ms > absence.marked_ms:  # frames that had come before were worked off
                absence.marked_ms = clock.now_ms
                absence.number = market.lose(since_ms=absence.since_ms)
            return False
        if clock.now_ms < absence.back_ms:  # the market began again (a replay): that was another time
            if absence.gap.reason == "restart":
                self.ledger.finish(absence.gap, market_ms=absence.back_ms)
            absence.gap.repair, absence.gap.repair_detail = OFF, "the market's time went back"
            return True
        until_ms, quiet = clock.now_ms, False
        if until_ms == absence.back_ms:
            waited = self._clock() - absence.back_ns
            if self.ledger.current is not None or waited < RESUMED_NS or absence.quiet_ms:
                return False
            until_ms, quiet = self._quiet_until(), True
        since_ms = absence.quiet_ms or absence.since_ms
        day = clock.day
        if day is not None and absence.day is not None and day.day != absence.day.day:
            since_ms = day.start_ms  # of the day before nothing is kept
        elif until_ms <= since_ms and absence.quiet_ms:
            return True
        # Marked again: a bar that came meanwhile proves nothing about what was before it. Rows that have a
        # newer bar are not stale, and their extremes may be wrong all the same.
        absence.number = market.trust.lose(absence.back_ms, None, since_ms)
        market.losses += 1
        market.revision += 1
        gap = absence.gap
        gap.market_end_ms = int(until_ms)
        if gap.reason == "restart":
            self.ledger.finish(gap, market_ms=until_ms)
        gap.name_uncertain(None)
        self._repairer.want(gap, absence.number, until_ms)
        # What the provider says of its time is not proved before an event of that time has come.
        absence.quiet_ms = until_ms
        return not quiet

    def _quiet_until(self) -> float:
        """The market's time where it sends no events."""
        clock, server = self._market.clock, self._server_ms()
        day = clock.day
        if server is None or day is None or not day.start_ms <= server < day.end_ms:
            return clock.now_ms
        return max(clock.now_ms, min(server, day.post_ms))

    # -- losses while connected --------------------------------------------------------------------

    def look(self) -> None:
        """Mark and enter what was lost since the last look."""
        if self._ring is not None:
            counters = self._ring.counters
            frames = counters.shed_frames - self._shed_frames
            events = counters.shed_events - self._shed_events
            self._shed_frames, self._shed_events = counters.shed_frames, counters.shed_events
            if frames:
                self._lost(RING, "shed", events, None, self._market.clock.now_ms).gap.frames += frames
        if self._noted:
            noted, self._noted = self._noted, {}
            for (queue, reason), one in noted.items():
                whose = None if one.symbols is None or len(one.symbols) > MAX_SYMBOLS else one.symbols
                self._lost(queue, reason, one.events, whose, one.since_ms)
        now = self._clock()
        for key, stretch in list(self._stretches.items()):
            if now - stretch.last_ns >= QUIET_NS:
                del self._stretches[key]
                self._over(stretch)
        self._absences = [absence for absence in self._absences if not self._see_to(absence)]

    def _lost(
        self, queue: str, reason: str, events: int, symbols: set[str] | None, since_ms: float
    ) -> _Stretch:
        clock = self._market.clock
        key = (queue, reason)
        stretch = self._stretches.get(key)
        if stretch is None:
            detail = "frames waited too long or too many" if queue == RING else f"queue {queue}"
            gap = self.ledger.begin(reason, detail=detail, market_ms=since_ms or None)
            gap.not_recoverable = list(_LOST_WITH.get(queue, ALL_FEEDS))
            if queue not in (AGGREGATES, RING):
                gap.name_symbols(None)
            stretch = self._stretches[key] = _Stretch(gap, since_ms)
        if since_ms < stretch.since_ms:
            stretch.since_ms = since_ms
            stretch.gap.market_start_ms = int(since_ms)
        stretch.last_ns = self._clock()
        stretch.gap.events += events
        self.events[reason] = self.events.get(reason, 0) + events
        if queue in (AGGREGATES, RING) and clock.now_ms:
            if symbols is None:
                stretch.symbols = None
            elif stretch.symbols is not None:
                stretch.symbols |= symbols
            stretch.number = self._market.lose(symbols, since_ms=stretch.since_ms)
            stretch.gap.name_symbols(stretch.symbols)
            stretch.gap.name_uncertain(stretch.symbols)
            stretch.gap.repair = WAITING
        return stretch

    def _over(self, stretch: _Stretch) -> None:
        now_ms = self._market.clock.now_ms
        gap = stretch.gap
        self.ledger.finish(gap, market_ms=now_ms or None)
        log.warning("data_lost", reason=gap.reason, detail=gap.detail, events=gap.events, number=gap.number)
        if stretch.number:
            self._repairer.want(gap, stretch.number, now_ms)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._period_seconds)
            try:
                self.look()
            except Exception as exc:  # the next second may be well; rows would say nothing of losses else
                log.error("losses_look_failed", exc_info=exc)
