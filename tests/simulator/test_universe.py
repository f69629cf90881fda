"""The simulated market's listings."""

from __future__ import annotations

import re

from mdp.simulator.universe import build_universe


def test_the_same_seed_gives_the_same_listings() -> None:
    """Nothing but the seed decides."""
    assert build_universe(3, 500) == build_universe(3, 500)
    assert build_universe(3, 500) != build_universe(4, 500)


def test_eleven_thousand_distinct_valid_tickers_some_with_a_dot() -> None:
    """Enough symbols, none twice, none that a client would refuse."""
    symbols = [one.symbol for one in build_universe(1, 11_000)]
    assert len(set(symbols)) == 11_000
    assert all(re.fullmatch(r"[A-Z]{1,5}(\.[A-Z])?", symbol) for symbol in symbols)
    assert {"AAPL", "NVDA", "TSLA", "BRK.B"} <= set(symbols)
    assert sum("." in symbol for symbol in symbols) > 10


def test_activity_follows_zipf() -> None:
    """Weights sum to one and fall as one over the rank (shifted at the head)."""
    weights = [one.weight for one in build_universe(1, 11_000)]
    assert abs(sum(weights) - 1) < 1e-9
    assert weights == sorted(weights, reverse=True)
    assert 1.9 < weights[4_989] / weights[9_989] < 2.1  # half the rank, twice the activity


def test_listings_are_plausible() -> None:
    """No impossible price, volume or float."""
    for one in build_universe(2, 3_000):
        assert one.prev_close > 0.0001
        assert one.avg_volume >= 1
        assert 0 < one.free_float <= one.shares
        assert 0 < one.day_volatility < 0.2
        assert one.tape in (1, 2, 3)
