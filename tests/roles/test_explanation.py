"""What is said of a symbol beside its numbers."""

from __future__ import annotations

from datetime import date
from typing import Any

from mdp.roles.explanation import gaps_of, unknown
from mdp.sessions import TradingDay


def gap(
    begin: int | None, end: int | None, symbols: list[str] | None = None, count: int = 0
) -> dict[str, Any]:
    """An entry of the gap ledger."""
    return {
        "market_start_ms": begin,
        "market_end_ms": end,
        "symbols": symbols,
        "symbols_count": None if symbols is None else count,
    }


def test_gaps_are_those_that_may_be_of_the_symbol_and_the_day() -> None:
    """By market time; what lasts, or whose time or symbols are not known whole, may be."""
    day = TradingDay.of(date(2024, 3, 5))
    before, noon, after = day.start_ms - 5, day.open_ms + 5, day.end_ms + 5
    fitting = [
        gap(noon, noon + 1), gap(before, noon), gap(noon, None), gap(None, None), gap(before, after),
        gap(noon, noon, ["AAA", "BBB"], 2), gap(noon, noon, ["BBB"], 500),
    ]  # fmt: skip
    others = [gap(before - 5, before), gap(after, None), gap(noon, noon, ["BBB"], 1), gap(noon, noon, [], 0)]
    assert gaps_of([*others, *fitting], "AAA", day) == fitting
    assert gaps_of(others[:1], "AAA", None) == others[:1]
    many = [gap(noon, noon)] * 60
    assert len(gaps_of(many, "AAA", day)) == 50


def test_an_unknown_symbol_is_told_with_what_to_check() -> None:
    """Its case, where that is it; whether anything came; its spelling."""
    day = TradingDay.of(date(2024, 3, 5))
    assert "'AAPL' is known" in unknown("aapl", day, {"AAPL"}.__contains__)
    assert "no event has come yet" in unknown("aapl", None, set[str]().__contains__)
    assert "on trading day 2024-03-05: check its spelling" in unknown("AAPL", day, {"AAPL"}.__contains__)
