"""The gap ledger: every stretch of time for which data is missing, so that it can be told and refilled."""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable, Collection
from typing import Any

import msgspec

MAX_ENTRIES = 10_000
MAX_STATES = 32  # of one outage; a long one repeats itself
MAX_NAMES = 100  # of symbols named in one entry; beyond them only their number is told

#: How far an entry is repaired.
WAITING, RUNNING, DONE, PARTIAL, FAILED, OFF = "waiting", "running", "done", "partial", "failed", "off"


class Gap(msgspec.Struct):
    """One outage, or one stretch of lost data while connected.

    Times are epoch milliseconds; market times are None where the provider's is unknown.
    """

    number: int  # counts up over all outages of this process
    reason: str  # what began it, a word also used as metric label
    detail: str
    start_ms: int  # wall clock; arrival of the last frame before the outage
    market_start_ms: int | None
    end_ms: int | None = None  # None while it lasts
    market_end_ms: int | None = None
    attempts: int = 0  # connections tried meanwhile
    states: list[str] = msgspec.field(default_factory=list)  # passed through, in order, the first MAX_STATES
    frames: int = 0  # shed undecoded
    events: int = 0  # lost, as far as they could be counted
    symbols: list[str] | None = None  # whose data, the first MAX_NAMES; None: any symbol's
    symbols_count: int | None = None
    not_recoverable: list[str] = msgspec.field(
        default_factory=list
    )  # feeds that no later question to the provider completes
    repair: str = ""  # of highs, lows and volumes: a word above; empty where there is nothing to do
    repair_detail: str = ""  # one line for a person
    repaired: int = 0  # symbols
    uncertain: list[str] | None = msgspec.field(default_factory=list)
    #: ^ symbols whose highs and lows may be wrong, the first MAX_NAMES; None: any symbol's not repaired yet
    uncertain_count: int | None = 0

    def name_symbols(self, symbols: Collection[str] | None) -> None:
        """Say whose data was lost; None: it may have been any symbol's."""
        self.symbols, self.symbols_count = _named(symbols)

    def name_uncertain(self, symbols: Collection[str] | None) -> None:
        """Say whose highs and lows may be wrong; None: any symbol's that is not repaired yet."""
        self.uncertain, self.uncertain_count = _named(symbols)


def _named(symbols: Collection[str] | None) -> tuple[list[str] | None, int | None]:
    if symbols is None:
        return None, None
    return heapq.nsmallest(MAX_NAMES, symbols), len(symbols)


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class GapLedger:
    """Outages in order, bounded, the oldest forgotten first. Used from one event loop.

    Args:
        wall_ms: Epoch milliseconds of the wall clock.
        market_ms: The provider's time in epoch milliseconds, or None while unknown.
        max_entries: Bound on what is kept.
    """

    def __init__(
        self,
        *,
        wall_ms: Callable[[], int] = _wall_ms,
        market_ms: Callable[[], int | None] = lambda: None,
        max_entries: int = MAX_ENTRIES,
    ) -> None:
        self._wall_ms = wall_ms
        self._market_ms = market_ms
        self._entries: deque[Gap] = deque(maxlen=max_entries)
        self._outages: deque[Gap] = deque(maxlen=max_entries)  # those of the entries that `open` made
        self._open: Gap | None = None
        self.total = 0  # entries since the process began, forgotten ones included
        self.by_reason: dict[str, int] = {}  # the same by reason
        #: Told of an outage when it begins and when it ends.
        self.on_open: list[Callable[[Gap], None]] = []
        self.on_close: list[Callable[[Gap], None]] = []

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def current(self) -> Gap | None:
        """The outage that lasts, if any."""
        return self._open

    def open(self, reason: str, *, detail: str = "", silent_ms: int = 0) -> Gap:
        """Begin an outage; where one lasts already, it goes on and keeps its first reason.

        Args:
            reason: One word.
            detail: One line for a person, without secrets.
            silent_ms: How long ago the last frame came: data is missing since then.
        """
        if self._open is None:
            market = self._market_ms()
            self._open = self._add(reason, detail, silent_ms, None if market is None else market - silent_ms)
            self._outages.append(self._open)
            for callback in self.on_open:
                callback(self._open)
        return self._open

    def begin(self, reason: str, *, detail: str = "", market_ms: float | None = None) -> Gap:
        """Enter a loss of data that is no outage; several may last at once. `finish` ends it.

        Args:
            reason: One word.
            detail: One line for a person, without secrets.
            market_ms: Market time from which on data is missing.
        """
        return self._add(reason, detail, 0, None if market_ms is None else int(market_ms))

    def finish(self, gap: Gap, *, market_ms: float | None = None) -> None:
        """End what `begin` began; `market_ms` is up to when data is missing."""
        gap.end_ms = max(self._wall_ms(), gap.start_ms)
        gap.market_end_ms = None if market_ms is None else int(market_ms)

    def _add(self, reason: str, detail: str, silent_ms: int, market_start_ms: int | None) -> Gap:
        self.total += 1
        self.by_reason[reason] = self.by_reason.get(reason, 0) + 1
        gap = Gap(
            number=self.total,
            reason=reason,
            detail=detail,
            start_ms=self._wall_ms() - silent_ms,
            market_start_ms=market_start_ms,
        )
        self._entries.append(gap)
        return gap

    def note_state(self, state: str) -> None:
        """Remember a state that the feed passes through while an outage lasts."""
        if self._open is not None and len(self._open.states) < MAX_STATES:
            self._open.states.append(state)

    def note_attempt(self) -> None:
        """Count a connection that was tried while an outage lasts."""
        if self._open is not None:
            self._open.attempts += 1

    def close(self) -> Gap | None:
        """Data arrives again: end the outage that lasts, and return it (None where there was none)."""
        ended, self._open = self._open, None
        if ended is not None:
            # A clock that was set back, ours or the provider's, must not make an interval that ends
            # before it begins.
            ended.end_ms = max(self._wall_ms(), ended.start_ms)
            market, began = self._market_ms(), ended.market_start_ms
            ended.market_end_ms = market if market is None or began is None else max(market, began)
            for callback in self.on_close:
                callback(ended)
        return ended

    def missing(self, market_ms: float) -> bool:
        """Whether an outage lasted at a market time, epoch milliseconds, as far as those are known.

        Losses while connected are none.
        """
        for gap in self._outages:
            start = gap.market_start_ms
            if start is None or market_ms < start:
                continue
            end = gap.market_end_ms
            if end is None and gap.end_ms is not None:
                end = start + gap.end_ms - gap.start_ms
            if end is None or market_ms <= end:
                return True
        return False

    def kept(self) -> list[Gap]:
        """What is kept, oldest first."""
        return list(self._entries)

    def dump(self) -> list[Any]:
        """What is kept, as plain values for `restore`."""
        current = 0 if self._open is None else self._open.number
        return [self.total, current, self.by_reason, self.entries()]

    def restore(self, dumped: list[Any]) -> None:
        """Take back what `dump` of another process gave; before the first entry of our own.

        Raises:
            ValueError, TypeError: It is something else.
        """
        self.total, current, self.by_reason, entries = dumped
        for gap in msgspec.convert(entries, list[Gap]):
            self._entries.append(gap)
            if gap.number == current:
                self._open = gap
                self._outages.append(gap)

    def entries(self) -> list[dict[str, Any]]:
        """What is kept, oldest first, as plain JSON values."""
        return [msgspec.to_builtins(gap) for gap in self._entries]
