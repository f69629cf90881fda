"""The average volume over the last completed sessions: which days to ask for, and the sums.

No I/O: `mdp.cache.warmup` asks and tells what came. The days to try come from the exchange's calendar; one
that has no bars all the same was an unscheduled closing, and an older day takes its place.

A session in which a symbol did not trade counts as 0 shares; sessions before the first one in which it was
seen do not count (a younger listing); a volume that was refused counts for nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date


class SessionVolumes:
    """Volumes of up to `sessions` sessions.

    Args:
        days: The dates to try, newest first.
        sessions: How many of them are wanted.

    Attributes:
        answered: date -> whether it was a session; others are unknown yet.
        failed: Days whose answer could not be had in this round; clear it to ask again.
    """

    def __init__(self, days: Sequence[date], sessions: int = 30) -> None:
        self.answered: dict[date, bool] = {}
        self.failed: set[date] = set()
        self._try = days
        self._sessions = sessions
        self._sums: dict[str, float] = {}  # symbol -> shares traded in all sessions
        self._oldest: dict[str, date] = {}  # symbol -> the first session it was seen in
        self._refused: dict[str, list[date]] = {}  # symbol -> sessions of which its volume is unknown

    @property
    def count(self) -> int:
        """Sessions that are in the averages."""
        return sum(self.answered.values())

    @property
    def missing(self) -> int:
        """Sessions still to come, as far as is known."""
        return max(self._sessions - self.count, 0)

    @property
    def previous(self) -> date | None:
        """The session before the trading day; None while it is not known, or its answer could not be had."""
        for day in self._try:
            if self.answered.get(day):
                return day
            if day not in self.answered:
                return None
        return None

    def newest_unknown(self) -> date | None:
        """The day to ask for before all others: the last that may have been the previous session.

        None once the previous session is known, or its answer could not be had.
        """
        for day in self._try:
            if day in self.failed or self.answered.get(day):
                return None
            if day not in self.answered:
                return day
        return None

    def wanted(self) -> list[date]:
        """The days to ask for now, newest first; empty when there are enough, or no more to try.

        A failed day keeps its place: an older one would only replace it wrongly.
        """
        days: list[date] = []
        found = 0
        for day in self._try:
            if found == self._sessions:
                break
            if day in self.failed or self.answered.get(day):
                found += 1
            elif day not in self.answered:
                days.append(day)
                found += 1
        return days

    def add(self, day: date, volumes: Mapping[str, float], refused: Collection[str] = ()) -> None:
        """Add volumes (shares) of different symbols in one session; the caller then marks it answered.

        Args:
            day: The session.
            volumes: symbol -> shares.
            refused: Symbols that traded in it, too, nobody knows how much.
        """
        sums, oldest = self._sums, self._oldest
        for symbol, volume in volumes.items():
            sums[symbol] = sums.get(symbol, 0) + volume
            if day < oldest.get(symbol, date.max):
                oldest[symbol] = day
        for symbol in refused:
            self._refused.setdefault(symbol, []).append(day)

    def averages(self, slice_rows: int) -> Iterator[list[tuple[str, float, int]]]:
        """(symbol, mean volume, sessions it is the mean of) for every symbol seen, some at a time."""
        sessions = sorted((day for day, was in self.answered.items() if was), reverse=True)
        since = {day: number for number, day in enumerate(sessions, 1)}
        part: list[tuple[str, float, int]] = []
        for symbol, total in self._sums.items():
            # A session that was added and is not marked yet counts for nobody.
            oldest = self._oldest[symbol]
            days = since.get(oldest, 0)
            if symbol in self._refused:
                days -= sum(day > oldest for day in self._refused[symbol])
            if days > 0:
                part.append((symbol, total / days, days))
            if len(part) == slice_rows:
                yield part
                part = []
        if part:
            yield part
