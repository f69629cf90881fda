"""How activity is spread over a trading day: quiet nights, a rush at the open, a U in between."""

from __future__ import annotations

from bisect import bisect_right
from datetime import date

from .calendar import PRE_MARKET_OPEN, REGULAR_OPEN, epoch_ms, post_market_close, regular_close

# Activity relative to the average of regular hours, at seconds from an anchor.
_BEFORE_OPEN = [(-19_800, 0.02), (-9_000, 0.06), (-5_400, 0.15), (-1_800, 0.35), (-300, 0.5), (-1, 0.7)]
_AFTER_OPEN = [(0, 3.0), (120, 2.4), (900, 1.5), (3_600, 1.0), (10_800, 0.65)]
_BEFORE_CLOSE = [(-3_600, 0.9), (-600, 1.5), (-1, 2.6)]
_AFTER_CLOSE = [(0, 0.45), (900, 0.15), (14_400, 0.03)]


class DayShape:
    """Activity over one trading day, piecewise linear between anchors, and its integral."""

    def __init__(self, day: date) -> None:
        self.day = day
        self.start_ms = epoch_ms(day, PRE_MARKET_OPEN)
        self.open_ms = epoch_ms(day, REGULAR_OPEN)
        self.close_ms = epoch_ms(day, regular_close(day))
        self.end_ms = epoch_ms(day, post_market_close(day))
        points = [(self.open_ms + s * 1000, level) for s, level in _BEFORE_OPEN + _AFTER_OPEN]
        points += [(self.close_ms + s * 1000, level) for s, level in _BEFORE_CLOSE + _AFTER_CLOSE]
        # On an early close the two halves overlap; anchors out of order are left out.
        self._times: list[int] = []
        self._levels: list[float] = []
        for at, level in points:
            if not self._times or at > self._times[-1]:
                self._times.append(at)
                self._levels.append(level)
        self._areas = [0.0]
        for i in range(1, len(self._times)):
            width = (self._times[i] - self._times[i - 1]) / 1000
            self._areas.append(self._areas[-1] + width * (self._levels[i] + self._levels[i - 1]) / 2)
        self.total = self._area_until(self.end_ms)

    def level(self, ms: int) -> float:
        """Activity at an epoch time in ms: 1 is the average of regular hours, 0 is closed."""
        if not self.start_ms <= ms < self.end_ms:
            return 0.0
        i = bisect_right(self._times, ms)
        if i == 0 or i == len(self._times):
            return self._levels[min(i, len(self._times) - 1)]
        left, right = self._times[i - 1], self._times[i]
        part = (ms - left) / (right - left)
        return self._levels[i - 1] + (self._levels[i] - self._levels[i - 1]) * part

    def fraction(self, ms: int) -> float:
        """The part of the day's activity that is over at an epoch time in ms, from 0 to 1."""
        return self._area_until(min(max(ms, self.start_ms), self.end_ms)) / self.total

    def _area_until(self, ms: int) -> float:
        i = min(bisect_right(self._times, ms), len(self._times) - 1)
        if i == 0:
            return 0.0
        left, right = self._times[i - 1], self._times[i]
        part = min(1.0, (ms - left) / (right - left))
        level = self._levels[i - 1] + (self._levels[i] - self._levels[i - 1]) * part
        return self._areas[i - 1] + (ms - left) / 1000 * (self._levels[i - 1] + level) / 2
