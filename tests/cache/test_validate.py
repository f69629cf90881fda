"""What of a REST answer is used."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdp.cache.bulk import Bar
from mdp.cache.validate import LARGEST_PRICE, LARGEST_SHARES, Rejected


@pytest.mark.parametrize(
    ("value", "price", "shares", "reason"),
    [
        (12.5, 12.5, 12.5, None),
        (9_999_999, 9_999_999, 9_999_999, None),
        (None, 0, None, "missing"),
        (-1, 0, None, "negative"),
        (-0.5, 0, None, "negative"),
        (1.1e13, 0, None, "absurd"),
        (10**30, 0, None, "absurd"),
        (float("inf"), 0, None, "absurd"),
        (float("-inf"), 0, None, "negative"),
        (float("nan"), 0, None, "not a number"),
        ("12.5", 0, None, "not a number"),
        (True, 0, None, "not a number"),
        ([1], 0, None, "not a number"),
        ({}, 0, None, "not a number"),
    ],
)
def test_only_what_can_be_a_price_or_a_number_of_shares_is_used(
    value: Any, price: float, shares: float | None, reason: str | None
) -> None:
    """Anything else is unknown, counted with endpoint and reason."""
    rejected = Rejected()
    assert rejected.at("a").price(value) == price
    assert rejected.at("b").shares(value) == shares
    assert rejected.counts == ({("a", reason): 1, ("b", reason): 1} if reason else {})


def test_a_price_of_zero_is_none_and_a_volume_of_zero_is_one() -> None:
    """Nothing costs nothing; a day without a trade has a volume."""
    rejected = Rejected()
    checks = rejected.at("x")
    assert (checks.price(0), checks.shares(0), checks.ratio(0)) == (0, 0, 0)
    assert rejected.counts == {("x", "zero"): 2}


def test_a_price_above_ten_million_is_absurd_and_such_a_volume_is_not() -> None:
    """Each has its own bound."""
    checks = Rejected().at("x")
    assert checks.price(10_000_001) == 0
    assert checks.shares(10_000_001) == 10_000_001


@pytest.mark.parametrize("value", [None, "", 7, "X" * 33, ["A"], "A B", "A\n", "a'b"])
def test_only_what_can_be_a_symbol_is_used(value: Any) -> None:
    """Anything else would become a key of the state and a feed's name."""
    rejected = Rejected()
    assert rejected.at("x").symbol(value) == ""
    assert rejected.counts == {("x", "symbol"): 1}


@pytest.mark.parametrize("value", [None, "", "tomorrow", "2026-13-01", "2026-1-1", 20260101, "20260101"])
def test_only_dates_are_dates(value: Any) -> None:
    """In the provider's form."""
    rejected = Rejected()
    assert rejected.at("x").day(value) is None
    assert sum(rejected.counts.values()) == 1


def test_a_bar_of_zeros_is_no_day_and_no_fault() -> None:
    """The provider writes so where there was no previous day."""
    rejected = Rejected()
    assert rejected.at("x").bar(Bar(0, 0, 0, 0, 0, 0)) is None
    assert rejected.counts == {}


@pytest.mark.parametrize(
    ("bar", "used", "reason"),
    [
        (Bar(9, 12, 8, 10, 100, 10.5), (9, 12, 8, 10, 100, 10.5), None),
        (Bar(9, 12, 8, None, 100, 10.5), None, "missing"),
        (Bar(9, 12, 8, 0, 100, 10.5), None, "zero"),
        (Bar(9, 12, 8, -10, 100, 10.5), None, "negative"),
        (Bar(9, 8, 12, 10, 100, 10.5), (9, 0, 0, 10, 100, 10.5), "high below low"),
        (Bar(9, 10_001, 8, 10, 100, 10.5), (9, 0, 8, 10, 100, 10.5), "far from the close"),
        (Bar(9, 12, 0.009, 10, 100, 10.5), (9, 12, 0, 10, 100, 10.5), "far from the close"),
        (Bar(9, 12, 8, 10, None, 10.5), (9, 12, 8, 10, 0, 10.5), "missing"),
        (Bar("9", 12, 8, 10, 100, 10.5), (0, 12, 8, 10, 100, 10.5), "not a number"),
    ],
)
def test_a_bar_stands_on_its_close(bar: Bar, used: tuple[float, ...] | None, reason: str | None) -> None:
    """Without one it is not used at all; other wrong values lose themselves, each counted once."""
    rejected = Rejected()
    assert rejected.at("x").bar(bar) == used
    assert rejected.counts == ({("x", reason): 1} if reason else {})


anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=3),
    st.lists(st.integers(), max_size=2),
)


@given(st.tuples(*[anything] * 6))
def test_whatever_comes_what_is_used_lies_within_bounds(values: tuple[Any, ...]) -> None:
    """No NaN, nothing negative, no price without a bound, no high below its low."""
    used = Rejected().at("x").bar(Bar(*values))
    if used is not None:
        *prices, volume, vwap = used
        assert all(0 <= price <= LARGEST_PRICE for price in (*prices, vwap))
        assert 0 <= volume <= LARGEST_SHARES
        assert used[3] > 0
        assert not (used[1] and used[2]) or used[1] >= used[2]
