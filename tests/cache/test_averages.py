"""Which sessions make the average volume."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdp.cache.averages import SessionVolumes

MONDAY = date(2026, 9, 21)
DAYS = [MONDAY - timedelta(days=n) for n in range(1, 46)]  # to try, newest first


def answer_all(volumes: SessionVolumes, closed: set[date]) -> list[date]:
    """Answer what is wanted until nothing is; the days asked for, in order."""
    asked: list[date] = []
    while days := volumes.wanted():
        asked += days
        for day in days:
            volumes.answered[day] = day not in closed
    return asked


def averages(volumes: SessionVolumes) -> dict[str, tuple[float, int]]:
    """symbol -> mean and days."""
    return {symbol: (mean, days) for part in volumes.averages(2) for symbol, mean, days in part}


def test_a_closing_is_replaced_by_an_older_session() -> None:
    """Thirty sessions, however many unscheduled closings lie between."""
    volumes = SessionVolumes(DAYS)
    asked = answer_all(volumes, {DAYS[3], DAYS[10]})
    assert volumes.count == 30
    assert asked == DAYS[:32]
    assert volumes.missing == 0


def test_no_more_days_than_given_are_asked_for() -> None:
    """A provider with little history, or none, is not asked for ever."""
    volumes = SessionVolumes(DAYS)
    asked = answer_all(volumes, set(DAYS[3:]))
    assert asked == DAYS
    assert volumes.count == 3


def test_a_failed_day_keeps_its_place_until_it_is_asked_again() -> None:
    """It is not taken for a closing, which would bring in a session too old."""
    volumes = SessionVolumes(DAYS, sessions=3)
    volumes.answered = {DAYS[0]: True, DAYS[2]: True}
    volumes.failed.add(DAYS[1])

    assert volumes.wanted() == []
    volumes.failed.clear()
    assert volumes.wanted() == [DAYS[1]]


def test_the_previous_session_is_the_newest_with_bars() -> None:
    """A closing gives way to the day before it; a day that failed does not."""
    volumes = SessionVolumes(DAYS)
    assert volumes.newest_unknown() == DAYS[0]
    assert volumes.previous is None
    volumes.answered[DAYS[0]] = False
    assert volumes.newest_unknown() == DAYS[1]
    volumes.failed.add(DAYS[1])
    assert volumes.newest_unknown() is None
    assert volumes.previous is None
    volumes.failed.clear()
    volumes.answered[DAYS[1]] = True
    assert volumes.newest_unknown() is None
    assert volumes.previous == DAYS[1]


def test_a_session_without_a_trade_counts_and_those_before_the_listing_do_not() -> None:
    """The mean is over the sessions since a symbol was seen first, in whatever order their answers come."""
    volumes = SessionVolumes(DAYS)
    volumes.add(DAYS[2], {"AAPL": 200})
    volumes.add(DAYS[0], {"AAPL": 100, "NEW": 7})
    volumes.add(DAYS[1], {"AAPL": 0})
    volumes.add(DAYS[3], {"AAPL": 100, "THIN": 8})
    volumes.answered = dict.fromkeys(DAYS[:4], True)
    assert averages(volumes) == {"AAPL": (100.0, 4), "NEW": (7.0, 1), "THIN": (2.0, 4)}


def test_a_closing_in_between_is_no_session() -> None:
    """Days that turned out to be none count for nobody."""
    volumes = SessionVolumes(DAYS)
    volumes.add(DAYS[0], {"A": 10})
    volumes.add(DAYS[2], {"A": 20})
    volumes.answered = {DAYS[0]: True, DAYS[1]: False, DAYS[2]: True}
    assert averages(volumes) == {"A": (15.0, 2)}


def test_a_refused_volume_is_neither_zero_nor_a_day() -> None:
    """Unless it lies before the first session that counts anyway."""
    volumes = SessionVolumes(DAYS)
    volumes.add(DAYS[0], {"A": 10, "B": 10})
    volumes.add(DAYS[1], {"B": 10}, {"A"})
    volumes.add(DAYS[2], {"A": 20}, {"B", "C"})
    volumes.answered = dict.fromkeys(DAYS[:3], True)
    assert averages(volumes) == {"A": (15.0, 2), "B": (10.0, 2)}


def test_averages_come_in_slices() -> None:
    """Eleven thousand means in one step would take too long."""
    volumes = SessionVolumes(DAYS)
    volumes.add(DAYS[0], {f"S{n}": 1 for n in range(25)})
    volumes.answered[DAYS[0]] = True
    assert [len(part) for part in volumes.averages(10)] == [10, 10, 5]


@given(st.sets(st.integers(0, 44)))
def test_the_sessions_are_the_newest_there_are(off: set[int]) -> None:
    """Whatever is closed: exactly the last 30 sessions of those to try, each asked for once."""
    closed = {DAYS[n] for n in off}
    volumes = SessionVolumes(DAYS)
    asked = answer_all(volumes, closed)

    sessions = [day for day in DAYS if day not in closed][:30]
    assert [day for day in sorted(volumes.answered, reverse=True) if volumes.answered[day]] == sessions
    assert len(asked) == len(set(asked)) <= 45


@given(
    st.dictionaries(
        st.integers(0, 9), st.dictionaries(st.sampled_from("ABC"), st.integers(0, 1000)), min_size=1
    )
)
def test_means_equal_a_plain_reckoning(traded: dict[int, dict[str, int]]) -> None:
    """Sum over the sessions from the first one with the symbol, divided by their number."""
    volumes = SessionVolumes(DAYS)
    for place, found in traded.items():
        volumes.add(DAYS[place], found)
        volumes.answered[DAYS[place]] = True
    expected: dict[str, Any] = {}
    for symbol in "ABC":
        places = [place for place, found in traded.items() if symbol in found]
        if places:
            since = [found.get(symbol, 0) for place, found in traded.items() if place <= max(places)]
            expected[symbol] = (pytest.approx(sum(since) / len(since)), len(since))
    assert averages(volumes) == expected
