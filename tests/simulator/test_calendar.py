"""The simulator's own calendar against dates published by the exchanges."""

from __future__ import annotations

from datetime import date, time

import pytest

from mdp.simulator import calendar


@pytest.mark.parametrize(
    ("year", "expected"),
    [
        (2025, "01-01 01-09 01-20 02-17 04-18 05-26 06-19 07-04 09-01 11-27 12-25"),
        (2026, "01-01 01-19 02-16 04-03 05-25 06-19 07-03 09-07 11-26 12-25"),
        # New Year of 2022 fell on a Saturday and was not made up for; Juneteenth fell on a Sunday.
        (2022, "01-17 02-21 04-15 05-30 06-20 07-04 09-05 11-24 12-26"),
    ],
)
def test_holidays_are_those_the_exchange_published(year: int, expected: str) -> None:
    """Movable feasts and observed days come out as on the exchange's own list."""
    assert " ".join(f"{day:%m-%d}" for day in sorted(calendar.holidays(year))) == expected


def test_unscheduled_closings_are_closings() -> None:
    """The day of mourning for Carter: a replay of the day before has the right next session."""
    assert not calendar.is_trading_day(date(2025, 1, 9))
    assert calendar.next_trading_day(date(2025, 1, 8)) == date(2025, 1, 10)
    assert calendar.previous_trading_day(date(2012, 10, 31)) == date(2012, 10, 26)


def test_early_closes_end_at_one_and_after_hours_at_five() -> None:
    """The day after Thanksgiving 2025 and Christmas Eve 2025 are short."""
    assert sorted(day.isoformat() for day in calendar.early_closes(2025)) == [
        "2025-07-03",
        "2025-11-28",
        "2025-12-24",
    ]
    short = date(2025, 11, 28)
    assert calendar.regular_close(short) == time(13, 0)
    assert calendar.post_market_close(short) == time(17, 0)
    assert calendar.regular_close(date(2025, 12, 1)) == time(16, 0)


@pytest.mark.parametrize(
    ("clock", "expected"),
    [
        (time(3, 59, 59), "closed"),
        (time(4, 0), "early"),
        (time(9, 29, 59), "early"),
        (time(9, 30), "regular"),
        (time(15, 59, 59), "regular"),
        (time(16, 0), "after"),
        (time(19, 59, 59), "after"),
        (time(20, 0), "closed"),
    ],
)
def test_sessions_change_at_their_exact_times(clock: time, expected: str) -> None:
    """Boundaries belong to the session that begins."""
    assert calendar.session_at(calendar.epoch_ms(date(2026, 3, 10), clock)) == expected


def test_weekends_and_holidays_are_closed_and_skipped() -> None:
    """The trading day before Tuesday after Labor Day is the Friday before."""
    assert calendar.session_at(calendar.epoch_ms(date(2026, 3, 8), time(12, 0))) == "closed"
    assert calendar.previous_trading_day(date(2026, 9, 8)) == date(2026, 9, 4)
    assert calendar.next_trading_day(date(2026, 9, 4)) == date(2026, 9, 8)
    assert calendar.sessions_before(date(2026, 3, 10), 3) == [
        date(2026, 3, 9),
        date(2026, 3, 6),
        date(2026, 3, 5),
    ]


def test_new_york_time_follows_daylight_saving() -> None:
    """09:30 in New York is 14:30 UTC before and 13:30 UTC after the change of 2026-03-08."""
    before = calendar.epoch_ms(date(2026, 3, 6), time(9, 30))
    after = calendar.epoch_ms(date(2026, 3, 9), time(9, 30))
    assert after - before == (3 * 24 - 1) * 3_600_000
