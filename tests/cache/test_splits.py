"""What splits make of values from before them."""

from __future__ import annotations

from datetime import date

import msgspec
import pytest

from mdp.cache.splits import Splits

DAY = date(2026, 9, 23)


def test_a_split_changes_what_is_before_its_execution_date() -> None:
    """The day before is the last with old prices; the execution date itself has new ones already."""
    splits = Splits(DAY)
    assert splits.add("A", date(2026, 9, 21), 10, 1)
    assert splits.ratio("A", date(2026, 9, 18)) == 0.1
    assert splits.ratio("A", date(2026, 9, 20)) == 0.1
    assert splits.ratio("A", date(2026, 9, 21)) == 1
    assert splits.ratio("B", date(2026, 9, 18)) == 1


def test_a_split_of_the_trading_day_counts_and_one_of_its_future_does_not() -> None:
    """A replay of an old day must not know tomorrow's."""
    splits = Splits(DAY)
    splits.add("A", DAY, 1, 4)
    splits.add("A", date(2026, 9, 24), 1, 7)
    assert splits.ratio("A", date(2026, 9, 22)) == 4
    assert splits.takes_effect("A")
    assert not splits.takes_effect("B")
    assert splits.today
    assert not Splits(DAY).today


def test_several_splits_multiply_and_one_told_twice_does_not() -> None:
    """Also two different ones on one day: a split and a stock dividend."""
    splits = Splits(DAY)
    for _ in range(2):
        splits.add("A", date(2026, 8, 3), 1, 2)
        splits.add("A", date(2026, 9, 3), 1, 3)
        splits.add("A", date(2026, 9, 3), 100, 105)
    assert splits.ratio("A", date(2026, 8, 1)) == pytest.approx(2 * 3 * 1.05)
    assert splits.ratio("A", date(2026, 8, 3)) == pytest.approx(3 * 1.05)


@pytest.mark.parametrize(("old", "new"), [(100_000, 0.5), (1e-9, 5)])
def test_an_absurd_ratio_is_refused(old: float, new: float) -> None:
    """No company does that."""
    splits = Splits(DAY)
    assert not splits.add("A", DAY, old, new)
    assert splits.by_symbol == {}


def test_they_survive_a_restart() -> None:
    """Through msgpack, with the same ratios."""
    splits, again = Splits(DAY), Splits(DAY)
    splits.add("A", date(2026, 9, 3), 3, 1)
    splits.add("B", DAY, 1, 2)
    again.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(splits.dump())))
    assert again.by_symbol == splits.by_symbol
