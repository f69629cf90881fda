"""Activity over the simulated day."""

from __future__ import annotations

from datetime import date, time
from itertools import pairwise

import pytest

from mdp.simulator.calendar import epoch_ms
from mdp.simulator.shape import DayShape

DAY = date(2026, 3, 10)


def test_activity_has_a_rush_at_the_open_and_a_u_in_between() -> None:
    """Open over close over noon, and extended hours below all of regular hours' edges."""
    shape = DayShape(DAY)
    levels = {h: shape.level(epoch_ms(DAY, time(*h))) for h in [(4, 1), (9, 25), (9, 30), (12, 30), (15, 59)]}
    assert levels[(9, 30)] > levels[(15, 59)] > levels[(12, 30)] > levels[(9, 25)] > levels[(4, 1)] > 0


def test_nothing_trades_at_night() -> None:
    """Before 04:00 and from 20:00 on the level is zero."""
    shape = DayShape(DAY)
    assert shape.level(shape.start_ms - 1) == 0
    assert shape.level(shape.end_ms) == 0


def test_regular_hours_average_about_one() -> None:
    """The rate asked for is the average of regular hours, within a tenth."""
    shape = DayShape(DAY)
    levels = [shape.level(at) for at in range(shape.open_ms, shape.close_ms, 10_000)]
    assert sum(levels) / len(levels) == pytest.approx(1.0, abs=0.1)


def test_fraction_grows_from_nothing_to_all() -> None:
    """The integral is monotone and agrees with a sum of levels."""
    shape = DayShape(DAY)
    times = list(range(shape.start_ms, shape.end_ms + 1, 60_000))
    fractions = [shape.fraction(at) for at in times]
    assert fractions[0] == 0
    assert fractions[-1] == pytest.approx(1)
    assert all(a <= b for a, b in pairwise(fractions))
    by_noon = sum(shape.level(at) for at in range(shape.start_ms, epoch_ms(DAY, time(12)), 1_000))
    assert shape.fraction(epoch_ms(DAY, time(12))) == pytest.approx(by_noon / shape.total, rel=0.01)


def test_an_early_close_ends_the_rush_at_one() -> None:
    """The day after Thanksgiving is busy just before 13:00 and over at 17:00."""
    day = date(2025, 11, 28)
    shape = DayShape(day)
    assert shape.level(epoch_ms(day, time(12, 59))) > shape.level(epoch_ms(day, time(13, 5)))
    assert shape.level(epoch_ms(day, time(17, 0))) == 0
    assert shape.fraction(epoch_ms(day, time(17, 0))) == pytest.approx(1)
