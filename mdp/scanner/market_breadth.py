"""Market breadth: how many symbols made new session highs and lows this trading day."""

from __future__ import annotations

from datetime import date
from typing import Any, ClassVar

from mdp.analyzers.base import Output
from mdp.cache.base import Message
from mdp.feeds import HOD_ALERT, LOD_ALERT
from mdp.scanner.base import Scanner
from mdp.sessions import TradingDay


class MarketBreadth(Scanner):
    """Adds `new_highs` and `new_lows` to `market:status`: symbols, each counted once a day and side."""

    name: ClassVar[str] = "market_breadth"
    patterns: ClassVar[tuple[str, ...]] = (HOD_ALERT.name, LOD_ALERT.name)

    def __init__(self, out: Output) -> None:
        super().__init__(out)
        self._day: TradingDay | None = None
        self._highs: set[str] = set()
        self._lows: set[str] = set()

    @property
    def day(self) -> date | None:
        """The trading day counted; None before the first alert."""
        return self._day.day if self._day else None

    def process(self, messages: list[Message]) -> None:
        for message in messages:
            alert = message.value
            ms = alert.timestamp * 1000
            day = self._day
            if day is None or ms >= day.end_ms:
                self._day = TradingDay.containing(ms)
                self._highs.clear()
                self._lows.clear()
            elif ms < day.start_ms:
                continue  # of a day that is over
            side = self._highs if message.family is HOD_ALERT else self._lows
            side.add(alert.symbol)

    def status_fields(self) -> dict[str, Any]:
        return {"new_highs": len(self._highs), "new_lows": len(self._lows)}
