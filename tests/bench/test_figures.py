"""The arithmetic behind printed figures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdp.bench.figures import Histogram, middle, ratio


def test_quantiles_of_a_hundred_values() -> None:
    """p50 and p99 are the 50th and the 99th of a hundred, the maximum is the last."""
    histogram = Histogram()
    for ms in range(100, 0, -1):
        histogram.add(ms)

    found = histogram.quantiles()

    assert (found.count, found.p50, found.p99, found.max) == (100, 50, 99, 100)


@given(st.lists(st.floats(0, 90_000), min_size=1, max_size=200), st.floats(0, 1))
def test_a_quantile_is_within_a_tenth_below_a_value_that_covers_its_share(
    values: list[float], q: float
) -> None:
    """Whatever the values: at least a share `q` of them is no more than 0.1 ms above the quantile."""
    histogram = Histogram()
    for value in values:
        histogram.add(value)

    found = histogram.quantile(q)

    assert sum(value < found + 0.1001 for value in values) >= q * len(values)
    assert any(found <= value < found + 0.1001 for value in values)


def test_a_histogram_is_bounded() -> None:
    """Absurd values count, at the ends of the scale."""
    histogram = Histogram()
    histogram.add(1e12)
    histogram.add(-5)

    assert (histogram.count, histogram.quantile(1.0), histogram.quantile(0.0)) == (2, 100_000, 0)


def test_nothing_gives_zero() -> None:
    """Runs without a phase print zeros instead of failing."""
    assert Histogram().quantiles().max == 0
    assert middle([]) == 0
    assert ratio(5, 0) == 0


@pytest.mark.parametrize(("values", "expected"), [([3, 1, 2], 2), ([4, 1], 2.5), ([7], 7)])
def test_middle_is_the_median(values: list[float], expected: float) -> None:
    """One slow segment does not decide."""
    assert middle(values) == expected
