"""What a listener of its own process loses while connected: enters the gap ledger, which it announces.

Processors cannot see it: what the ring shed, or what waited too long for Redis, never was in a stream. (What
was there and went by unread, they count themselves.)
"""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from mdp.events import AGGREGATES, oldest_start
from mdp.listener.gaps import Gap, GapLedger
from mdp.listener.ring import RawRing
from mdp.queues.base import Batch

log = structlog.get_logger(__name__)

QUIET_NS = 5_000_000_000  # without another loss of the kind: then the stretch is over
MAX_SYMBOLS = 20_000  # told apart in one stretch; beyond them it may have been any symbol


class _Stretch:
    """Losses of one kind that follow each other."""

    def __init__(self, gap: Gap) -> None:
        self.gap = gap
        self.last_ns = 0
        self.symbols: set[str] | None = set()  # whose bars; None: any symbol's


class ListenerLosses:
    """See the module. Call `look` once a second.

    Args:
        ledger: Where losses are entered.
        ring: Whose shed frames count.
        market_ms: The market clock; 0: unknown.
        clock: Monotonic nanoseconds.
    """

    def __init__(
        self,
        ledger: GapLedger,
        ring: RawRing,
        market_ms: Callable[[], float],
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._ledger = ledger
        self._ring = ring
        self._market_ms = market_ms
        self._clock = clock
        self._shed_frames = self._shed_events = 0
        self._noted: dict[tuple[str, str], tuple[int, set[str], float]] = {}
        self._stretches: dict[tuple[str, str], _Stretch] = {}

    def queue_lost(self, queue: str, reason: str, batch: Batch) -> None:
        """A batch expired or was dropped. Quick: the symbols of bars are noted, of others the number."""
        now_ms = self._market_ms()
        events, symbols, since_ms = self._noted.get((queue, reason)) or (0, set[str](), now_ms)
        if queue == AGGREGATES and len(symbols) <= MAX_SYMBOLS:
            symbols |= batch.symbols
            since_ms = min(since_ms, oldest_start(batch.events, now_ms))
        self._noted[queue, reason] = events + len(batch), symbols, since_ms

    def look(self) -> None:
        """Enter what was lost since the last look; end the stretches that are over."""
        counters = self._ring.counters
        frames = counters.shed_frames - self._shed_frames
        events = counters.shed_events - self._shed_events
        self._shed_frames, self._shed_events = counters.shed_frames, counters.shed_events
        if frames:
            self._lost("ring", "shed", events, None, self._market_ms()).frames += frames
        noted, self._noted = self._noted, {}
        for (queue, reason), (lost, symbols, since_ms) in noted.items():
            self._lost(queue, reason, lost, symbols if len(symbols) <= MAX_SYMBOLS else None, since_ms)
        now = self._clock()
        for key, stretch in list(self._stretches.items()):
            if now - stretch.last_ns >= QUIET_NS:
                del self._stretches[key]
                gap = stretch.gap
                self._ledger.finish(gap, market_ms=self._market_ms() or None)
                log.warning(
                    "data_lost", reason=gap.reason, detail=gap.detail, events=gap.events, number=gap.number
                )

    def _lost(self, queue: str, reason: str, events: int, symbols: set[str] | None, since_ms: float) -> Gap:
        stretch = self._stretches.get((queue, reason))
        if stretch is None:
            detail = "frames waited too long or too many" if queue == "ring" else f"queue {queue}"
            gap = self._ledger.begin(reason, detail=detail, market_ms=since_ms or None)
            stretch = self._stretches[queue, reason] = _Stretch(gap)
        began_ms = stretch.gap.market_start_ms
        if began_ms is not None and since_ms < began_ms:
            stretch.gap.market_start_ms = int(since_ms)
        stretch.last_ns = self._clock()
        stretch.gap.events += events
        if symbols is None or stretch.symbols is None or len(stretch.symbols) > MAX_SYMBOLS:
            stretch.symbols = None
        else:
            stretch.symbols |= symbols
        # None of them: lost trades or quotes make no symbol's bars uncertain.
        stretch.gap.name_symbols(stretch.symbols)
        stretch.gap.name_uncertain(stretch.symbols)
        return stretch.gap
