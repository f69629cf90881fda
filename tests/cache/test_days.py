"""Which clock counts, and what follows from it."""

from __future__ import annotations

from datetime import date, datetime

import pytest

from mdp.cache.days import Days
from mdp.exchange_calendar import ExchangeCalendar
from mdp.sessions import NEW_YORK

FRIDAY = date(2026, 9, 25)


def ms(text: str) -> float:
    """Epoch ms of a New York time."""
    return datetime.fromisoformat(text).replace(tzinfo=NEW_YORK).timestamp() * 1000


def days(server: str = "", market: str = "") -> Days:
    """With both clocks at these times; empty: not known."""
    return Days(
        lambda: ms(server) if server else None, lambda: ms(market) if market else 0, ExchangeCalendar()
    )


@pytest.mark.parametrize(
    ("server", "market", "now"),
    [
        ("", "", None),
        ("2026-09-25T10:00", "", "2026-09-25T10:00"),
        ("", "2026-09-25T10:00", "2026-09-25T10:00"),
        ("2026-09-25T10:00:05", "2026-09-25T10:00", "2026-09-25T10:00:05"),
        ("2026-09-25T10:00", "2026-09-25T10:00:05", "2026-09-25T10:00:05"),
        ("2026-09-28T03:40", "2026-09-25T20:00", "2026-09-28T03:40"),  # a weekend without events
        ("2026-09-28T03:40", "2025-09-25T20:00", "2025-09-25T20:00"),  # a replay of last year
    ],
)
def test_the_further_clock_counts_unless_they_are_of_different_times(
    server: str, market: str, now: str | None
) -> None:
    """Events stop at night, the provider's clock does not; a replay has a time of its own."""
    assert days(server, market).now() == (ms(now) if now is not None else None)


def test_without_a_time_no_day_is_due_and_no_snapshot_fits() -> None:
    """A guess could be of any day."""
    assert days().due() is None
    assert days().snapshot_fits(FRIDAY) is False


@pytest.mark.parametrize(
    ("now", "fits"),
    [
        ("2026-09-25T03:59:59", None),
        ("2026-09-25T04:00:00", True),
        ("2026-09-25T20:30:00", True),
        ("2026-09-26T03:29:59", True),
        ("2026-09-26T03:30:00", False),
        ("2026-09-27T12:00:00", False),
    ],
)
def test_the_snapshots_previous_day_is_the_days_from_four_until_it_is_cleared(
    now: str, fits: bool | None
) -> None:
    """From 03:30 of the next date on it may be anything, also on a Saturday."""
    assert days(now).snapshot_fits(FRIDAY) is fits
