"""The gap ledger: every stretch of time for which data is missing, so that it can be told and refilled."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

MAX_ENTRIES = 10_000
MAX_STATES = 32  # of one outage; a long one repeats itself


class Gap(msgspec.Struct):
    """One outage. Times are epoch milliseconds; market times are None where the provider's is unknown."""

    number: int  # counts up over all outages of this process
    reason: str  # what began it, a word also used as metric label
    detail: str
    start_ms: int  # wall clock; arrival of the last frame before the outage
    market_start_ms: int | None
    end_ms: int | None = None  # None while it lasts
    market_end_ms: int | None = None
    attempts: int = 0  # connections tried meanwhile
    states: list[str] = msgspec.field(default_factory=list)  # passed through, in order, the first MAX_STATES


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
        self._open: Gap | None = None
        self.total = 0  # outages since the process began, forgotten ones included

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
            self.total += 1
            market = self._market_ms()
            self._open = Gap(
                number=self.total,
                reason=reason,
                detail=detail,
                start_ms=self._wall_ms() - silent_ms,
                market_start_ms=None if market is None else market - silent_ms,
            )
            self._entries.append(self._open)
        return self._open

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
            # A wall clock that was set back must not make an interval that ends before it begins.
            ended.end_ms = max(self._wall_ms(), ended.start_ms)
            ended.market_end_ms = self._market_ms()
        return ended

    def missing(self, market_ms: float) -> bool:
        """Whether an outage lasted at a market time, epoch milliseconds, as far as those are known."""
        for gap in self._entries:
            start = gap.market_start_ms
            if start is None or market_ms < start:
                continue
            end = gap.market_end_ms
            if end is None and gap.end_ms is not None:
                end = start + gap.end_ms - gap.start_ms
            if end is None or market_ms <= end:
                return True
        return False

    def entries(self) -> list[dict[str, Any]]:
        """What is kept, oldest first, as plain JSON values."""
        return [msgspec.to_builtins(gap) for gap in self._entries]
