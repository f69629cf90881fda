"""What the listener missed: it says so in Redis, and every partition's rows say that they may be wrong."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mdp.analyzers.state import Market
from mdp.listener.announcement import Announcement

_RECENT_MS = 30_000  # of the listener's clock: what ended so long before we came is in the checkpoints


class ListenerGaps:
    """Marks markets once when a gap of the listener's ledger opens, and once more when it is over.

    Attributes:
        marked: How often.
    """

    def __init__(self) -> None:
        self.marked = 0
        self._seen: set[tuple[Any, ...]] | None = None  # None: nothing has been heard yet

    def look(self, said: Announcement, markets: Iterable[Market]) -> None:
        """Take the newest word of the listener. Called once a second."""
        if not said.ts:
            return
        now = {self._key(gap): gap for gap in said.ledger}
        if self._seen is None:
            recent = said.ts - _RECENT_MS
            self._seen = {key for key, gap in now.items() if (gap.get("end_ms") or said.ts) < recent}
        fresh = [gap for key, gap in now.items() if key not in self._seen]
        self._seen = set(now)
        if not fresh:
            return
        targets = [market for market in markets if market.clock.now_ms]
        for gap in fresh:
            symbols: list[str] = gap.get("symbols") or []
            whole = gap.get("symbols") is None or gap.get("symbols_count") != len(symbols)
            for market in targets:
                since = min(gap.get("market_start_ms") or market.clock.now_ms, market.clock.now_ms)
                if whole:
                    market.lose(since_ms=since)
                else:
                    market.lose([symbol for symbol in symbols if symbol in market.symbols], since_ms=since)
            self.marked += 1

    @staticmethod
    def _key(gap: dict[str, Any]) -> tuple[Any, ...]:
        return gap.get("number"), gap.get("start_ms"), gap.get("reason"), gap.get("end_ms") is not None
