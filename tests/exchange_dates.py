"""Dates on which US stocks did not trade, or only until 13:00: a table, nothing is worked out here.

Rule: NYSE rule 7.2 (rule 51 before 2020): a holiday on a Sunday is kept on Monday, one on a Saturday on
Friday, unless that Friday ends a month or a year (New Year of 2011, 2022 and 2028 were not kept).

Sources:
- 2023 to 2025: NYSE Group's announcement of 2022-12-21; 2025 to 2027: of 2024-11-08; 2026 to 2028: of
  2025-12-23. They also say that each market closes at 13:00, and late trading sessions at 17:00.
- 2004 to 2022: the same announcements of those years, as compiled by the package exchange_calendars 4.13.2
  (XNYS), which also agrees with the rest of the table.
- Unscheduled: 2004-06-11 mourning for Reagan, 2007-01-02 for Ford, 2018-12-05 for G. H. W. Bush, 2025-01-09
  for Carter, 2012-10-29 and 30 hurricane Sandy, each announced by the exchange.
"""

from __future__ import annotations

from datetime import date

#: year -> days without a session, half days
_TABLE = {
    2004: ("01-01 01-19 02-16 04-09 05-31 06-11 07-05 09-06 11-25 12-24", "11-26"),
    2005: ("01-17 02-21 03-25 05-30 07-04 09-05 11-24 12-26", "11-25"),
    2006: ("01-02 01-16 02-20 04-14 05-29 07-04 09-04 11-23 12-25", "07-03 11-24"),
    2007: ("01-01 01-02 01-15 02-19 04-06 05-28 07-04 09-03 11-22 12-25", "07-03 11-23 12-24"),
    2008: ("01-01 01-21 02-18 03-21 05-26 07-04 09-01 11-27 12-25", "07-03 11-28 12-24"),
    2009: ("01-01 01-19 02-16 04-10 05-25 07-03 09-07 11-26 12-25", "11-27 12-24"),
    2010: ("01-01 01-18 02-15 04-02 05-31 07-05 09-06 11-25 12-24", "11-26"),
    2011: ("01-17 02-21 04-22 05-30 07-04 09-05 11-24 12-26", "11-25"),
    2012: ("01-02 01-16 02-20 04-06 05-28 07-04 09-03 10-29 10-30 11-22 12-25", "07-03 11-23 12-24"),
    2013: ("01-01 01-21 02-18 03-29 05-27 07-04 09-02 11-28 12-25", "07-03 11-29 12-24"),
    2014: ("01-01 01-20 02-17 04-18 05-26 07-04 09-01 11-27 12-25", "07-03 11-28 12-24"),
    2015: ("01-01 01-19 02-16 04-03 05-25 07-03 09-07 11-26 12-25", "11-27 12-24"),
    2016: ("01-01 01-18 02-15 03-25 05-30 07-04 09-05 11-24 12-26", "11-25"),
    2017: ("01-02 01-16 02-20 04-14 05-29 07-04 09-04 11-23 12-25", "07-03 11-24"),
    2018: ("01-01 01-15 02-19 03-30 05-28 07-04 09-03 11-22 12-05 12-25", "07-03 11-23 12-24"),
    2019: ("01-01 01-21 02-18 04-19 05-27 07-04 09-02 11-28 12-25", "07-03 11-29 12-24"),
    2020: ("01-01 01-20 02-17 04-10 05-25 07-03 09-07 11-26 12-25", "11-27 12-24"),
    2021: ("01-01 01-18 02-15 04-02 05-31 07-05 09-06 11-25 12-24", "11-26"),
    2022: ("01-17 02-21 04-15 05-30 06-20 07-04 09-05 11-24 12-26", "11-25"),
    2023: ("01-02 01-16 02-20 04-07 05-29 06-19 07-04 09-04 11-23 12-25", "07-03 11-24"),
    2024: ("01-01 01-15 02-19 03-29 05-27 06-19 07-04 09-02 11-28 12-25", "07-03 11-29 12-24"),
    2025: ("01-01 01-09 01-20 02-17 04-18 05-26 06-19 07-04 09-01 11-27 12-25", "07-03 11-28 12-24"),
    2026: ("01-01 01-19 02-16 04-03 05-25 06-19 07-03 09-07 11-26 12-25", "11-27 12-24"),
    2027: ("01-01 01-18 02-15 03-26 05-31 06-18 07-05 09-06 11-25 12-24", "11-26"),
    2028: ("01-17 02-21 04-14 05-29 06-19 07-04 09-04 11-23 12-25", "07-03 11-24"),
}  # fmt: skip

FIRST, LAST = min(_TABLE), max(_TABLE)


def _dates(column: int) -> frozenset[date]:
    pairs = [(year, day) for year, row in _TABLE.items() for day in row[column].split()]
    return frozenset(date.fromisoformat(f"{year}-{day}") for year, day in pairs)


CLOSED = _dates(0)
HALF_DAYS = _dates(1)


def trades(day: date) -> bool:
    """Whether there was trading on a date of the table's years."""
    assert FIRST <= day.year <= LAST
    return day.weekday() < 5 and day not in CLOSED
