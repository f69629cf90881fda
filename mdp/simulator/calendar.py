"""Trading days and hours of the US stock market, as the simulator's own REST answers need them.

Kept apart from the platform's market clock on purpose: a stand-in that shared the code under test
would share its mistakes.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

NEW_YORK = ZoneInfo("America/New_York")

PRE_MARKET_OPEN = time(4, 0)
REGULAR_OPEN = time(9, 30)


def _nth_weekday(year: int, month: int, weekday: int, nth: int) -> date:
    first = date(year, month, 1)
    return first + timedelta(days=(weekday - first.weekday()) % 7 + 7 * (nth - 1))


def _last_monday(year: int, month: int) -> date:
    last = date(year, month, 31)  # only asked for May
    return last - timedelta(days=last.weekday())


def _easter(year: int) -> date:
    """Western Easter Sunday (Meeus/Jones/Butcher)."""
    a, b, c = year % 19, year // 100, year % 100
    d, e = divmod(b, 4)
    g = (8 * b + 13) // 25
    h = (19 * a + b - d - g + 15) % 30
    i, k = divmod(c, 4)
    m = (32 + 2 * e + 2 * i - h - k) % 7
    n = (a + 11 * h + 22 * m) // 451
    month, day = divmod(h + m - 7 * n + 114, 31)
    return date(year, month, day + 1)


def _observed(day: date) -> date:
    """A Saturday holiday is kept on Friday, a Sunday one on Monday."""
    return day + timedelta(days={5: -1, 6: 1}.get(day.weekday(), 0))


# Closings that no rule foresees, each announced by the exchange a few days before, since 2004.
_UNSCHEDULED = {
    date(2004, 6, 11): "National Day of Mourning",
    date(2007, 1, 2): "National Day of Mourning",
    date(2012, 10, 29): "Hurricane Sandy",
    date(2012, 10, 30): "Hurricane Sandy",
    date(2018, 12, 5): "National Day of Mourning",
    date(2025, 1, 9): "National Day of Mourning",
}


@lru_cache(maxsize=64)
def holidays(year: int) -> dict[date, str]:
    """Full-day closings of a year by NYSE rule 7.2, and the unscheduled ones since 2004."""
    days = {
        _nth_weekday(year, 1, 0, 3): "Martin Luther King, Jr. Day",
        _nth_weekday(year, 2, 0, 3): "Washington's Birthday",
        _easter(year) - timedelta(days=2): "Good Friday",
        _last_monday(year, 5): "Memorial Day",
        _observed(date(year, 7, 4)): "Independence Day",
        _nth_weekday(year, 9, 0, 1): "Labor Day",
        _nth_weekday(year, 11, 3, 4): "Thanksgiving",
        _observed(date(year, 12, 25)): "Christmas",
    }
    new_year = date(year, 1, 1)
    # The exchange does not close on a Friday 31 December for a Saturday New Year.
    if new_year.weekday() != 5:
        days[_observed(new_year)] = "New Years Day"
    if year >= 2022:
        days[_observed(date(year, 6, 19))] = "Juneteenth"
    return days | {day: name for day, name in _UNSCHEDULED.items() if day.year == year}


@lru_cache(maxsize=64)
def early_closes(year: int) -> dict[date, str]:
    """Days that end at 13:00: the day after Thanksgiving, 3 July and Christmas Eve on weekdays."""
    days = {_nth_weekday(year, 11, 3, 4) + timedelta(days=1): "Thanksgiving"}
    if date(year, 7, 4).weekday() in (1, 2, 3, 4):
        days[date(year, 7, 3)] = "Independence Day"
    if date(year, 12, 25).weekday() in (1, 2, 3, 4):
        days[date(year, 12, 24)] = "Christmas"
    return days


def is_trading_day(day: date) -> bool:
    """Whether stocks trade on that New York date."""
    return day.weekday() < 5 and day not in holidays(day.year)


def previous_trading_day(day: date) -> date:
    """The last trading day before `day`."""
    day -= timedelta(days=1)
    while not is_trading_day(day):
        day -= timedelta(days=1)
    return day


def next_trading_day(day: date) -> date:
    """The first trading day after `day`."""
    day += timedelta(days=1)
    while not is_trading_day(day):
        day += timedelta(days=1)
    return day


def sessions_before(day: date, count: int) -> list[date]:
    """The last `count` trading days before `day`, newest first."""
    found: list[date] = []
    while len(found) < count:
        day = previous_trading_day(day)
        found.append(day)
    return found


def settlement_days(day: date, count: int) -> list[date]:
    """The last `count` settlement dates of short interest before `day`: mid-month and month's end."""
    found: list[date] = []
    at = day
    while len(found) < count:
        at -= timedelta(days=1)
        if at.day == 16 or at.day == 1:
            found.append(previous_trading_day(at))
    return found


def regular_close(day: date) -> time:
    """End of regular hours, New York: 16:00, or 13:00 on an early close."""
    return time(13, 0) if day in early_closes(day.year) else time(16, 0)


def post_market_close(day: date) -> time:
    """End of after-hours trading, New York: 20:00, or 17:00 on an early close."""
    return time(17, 0) if day in early_closes(day.year) else time(20, 0)


def epoch_ms(day: date, at: time) -> int:
    """Milliseconds since the epoch of a New York wall time."""
    return round(datetime.combine(day, at, NEW_YORK).timestamp() * 1000)


def new_york(ms: int) -> datetime:
    """The New York wall time of an epoch time in milliseconds."""
    return datetime.fromtimestamp(ms / 1000, UTC).astimezone(NEW_YORK)


def session_at(ms: int) -> str:
    """`early`, `regular`, `after` or `closed` at an epoch time in milliseconds."""
    local = new_york(ms)
    day, clock = local.date(), local.time()
    if not is_trading_day(day) or clock < PRE_MARKET_OPEN or clock >= post_market_close(day):
        return "closed"
    if clock < REGULAR_OPEN:
        return "early"
    return "regular" if clock < regular_close(day) else "after"
