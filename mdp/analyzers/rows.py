"""The enriched quote and what shares its fields: how each number follows from a symbol's state.

Numbers follow `docs/feeds.md`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from mdp.analyzers import price_history
from mdp.analyzers.state import Market, SymbolState
from mdp.events import Aggregate, Number


class QuoteRow(msgspec.Struct, gc=False):
    """The enriched quote (`docs/feeds.md`). Prices in USD, volumes in shares, times in ms."""

    symbol: str
    volume: Number
    free_float: Number
    accumulated_volume: Number
    relative_volume: float
    official_open_price: Number
    vwap: Number
    open: Number
    close: Number
    high: Number
    low: Number
    aggregate_vwap: Number
    average_size: Number
    avg_volume: Number
    prev_day_close: Number
    prev_day_open: Number
    prev_day_high: Number
    prev_day_low: Number
    prev_day_volume: Number
    prev_day_vwap: Number
    change: float
    pct_change: float
    change_since_open: float
    pct_change_since_open: float
    start_timestamp: Number
    end_timestamp: Number
    avg_volume_days: int
    pct_change_1m: float
    pct_change_5m: float
    pct_change_15m: float
    pct_change_30m: float
    pct_from_vwap: float
    pct_from_day_high: float
    relative_volume_at_time: float
    relative_volume_at_time_days: int
    trade_count: int
    updated_ts: Number
    stale: bool
    pending: tuple[str, ...]


class BoardRow(QuoteRow, gc=False, kw_only=True):
    """A leaderboard's row."""

    rank: int


def quote_of(market: Market, symbol: str) -> QuoteRow | None:
    """The enriched quote of a symbol now; None for one without a bar today."""
    state = market.symbols.get(symbol)
    return None if state is None or state.bar is None else QuoteRow(*values(market, state))


def values(
    market: Market, state: SymbolState, bar: Aggregate | None = None, volume: Number | None = None
) -> tuple[Any, ...]:
    """The fields of `QuoteRow` in their order.

    Args:
        market: Whose clock and trades the row refers to.
        state: Of a symbol that has a bar.
        bar: As of which of its bars; None: now.
        volume: The day's volume then; None: now.
    """
    now_ms = market.clock.now_ms
    if bar is None:
        bar = state.bar
        assert bar is not None
    else:
        now_ms = bar.start_timestamp
    if volume is None:
        volume = state.accumulated_volume
    symbol = state.symbol
    start = bar.start_timestamp
    ref = state.reference
    close = bar.close
    previous = ref.prev_day_close
    change = close - previous if previous else 0
    opened = market.open_of(state)
    since_open = close - opened if opened else 0
    average = ref.avg_volume
    vwap = bar.aggregate_vwap or 0
    high = day_high(state)
    usual, days = market.usual_volume(symbol, now_ms)
    one, five, fifteen, thirty = price_history.ago(state.closes, state.start, close, max(now_ms, start))
    return (
        symbol,
        bar.volume or 0,
        ref.free_float,
        volume,
        volume / average if average else 0,
        state.official_open,
        bar.vwap or 0,
        opened,
        close,
        bar.high,
        bar.low,
        vwap,
        bar.average_size or 0,
        average,
        previous,
        ref.prev_day_open,
        ref.prev_day_high,
        ref.prev_day_low,
        ref.prev_day_volume,
        ref.prev_day_vwap,
        change,
        change / previous * 100 if previous else 0,
        since_open,
        since_open / opened * 100 if opened else 0,
        start,
        bar.end_timestamp or 0,
        ref.avg_volume_days,
        (close - one) / one * 100 if one else 0,
        (close - five) / five * 100 if five else 0,
        (close - fifteen) / fifteen * 100 if fifteen else 0,
        (close - thirty) / thirty * 100 if thirty else 0,
        (close - vwap) / vwap * 100 if vwap else 0,
        (close - high) / high * 100 if high else 0,
        volume / usual if usual else 0,
        days,
        market.trade_count(symbol),
        bar.end_timestamp or start,
        market.is_stale(symbol, start),
        ref.pending,
    )


def day_high(state: SymbolState) -> Number:
    """The highest price of the trading day's sessions; 0 where `DailyRange` does not run."""
    known = state.range
    if known is None:
        return 0
    high = state.high
    for other in known.extremes[::2]:  # pre-market, regular, after-hours
        if other is not None and other > high:
            high = other
    return high
