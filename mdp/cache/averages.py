"""The average volume over the last completed sessions: which days to ask for, and the sums.

No I/O: `mdp.cache.reference` asks and tells what came. There is no calendar in it either. Every weekday
before the trading day is asked for; one that has no bars was a holiday, and an older day takes its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date, timedelta


class SessionVolumes:
    """Volumes of up to `sessions` sessions, taken from at most `max_days` weekdays.

    Attributes:
        answered: weekday -> whether it was a session; others are unknown yet.
        failed: Days whose answer could not be had in this round; clear it to ask again.
    """

    def __init__(self, sessions: int = 30, max_days: int = 45) -> None:
        self.answered: dict[date, bool] = {}
        self.failed: set[date] = set()
        self._sessions = sessions
        self._max_days = max_days
        self._sums: dict[str, float] = {}  # symbol -> shares traded in the sessions it was in
        self._days: dict[str, int] = {}  # symbol -> number of these sessions

    @property
    def count(self) -> int:
        """Sessions that are in the averages."""
        return sum(self.answered.values())

    @property
    def missing(self) -> int:
        """Sessions still to come, as far as is known."""
        return max(self._sessions - self.count, 0)

    def newest_unknown(self, today: date) -> date | None:
        """The day to ask for before all others: the last that may have been the previous session.

        None once the previous session is known, or its answer could not be had.
        """
        for day in weekdays_before(today, self._max_days):
            if day in self.failed or self.answered.get(day):
                return None
            if day not in self.answered:
                return day
        return None

    def wanted(self, today: date) -> list[date]:
        """The days to ask for now, newest first; empty when there are enough, or no more to try.

        A failed day keeps its place: an older one would only replace it wrongly.
        """
        days: list[date] = []
        found = 0
        for day in weekdays_before(today, self._max_days):
            if found == self._sessions:
                break
            if day in self.failed or self.answered.get(day):
                found += 1
            elif day not in self.answered:
                days.append(day)
                found += 1
        return days

    def add(self, volumes: Mapping[str, float]) -> None:
        """Add volumes (shares) of different symbols in one session; the caller then marks it answered."""
        sums, days = self._sums, self._days
        for symbol, volume in volumes.items():
            sums[symbol] = sums.get(symbol, 0) + volume
            days[symbol] = days.get(symbol, 0) + 1

    def averages(self) -> list[tuple[str, float, int]]:
        """(symbol, mean volume, sessions it is the mean of) for every symbol seen."""
        days = self._days
        return [(symbol, total / days[symbol], days[symbol]) for symbol, total in self._sums.items()]


def weekdays_before(day: date, count: int) -> Iterator[date]:
    """The last `count` days before `day` that are no Saturday or Sunday, newest first."""
    while count:
        day -= timedelta(days=1)
        if day.weekday() < 5:
            count -= 1
            yield day
