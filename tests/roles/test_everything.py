"""What counts as a difference between two platforms, and what does not."""

from __future__ import annotations

from typing import Any

import pytest

from tests.roles.everything import Everything, differences

ALERT = {
    "symbol": "AAA",
    "price": 10.0,
    "timestamp": 1_773_153_000,
    "trade_count": 3,
    "pending": [],
    "open": 9.5,
}
BEFORE_OPEN = {**ALERT, "timestamp": 1_773_149_340}  # 2026-03-10 09:29 New York
HALT = {"symbol": "AAA", "status": "halted", "last_price": 10.0}


def said(
    values: dict[str, Any] | None = None, sent: dict[str, Any] | None = None, **events: list[Any]
) -> Everything:
    """What a platform said; events are of AAA."""
    told = {
        ("stocks:trades:{S}" if feed == "trades" else feed, "AAA"): items for feed, items in events.items()
    }
    return Everything(values or {}, sent or {}, told)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (said({"quote:AAA": {"close": 10}}), said({"quote:AAA": {"close": 10.1}})),
        (said({"quote:AAA": {"close": 10}}), said({})),
        (said({"quote:AAA": {"close": 10}}), said({"quote:AAA": {}})),
        (said({"quote:AAA": {"pct_change_1m": 1}}), said({"quote:AAA": {"pct_change_1m": 2}})),
        (said({"quote:AAA": {"stale": False}}), said({"quote:AAA": {"stale": 0}})),
        (said({"halt:AAA": HALT}), said({"halt:AAA": {**HALT, "last_price": 11}})),
        (said({}, {"halt:AAA": HALT}), said({}, {"halt:AAA": {**HALT, "status": "trading"}})),
        (said({}, {"quote:AAA": {"close": 10}}), said({}, {"quote:AAA": {"close": 11}})),
        (said({"scanners:top_volume": [{"symbol": "A"}, {"symbol": "B"}]}),
         said({"scanners:top_volume": [{"symbol": "B"}, {"symbol": "A"}]})),
        (said({"market:status": {"session": "regular"}}), said({"market:status": {"session": "closed"}})),
        (said(daily_range_hod_alert=[ALERT]), said(daily_range_hod_alert=[ALERT, ALERT])),
        (said(daily_range_hod_alert=[ALERT]), said()),
        (said(daily_range_hod_alert=[ALERT]), said(daily_range_hod_alert=[{**ALERT, "price": 10.01}])),
        (said(daily_range_hod_alert=[ALERT]), said(daily_range_hod_alert=[{**ALERT, "timestamp": 1}])),
        (said(daily_range_hod_alert=[ALERT]), said(daily_range_hod_alert=[{**ALERT, "open": 0}])),
        (said(daily_range_lod_alert=[ALERT, BEFORE_OPEN]), said(daily_range_lod_alert=[BEFORE_OPEN, ALERT])),
        (said(halts=[HALT]), said(halts=[{**HALT, "status": "trading"}])),
        (said(trades=[{"price": 1}]), said(trades=[])),
        (said({}, {"stocks:quotes:AAA": {"bid_size": 1}}), said({}, {"stocks:quotes:AAA": {"bid_size": 2}})),
    ],
)  # fmt: skip
def test_a_difference(one: Everything, other: Everything) -> None:
    """In either direction; not with itself."""
    assert differences(one, other)
    assert differences(other, one)
    assert differences(one, one) == differences(other, other) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (said({"quote:AAA": {"vwap": 10.0}}), said({"quote:AAA": {"vwap": 10.0 + 1e-10}})),
        (said({"quote:AAA": {"vwap": 10}}), said({"quote:AAA": {"vwap": 10.0}})),
        (said({"market:status": {"lag_ms": 1}}), said({"market:status": {"lag_ms": 2}})),
        (said({}, {"quote:AAA": {"pct_change_1m": 1}}), said({}, {"quote:AAA": {"pct_change_1m": 2}})),
        (said({}, {"halt:AAA": HALT}), said({}, {"halt:AAA": {**HALT, "last_price": 11}})),
        (said(daily_range_hod_alert=[ALERT]), said(daily_range_hod_alert=[{**ALERT, "trade_count": 4}])),
        (said(daily_range_hod_alert=[BEFORE_OPEN]), said(daily_range_hod_alert=[{**BEFORE_OPEN, "open": 0}])),
    ],
)
def test_no_difference(one: Everything, other: Everything) -> None:
    """The last digits, the time of day, and what was sent as of its publication."""
    assert differences(one, other) == []


def test_raw_events_may_be_left_out() -> None:
    """Trades and quotes as sent, and nothing else."""
    one = said({"quote:AAA": {"close": 1}}, {"stocks:quotes:AAA": {"bid_price": 1}}, trades=[{"price": 1}])
    other = said({"quote:AAA": {"close": 1}}, {"stocks:quotes:AAA": {"bid_price": 2}})
    assert differences(one, other, raw=False) == []
    assert differences(one, other._replace(values={"quote:AAA": {"close": 2}}), raw=False)
