"""Which missing alerts the gap ledger accounts for."""

from __future__ import annotations

from typing import Any

import pytest

from tests.failures.gaps import entry_of

AT_MS = 1_773_150_000_000
GAP: dict[str, Any] = {
    "market_start_ms": AT_MS,
    "market_end_ms": AT_MS + 8_000,
    "symbols": None,
    "symbols_count": None,
    "not_recoverable": ["daily_range_hod_alert"],
}


@pytest.mark.parametrize(
    ("change", "at_ms", "covered"),
    [
        ({}, AT_MS + 4_000, True),
        ({}, AT_MS - 4_000, True),  # a bar that would have come then
        ({}, AT_MS - 6_000, False),
        ({}, AT_MS + 10_000, False),
        ({"market_end_ms": None}, AT_MS + 60_000, True),
        ({"symbols": ["AAA"], "symbols_count": 1}, AT_MS, True),
        ({"symbols": ["BBB"], "symbols_count": 1}, AT_MS, False),
        ({"symbols": ["BBB"], "symbols_count": 2}, AT_MS, True),  # not all are named
    ],
)
def test_an_entry_covers_its_time_and_its_symbols(change: dict[str, Any], at_ms: int, covered: bool) -> None:
    """Bars are older than the clock by which the loss of them begins."""
    entry = entry_of({**GAP, **change})
    assert entry is not None
    assert entry.covers("AAA", at_ms) is covered


@pytest.mark.parametrize("change", [{"market_start_ms": None}, {"not_recoverable": ["trade_stats:{S}"]}])
def test_an_entry_that_lost_no_bars_covers_no_alert(change: dict[str, Any]) -> None:
    """Lost trades and quotes make no alert missing; nor does an outage that no partition has heard of."""
    assert entry_of({**GAP, **change}) is None
