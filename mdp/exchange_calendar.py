"""On which dates US stocks trade, and until when: holidays, half days, and what the provider says of them.

Three sources, the last one known wins for its date:

1. The library `holidays`, New York Stock Exchange, for any date, past and future: its scheduled holidays
   (NYSE rule 7.2), half days (those since 1993, which all end at 13:00) and unscheduled closings (2001-09-11,
   hurricane Sandy, days of mourning).
2. The provider's list of coming holidays (`/v1/marketstatus/upcoming`), for what was announced since the
   library was installed.
3. The provider's market status: a market that is open on a date is open, whatever both lists said.

Dates are New York dates. No I/O, no wall clock. The library costs 65 ms and 12 MB at the start; the other
candidate, `exchange_calendars`, knows the same days (2000 to 2030 compared, no difference) but needs pandas:
460 ms and 70 MB.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import holidays
import msgspec
from holidays.constants import HALF_DAY, PUBLIC

NEW_YORK = ZoneInfo("America/New_York")

REGULAR_CLOSE = time(16)
EARLY_CLOSE = time(13)

#: Markets that know nothing of the exchange's holidays, as `massive.market` names them.
ALWAYS_OPEN = frozenset({"crypto", "forex", "futures"})
_DAY = timedelta(days=1)
_FIRST, _LAST = date(1953, 1, 1), date(9999, 12, 1)  # before 1953 the exchange was open on Saturdays
_MAX_TOLD = 1_000  # dates the provider told of; the oldest are forgotten
_LONGEST_CLOSING_DAYS = 150  # in the exchange's history: July to November 1914


class SpecialDay(msgspec.Struct, frozen=True):
    """A date that is unlike other weekdays."""

    day: date
    name: str
    close: time | None  # New York time at which regular trading ends; None: no session at all


class ExchangeCalendar:
    """Which dates are sessions. One object a process; whoever learns of a change tells it.

    Args:
        every_day: For a market that never closes (crypto, currencies): each date is a session of
            ordinary hours, and nothing that is told changes it.

    Attributes:
        revision: Grows with each change; what was worked out before may be wrong then.
    """

    def __init__(self, *, every_day: bool = False) -> None:
        self.revision = 0
        self._every_day = every_day
        self._told: dict[date, SpecialDay | None] = {}  # by the provider; None: open, ordinary hours

    def special(self, day: date) -> SpecialDay | None:
        """What is special about a date; None for a weekend or for a session of ordinary hours."""
        if self._every_day:
            return None
        if day in self._told:
            return self._told[day]
        return _of_library(day.year).get(day)

    def is_session(self, day: date) -> bool:
        """Whether there is trading on a date."""
        if self._every_day:
            return True
        if day in self._told:
            told = self._told[day]
            return told is None or told.close is not None
        if day.weekday() >= 5:
            return False
        special = _of_library(day.year).get(day)
        return special is None or special.close is not None

    def close_of(self, day: date) -> time:
        """New York time at which regular trading of a session ends: 16:00, or earlier on a half day."""
        special = self.special(day)
        return (special.close if special else None) or REGULAR_CLOSE

    def session_of(self, day: date) -> date:
        """The date itself where it is a session, else the last session before it."""
        for _ in range(_LONGEST_CLOSING_DAYS):
            if day <= _FIRST or self.is_session(day):
                break
            day -= _DAY
        return day

    def previous_session(self, day: date) -> date:
        """The last session before a date."""
        return self.session_of(day - _DAY) if day > _FIRST else day

    def next_session(self, day: date) -> date:
        """The first session after a date."""
        day += _DAY
        for _ in range(_LONGEST_CLOSING_DAYS):
            if day >= _LAST or self.is_session(day):
                break
            day += _DAY
        return day

    def sessions_before(self, day: date, count: int) -> list[date]:
        """The last `count` sessions before a date, newest first."""
        found: list[date] = []
        while len(found) < count:
            day = self.previous_session(day)
            found.append(day)
        return found

    def next_special(self, day: date) -> SpecialDay | None:
        """The first holiday or half day after a date; None where there is none within a year."""
        for _ in range(366):
            day += _DAY
            if day >= _LAST:
                return None
            special = self.special(day)
            if special is not None:
                return special
        return None

    def learn(self, announced: Iterable[SpecialDay], today: date) -> bool:
        """Take the provider's list of coming holidays.

        What it told before of dates after `today` is replaced. A date that is not on the list keeps what the
        library says: nobody promises that the list is complete, and a holiday taken for a session would
        clear the boards of the day before.

        Args:
            announced: What is special, by the provider.
            today: Its date now; what it says of the past is left out.

        Returns:
            Whether anything changed.
        """
        if self._every_day:
            return False
        # Whether the list still names the day that has begun, is not promised either.
        told = {day: special for day, special in self._told.items() if day <= today}
        seen_open = today in told and told[today] is None
        for special in announced:
            if special.day > today or (special.day == today and not seen_open):
                told[special.day] = special
        return self._replace(told)

    def learn_open(self, day: date, *, regular: bool = True) -> bool:
        """The provider says that stocks trade, and its date is `day`: a closing of that date is wrong.

        Args:
            day: The provider's date.
            regular: In regular hours. Extended hours do not contradict what the provider told of the date
                itself, only the library.

        Returns:
            Whether anything changed.
        """
        if self._every_day or self.is_session(day) or (day in self._told and not regular):
            return False
        return self._replace({**self._told, day: None})

    def _replace(self, told: dict[date, SpecialDay | None]) -> bool:
        if told == self._told:
            return False
        self._told = {day: told[day] for day in sorted(told)[-_MAX_TOLD:]}
        self.revision += 1
        return True


#: The calendar by the library alone, for who has no word of a provider. Never told anything.
US_STOCKS = ExchangeCalendar()


@lru_cache(maxsize=128)
def _of_library(year: int) -> dict[date, SpecialDay]:
    """Holidays and half days of a year that fall on weekdays. About 0.5 ms for a year asked for first."""
    if not _FIRST.year <= year <= _LAST.year:
        return {}
    found = {
        day: SpecialDay(day, name.partition(" (markets close")[0], EARLY_CLOSE)
        for day, name in holidays.financial_holidays("XNYS", years=year, categories=(HALF_DAY,)).items()
    }
    # A closing wins over a half day of the same date.
    closed = holidays.financial_holidays("XNYS", years=year, categories=(PUBLIC,)).items()
    found.update({day: SpecialDay(day, name, None) for day, name in closed})
    return {day: special for day, special in found.items() if day.weekday() < 5}


_of_library(_FIRST.year)  # loads most of the library: now, lest it hold the event loop for 50 ms later


class _Row(msgspec.Struct):
    """One row of the provider's list. Each day comes once per exchange."""

    date: date
    status: str  # "closed" or "early-close"
    exchange: str = ""
    name: str = ""
    close: str | None = None  # UTC, with an early close


_EXCHANGES = frozenset({"NYSE", "NASDAQ"})
_decode_rows = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_row = msgspec.json.Decoder(_Row).decode
_MAX_ROWS = 1_000
_MAX_NAME = 80
_EARLIEST, _LATEST = time(9, 30), REGULAR_CLOSE


def parse_upcoming(body: bytes) -> tuple[list[SpecialDay], dict[str, int]]:
    """Read an answer of `/v1/marketstatus/upcoming`.

    A day is closed when New York's or Nasdaq's exchange says so of all that speak of it; where they differ
    there is trading somewhere, until the later of the closes.

    Returns:
        The special days in order, and how many rows were refused by reason: a row that cannot be read, or
        an early close outside of regular hours, is left out alone. Other exchanges' rows are no refusals.

    Raises:
        ValueError: It is no list, or none of its rows can be read.
    """
    rows = _decode_rows(body)  # msgspec's errors are ValueErrors
    refused: dict[str, int] = {}
    found: dict[date, SpecialDay] = {}
    for raw in rows[:_MAX_ROWS]:
        try:
            row = _decode_row(raw)
        except ValueError:
            refused["malformed"] = refused.get("malformed", 0) + 1
            continue
        if row.exchange and row.exchange not in _EXCHANGES:
            continue
        try:
            special = SpecialDay(row.date, row.name[:_MAX_NAME] or "Holiday", _close_of(row))
        except ValueError as exc:
            refused[str(exc)] = refused.get(str(exc), 0) + 1
            continue
        known = found.get(row.date)
        if known is None or (special.close or time.min) > (known.close or time.min):
            found[row.date] = special
    if rows and not found and refused:
        raise ValueError(f"none of {len(rows)} rows can be read: {', '.join(sorted(refused))}")
    return [found[day] for day in sorted(found)], refused


def _close_of(row: _Row) -> time | None:
    """When regular trading ends, New York time; None for a whole day. Raises ValueError with the reason."""
    if row.status == "closed":
        return None
    if row.status != "early-close":
        raise ValueError("status")
    if not row.close:
        return EARLY_CLOSE
    try:
        moment = datetime.fromisoformat(row.close)
        if moment.tzinfo is None:
            raise ValueError
        local = moment.astimezone(NEW_YORK)
    except (ValueError, OverflowError):
        raise ValueError("close") from None
    if local.date() != row.date or not _EARLIEST < local.time() < _LATEST:
        raise ValueError("close")
    return local.time().replace(microsecond=0)
