"""Which sessions make the average volume."""

from __future__ import annotations

from datetime import date, timedelta

from hypothesis import given
from hypothesis import strategies as st

from mdp.cache.averages import SessionVolumes, weekdays_before

MONDAY = date(2026, 9, 21)


def answer_all(volumes: SessionVolumes, today: date, holidays: set[date]) -> list[date]:
    """Answer what is wanted until nothing is; the days asked for, in order."""
    asked: list[date] = []
    while days := volumes.wanted(today):
        asked += days
        for day in days:
            volumes.answered[day] = day not in holidays
    return asked


def test_weekends_are_skipped() -> None:
    """The day before a Monday is a Friday; today itself is not completed."""
    assert list(weekdays_before(MONDAY, 6)) == [
        date(2026, 9, 18), date(2026, 9, 17), date(2026, 9, 16), date(2026, 9, 15), date(2026, 9, 14),
        date(2026, 9, 11),
    ]  # fmt: skip


def test_a_holiday_is_replaced_by_an_older_session() -> None:
    """Thirty sessions, however many holidays lie between."""
    volumes = SessionVolumes()
    holidays = {date(2026, 9, 7), date(2026, 9, 15)}
    asked = answer_all(volumes, MONDAY, holidays)

    assert volumes.count == 30
    assert asked == list(weekdays_before(MONDAY, 32))
    assert volumes.missing == 0


def test_no_more_than_45_days_are_asked_for() -> None:
    """A provider with little history, or none, is not asked for ever."""
    volumes = SessionVolumes()
    everything = set(weekdays_before(MONDAY, 100))
    asked = answer_all(volumes, MONDAY, everything - set(weekdays_before(MONDAY, 3)))
    assert len(asked) == 45
    assert volumes.count == 3


def test_a_failed_day_keeps_its_place_until_it_is_asked_again() -> None:
    """It is not taken for a holiday, which would bring in a session too old."""
    volumes = SessionVolumes(sessions=3)
    first, second, third = weekdays_before(MONDAY, 3)
    volumes.answered = {first: True, third: True}
    volumes.failed.add(second)

    assert volumes.wanted(MONDAY) == []
    volumes.failed.clear()
    assert volumes.wanted(MONDAY) == [second]


def test_the_previous_session_is_the_newest_with_bars() -> None:
    """A holiday gives way to the day before it; a day that failed does not."""
    volumes = SessionVolumes()
    first, second, third = weekdays_before(MONDAY, 3)
    assert volumes.newest_unknown(MONDAY) == first
    volumes.answered[first] = False
    assert volumes.newest_unknown(MONDAY) == second
    volumes.failed.add(second)
    assert volumes.newest_unknown(MONDAY) is None
    volumes.failed.clear()
    volumes.answered[second] = True
    assert volumes.newest_unknown(MONDAY) is None
    assert third not in volumes.answered


def test_a_young_listing_is_averaged_over_its_own_sessions() -> None:
    """The mean is over the sessions a symbol was in, and says how many."""
    volumes = SessionVolumes()
    volumes.add({"AAPL": 100, "NEW": 7})
    volumes.add({"AAPL": 200})
    volumes.add({"AAPL": 0})
    assert sorted(volumes.averages()) == [("AAPL", 100.0, 3), ("NEW", 7.0, 1)]


@given(st.dates(date(2010, 1, 1), date(2030, 1, 1)), st.sets(st.integers(1, 60)))
def test_the_sessions_are_the_newest_there_are(today: date, off: set[int]) -> None:
    """Whatever the holidays: exactly the last 30 sessions within 45 weekdays, none from today on."""
    holidays = {today - timedelta(days=n) for n in off}
    volumes = SessionVolumes()
    asked = answer_all(volumes, today, holidays)

    sessions = [day for day in weekdays_before(today, 45) if day not in holidays][:30]
    assert [day for day in sorted(volumes.answered, reverse=True) if volumes.answered[day]] == sessions
    assert len(asked) == len(set(asked)) <= 45
    assert all(day < today and day.weekday() < 5 for day in asked)
