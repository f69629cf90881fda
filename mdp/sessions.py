"""The market clock, trading days and sessions (`docs/feeds.md`, "Time").

Everything here follows event time in America/New_York, never the wall clock, so that a replay of
an old day gives that day's answers. Times are milliseconds since the Unix epoch, UTC. Which dates are
sessions, and which of them end early, is the calendar's to say (`mdp.exchange_calendar`).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime, time, timedelta
from functools import lru_cache

import msgspec

from mdp.exchange_calendar import NEW_YORK, US_STOCKS, ExchangeCalendar

__all__ = [
    "AFTER_HOURS",
    "CLOSED",
    "NEW_YORK",
    "PRE_MARKET",
    "REGULAR",
    "MarketClock",
    "TradingDay",
    "new_york_date",
    "next_session",
    "previous_session",
    "sessions_before",
]

PRE_MARKET = "pre_market"
REGULAR = "regular"
AFTER_HOURS = "after_hours"
CLOSED = "closed"

_DAY_START = time(4)
_OPEN = time(9, 30)
_AFTER_HOURS_MS = 4 * 3_600_000  # 16:00 to 20:00, 13:00 to 17:00


class TradingDay(msgspec.Struct, frozen=True):
    """One trading day with its sessions' boundaries in ms.

    It lasts from 04:00 of a session's date to 04:00 of the next session's, New York time: a weekend or a
    holiday belongs to the trading day before and is closed all through, so that Friday's boards stay until
    Monday. Sessions: pre-market 04:00 to 09:30, regular 09:30 to 16:00, after-hours 16:00 to 20:00; on an
    early close regular ends at 13:00 and after-hours at 17:00. A start belongs to its session, an end to
    the next.
    """

    day: date  # the session's
    start_ms: int
    open_ms: int
    close_ms: int
    post_ms: int
    idle_ms: int  # 04:00 of the next date: from here to `end_ms` are dates without a session, if any
    end_ms: int

    @classmethod
    def of(cls, day: date, calendar: ExchangeCalendar = US_STOCKS) -> TradingDay:
        """The trading day that a date belongs to: its own, or that of the last session before it."""
        session = calendar.session_of(day)
        return _trading_day(session, calendar.close_of(session), calendar.next_session(session))

    @classmethod
    def containing(cls, ms: float, calendar: ExchangeCalendar = US_STOCKS) -> TradingDay:
        """The trading day a time belongs to."""
        local = datetime.fromtimestamp(ms / 1000, NEW_YORK)
        day = local.date()
        if local.time() < _DAY_START:
            day -= timedelta(days=1)
        return cls.of(day, calendar)

    @property
    def early_close(self) -> bool:
        """Whether it is a half day."""
        return self.close_ms - self.open_ms < 6.5 * 3_600_000

    def session(self, ms: float) -> str:
        """The session of a time within this day; `closed` outside all of them."""
        if ms < self.start_ms or ms >= self.post_ms:
            return CLOSED
        if ms < self.open_ms:
            return PRE_MARKET
        return REGULAR if ms < self.close_ms else AFTER_HOURS

    def session_end(self, ms: float) -> int:
        """When the session of a time within this day ends.

        Of the closed hours after it: `idle_ms`, lest a date without a session pass for their continuation;
        of such dates: when the day does.
        """
        for end in (self.open_ms, self.close_ms, self.post_ms, self.idle_ms):
            if ms < end:
                return end
        return self.end_ms


@lru_cache(maxsize=256)
def _trading_day(day: date, close: time, following: date) -> TradingDay:
    close_ms = _at(day, close)
    return TradingDay(
        day=day,
        start_ms=_at(day, _DAY_START),
        open_ms=_at(day, _OPEN),
        close_ms=close_ms,
        post_ms=close_ms + _AFTER_HOURS_MS,
        idle_ms=_at(day + timedelta(days=1), _DAY_START),
        end_ms=_at(following, _DAY_START),
    )


def _at(day: date, wall: time) -> int:
    """A New York wall time. None of ours is in the hours that a clock change skips or repeats."""
    return int(datetime.combine(day, wall, NEW_YORK).timestamp() * 1000)


def new_york_date(ms: float) -> date:
    """The calendar date of a time in New York."""
    return datetime.fromtimestamp(ms / 1000, NEW_YORK).date()


def previous_session(day: date, calendar: ExchangeCalendar = US_STOCKS) -> date:
    """The last session (a date with trading) before a date."""
    return calendar.previous_session(day)


def next_session(day: date, calendar: ExchangeCalendar = US_STOCKS) -> date:
    """The first session after a date."""
    return calendar.next_session(day)


def sessions_before(day: date, count: int, calendar: ExchangeCalendar = US_STOCKS) -> list[date]:
    """The last `count` sessions before a date, newest first."""
    return calendar.sessions_before(day, count)


class MarketClock:
    """The newest accepted event time.

    An event more than a minute ahead of the clock moves it only when three symbols agree (within a
    minute of each other), so that one stray event resets nothing; the same holds for one more than a
    day behind, so that a clock led astray finds back. A feed of one or two symbols moves it with five
    events in a row, each later than the one before (by an hour at most) and in two batches at least, where
    none of the clock's own time comes between. Until a second event confirms the first, the first may be
    the stray: then the clock follows whatever comes.
    """

    LEAP_MS = 60_000
    BACK_MS = 86_400_000
    AGREEING = 3
    IN_A_ROW = 5
    ROW_GAP_MS = 3_600_000
    _MAX_ARGUING = 1_000
    _END_MS = 32_503_680_000_000  # the year 3000

    def __init__(self, now_ms: float = 0, calendar: ExchangeCalendar = US_STOCKS) -> None:
        #: Newest accepted event time; 0 before the first event.
        self.now_ms: float = now_ms
        #: Which dates are sessions. It may learn at any time; the next batch sees to what follows from it.
        self.calendar = calendar
        self._revision = calendar.revision  # of the calendar that `day` rests on
        self.day: TradingDay | None = TradingDay.containing(now_ms, calendar) if now_ms else None
        self._confirmed = bool(now_ms)
        self._arguing: dict[str, float] = {}  # symbol -> time, of events that argue for another time
        self._row = 0  # of such events that came in a row, each later than the one before
        self._row_ms: float = 0  # the last of them
        self._row_batches = 0  # in which they came

    def observe(self, newest_ms: float, events: Iterable[tuple[str, float]]) -> bool:
        """Take note of a batch.

        Args:
            newest_ms: The newest time in it.
            events: `(symbol, time)` of its events; consumed only where the batch is unusual.

        Returns:
            Whether the clock now stands in another trading day than before.
        """
        changed = self._revision != self.calendar.revision and self._review()
        ahead = newest_ms - self.now_ms
        if self._confirmed and -self.BACK_MS <= ahead <= self.LEAP_MS:
            self._row = 0
            return (ahead > 0 and self._move(newest_ms)) or changed
        before = self.day
        self._row_batches += 1
        for symbol, ms in events:
            self._weigh(symbol, ms)
        return self.day != before or changed  # it may have gone away and come back

    def use(self, calendar: ExchangeCalendar) -> None:
        """Go by another calendar from the next batch on."""
        self.calendar = calendar
        self._revision = -1

    def set(self, now_ms: float) -> None:
        """Put the clock to a time that is known to be right (a snapshot's, the provider's)."""
        self._confirmed = True
        self._arguing.clear()
        self.now_ms = now_ms
        self._revision = self.calendar.revision
        self.day = TradingDay.containing(now_ms, self.calendar)

    def _review(self) -> bool:
        """The calendar learned something. Whether the trading day is another one now.

        A half day that was taken for a whole one, or another end of the weekend, is no reset.
        """
        self._revision = self.calendar.revision
        before = self.day
        if before is None:
            return False
        self.day = TradingDay.containing(self.now_ms, self.calendar)
        return self.day.day != before.day

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
            self._row = 0
            return ahead > 0 and self._move(ms)
        if self._insists(ms):
            return self._move(ms)
        arguing = self._arguing
        if len(arguing) >= self._MAX_ARGUING:
            arguing.clear()
        arguing[symbol] = ms
        agreeing = [other for other in arguing.values() if abs(other - ms) <= self.LEAP_MS]
        return len(agreeing) >= self.AGREEING and self._move(max(agreeing))

    def _insists(self, ms: float) -> bool:
        """Whether nothing has been heard for a while but what argues, and that goes on in time."""
        if self._row and 0 < ms - self._row_ms <= self.ROW_GAP_MS:
            self._row += 1
        elif not self._row or abs(ms - self._row_ms) > self.LEAP_MS:
            self._row, self._row_batches = 1, 1
        else:
            return False  # said already, or slightly out of order: nothing for it, nothing against
        self._row_ms = ms
        return self._row >= self.IN_A_ROW and self._row_batches > 1

    def _move(self, ms: float) -> bool:
        self.now_ms = ms
        self._row = 0
        if self._arguing:
            self._arguing.clear()
        day = self.day
        if day is not None and day.start_ms <= ms < day.end_ms:
            return False
        self.day = TradingDay.containing(ms, self.calendar)
        return True
