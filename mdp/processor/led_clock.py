"""The market clock of a partition: it follows the listener's, which sees every symbol."""

from __future__ import annotations

from collections.abc import Iterable

from mdp.sessions import MarketClock


class LedClock(MarketClock):
    """Goes by its own events like any market clock until the listener says its time; from then on by that.

    A partition sees a few hundred symbols, and with some ill luck events of one of them alone: too few to
    judge a time that is far from the clock's. The listener has judged it already, so such an event waits, or
    counts for nothing, until the listener's clock agrees.
    """

    def __init__(self) -> None:
        super().__init__()
        self.led = False

    def lead(self, now_ms: float) -> bool:
        """The listener's clock shows this; returns whether the trading day is another one now.

        An earlier time than ours changes nothing: entries of several streams come slightly out of order.
        """
        self.led = True
        before = self.day
        if now_ms < self.now_ms:
            return False
        changed = self._revision != self.calendar.revision and self._review()
        if now_ms > self.now_ms:
            self._confirmed = True
            self._move(now_ms)
        return self.day is not None and (before is None or before.day != self.day.day or changed)

    def observe(self, newest_ms: float, events: Iterable[tuple[str, float]]) -> bool:
        if not self.led:
            return super().observe(newest_ms, events)
        changed = self._revision != self.calendar.revision and self._review()
        latest = self.now_ms + self.LEAP_MS
        if newest_ms > latest:
            newest_ms = max((ms for _, ms in events if ms <= latest), default=0)
        return (newest_ms > self.now_ms and self._move(newest_ms)) or changed
