"""The market clock, trading days and sessions (`docs/feeds.md`, "Time").

Everything here follows event time in America/New_York, never the wall clock, so that a replay of
an old day gives that day's answers. Times are milliseconds since the Unix epoch, UTC.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec

NEW_YORK = ZoneInfo("America/New_York")

PRE_MARKET = "pre_market"
REGULAR = "regular"
AFTER_HOURS = "after_hours"
CLOSED = "closed"

_DAY_START_HOUR = 4


class TradingDay(msgspec.Struct, frozen=True):
    """One trading day, 04:00 to the next 04:00 New York time, with its sessions' boundaries in ms.

    Sessions: pre-market 04:00 to 09:30, regular 09:30 to 16:00, after-hours 16:00 to
    20:00; on an early close regular ends at 13:00 and after-hours at 17:00. A start belongs to its
    session, an end to the next.
    """

    day: date
    start_ms: int
    open_ms: int
    close_ms: int
    post_ms: int
    end_ms: int

    @classmethod
    def of(cls, day: date, *, early_close: bool = False) -> TradingDay:
        """The trading day that starts on a calendar date at 04:00 New York time."""
        return cls(
            day=day,
            start_ms=_at(day, 4),
            open_ms=_at(day, 9, 30),
            close_ms=_at(day, 13 if early_close else 16),
            post_ms=_at(day, 17 if early_close else 20),
            end_ms=_at(day + timedelta(days=1), 4),
        )

    @classmethod
    def containing(cls, ms: float) -> TradingDay:
        """The trading day a time belongs to."""
        local = datetime.fromtimestamp(ms / 1000, NEW_YORK)
        day = local.date()
        if local.hour < _DAY_START_HOUR:
            day -= timedelta(days=1)
        return cls.of(day)

    def session(self, ms: float) -> str:
        """The session of a time within this day; `closed` outside all of them."""
        if ms < self.start_ms or ms >= self.post_ms:
            return CLOSED
        if ms < self.open_ms:
            return PRE_MARKET
        return REGULAR if ms < self.close_ms else AFTER_HOURS

    def session_end(self, ms: float) -> int:
        """When the session of a time within this day ends; of the closed hours, when the day does."""
        for end in (self.open_ms, self.close_ms, self.post_ms):
            if ms < end:
                return end
        return self.end_ms


def _at(day: date, hour: int, minute: int = 0) -> int:
    return int(datetime(day.year, day.month, day.day, hour, minute, tzinfo=NEW_YORK).timestamp() * 1000)


class MarketClock:
    """The newest accepted event time.

    An event more than a minute ahead of the clock moves it only when three symbols agree (within a
    minute of each other), so that one stray event resets nothing; the same holds for one more than a
    day behind, so that a clock led astray finds back. Until a second event confirms the first, the
    first may be the stray: then the clock follows whatever comes.
    """

    LEAP_MS = 60_000
    BACK_MS = 86_400_000
    AGREEING = 3
    _MAX_ARGUING = 1_000
    _END_MS = 32_503_680_000_000  # the year 3000

    def __init__(self, now_ms: float = 0) -> None:
        #: Newest accepted event time; 0 before the first event.
        self.now_ms: float = now_ms
        self.day: TradingDay | None = TradingDay.containing(now_ms) if now_ms else None
        self._confirmed = bool(now_ms)
        self._arguing: dict[str, float] = {}  # symbol -> time, of events that argue for another time

    def observe(self, newest_ms: float, events: Iterable[tuple[str, float]]) -> bool:
        """Take note of a batch.

        Args:
            newest_ms: The newest time in it.
            events: `(symbol, time)` of its events; consumed only where the batch is unusual.

        Returns:
            Whether the clock now stands in another trading day than before.
        """
        ahead = newest_ms - self.now_ms
        if self._confirmed and -self.BACK_MS <= ahead <= self.LEAP_MS:
            return ahead > 0 and self._move(newest_ms)
        before = self.day
        for symbol, ms in events:
            self._weigh(symbol, ms)
        return self.day != before  # it may have gone away and come back

    def set(self, now_ms: float) -> None:
        """Put the clock to a time that is known to be right (a snapshot's, the provider's)."""
        self._confirmed = True
        self._arguing.clear()
        self.now_ms = now_ms
        self.day = TradingDay.containing(now_ms)

    def _weigh(self, symbol: str, ms: float) -> bool:
        if not 0 < ms < self._END_MS:
            return False  # no time that a market can have
        ahead = ms - self.now_ms
        if not self._confirmed:
            if self.day is None or abs(ahead) > self.LEAP_MS:
                return self._move(ms)  # also a time just after 1970, near the 0 of a clock without one
            self._confirmed = True
            return ahead > 0 and self._move(ms)
        if -self.BACK_MS <= ahead <= self.LEAP_MS:
            return ahead > 0 and self._move(ms)
        arguing = self._arguing
        if len(arguing) >= self._MAX_ARGUING:
            arguing.clear()
        arguing[symbol] = ms
        agreeing = [other for other in arguing.values() if abs(other - ms) <= self.LEAP_MS]
        return len(agreeing) >= self.AGREEING and self._move(max(agreeing))

    def _move(self, ms: float) -> bool:
        self.now_ms = ms
        if self._arguing:
            self._arguing.clear()
        day = self.day
        if day is not None and day.start_ms <= ms < day.end_ms:
            return False
        self.day = TradingDay.containing(ms)
        return True
