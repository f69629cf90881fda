"""Explains a symbol's numbers: for each its value, rule, inputs, source and time, worked out when asked.

Values are those that the feeds give at the same moment; the sentences are in `explain_rules`. Nothing is
kept for it: what the states of analyzers do not hold any more (a bar that made the day's high) is said to be
gathered, with the time up to which it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from mdp.analyzers import price_history
from mdp.analyzers.daily_range import session_range
from mdp.analyzers.explain_rules import (
    CLOCK,
    COMPUTED,
    HALT_RULES,
    QUOTE_RULES,
    RANGE,
    RANGE_RULES,
    REFERENCE,
    TRADE_RULES,
    WIRE,
    Rule,
)
from mdp.analyzers.halt_state import LULD, HaltRow, HaltState, values
from mdp.analyzers.rows import quote_of
from mdp.analyzers.state import Market, SymbolState
from mdp.analyzers.trade_state import DAY_OUTSIDE_HOURS, SymbolTrades
from mdp.events import Aggregate, MinuteAggregate, Number, payload
from mdp.sessions import TradingDay


class Fact(msgspec.Struct, omit_defaults=True):
    """A value, and where it comes from.

    Attributes:
        as_of: Market time (ms) of the newest event, or the end of the session, that it takes into account.
        fetched_at: Wall clock (ms) of the REST answer.
    """

    value: Any
    source: str
    as_of: Number | None
    fetched_at: Number | None = None


class Origin(msgspec.Struct, frozen=True):
    """Where a reference value was fetched. See `Fact` for the times."""

    source: str
    fetched_at: Number | None = None
    as_of: Number | None = None


NO_ORIGIN = Origin("no reference values are known of this symbol")
_TRADES = "wire T, by the rules of trade conditions"
COMPUTED_SOURCE = "computed from the inputs"

Section = dict[str, dict[str, Any]]


def explain(
    market: Market,
    symbol: str,
    *,
    halt: HaltState | None = None,
    origins: Mapping[str, Origin] | None = None,
    split_ratio: float = 1.0,
) -> dict[str, Any] | None:
    """Everything that is shown of a symbol now, explained.

    Args:
        market: Its clock, symbols and trades.
        symbol: As the feed names it.
        halt: What is known of its halts.
        origins: Where each reference value came from, by the name of the quote's field.
        split_ratio: Shares now per share at the previous session's close.

    Returns:
        `symbol`, `trading_day`, `session`, `market_time` (ms), `bar` (the newest, as it came), `trade_rules`
        (in force: source and date) and a section for each feed: `fields` (the enriched quote), `daily_range`,
        `trade_stats`, `halt`; empty where it has nothing. None for a symbol of which nothing is known today.
    """
    state = market.symbols.get(symbol)
    trades: SymbolTrades | None = None if market.trades is None else market.trades.symbols.get(symbol)
    referred = symbol in market.references
    if state is None and trades is None and halt is None and not referred:
        return None
    day = market.clock.day
    bar = None if state is None else state.bar
    fields: Section = {}
    ranges: Section = {}
    if state is not None and day is not None:
        ranges = _ranges(market, state, day)
        if bar is not None:
            fields = _quote(market, state, day, origins or {}, split_ratio, ranges)
    return {
        "symbol": symbol,
        "trading_day": None if day is None else day.day.isoformat(),
        "session": market.session,
        "market_time": market.clock.now_ms,
        "fields": fields,
        "daily_range": ranges,
        "trade_stats": {} if trades is None else _trades(market, symbol, trades),
        "halt": {} if halt is None else _halt(market, halt),
        "trade_rules": _trade_rules(market),
        "bar": None if bar is None else payload(bar),
    }


def lost_at(market: Market, symbol: str) -> Number:
    """Market time up to which data of a symbol may be missing; 0 where nothing was lost."""
    return market.trust.lost_at(symbol)


class _Teller:
    """Puts a feed's fields together: values, facts for inputs, and the rules.

    Args:
        rules: Of the feed.
        row: Its values, of this moment.
        fact: Source and times of a field that does not follow from others.
        beside: Inputs that are no fields.
    """

    def __init__(
        self,
        rules: Mapping[str, Rule],
        row: Mapping[str, Any],
        fact: Callable[[str, Rule, Any], Fact],
        beside: Mapping[str, Fact],
    ) -> None:
        self._rules, self._row, self._fact = rules, row, fact
        self._facts: dict[str, Fact] = dict(beside)

    def tell(self) -> Section:
        """The section: field -> value, rule, kind, inputs, source, times."""
        section: Section = {}
        for name, rule in self._rules.items():
            if name not in self._row:
                continue
            fact = self._of(name)
            section[name] = {
                "value": fact.value,
                "rule": rule.text,
                "kind": rule.kind,
                "inputs": {one: msgspec.to_builtins(self._of(one)) for one in rule.inputs},
                **{key: value for key, value in msgspec.to_builtins(fact).items() if key != "value"},
            }
        return section

    def _of(self, name: str) -> Fact:
        known = self._facts.get(name)
        if known is None:
            rule, value = self._rules[name], self._row[name]
            if rule.kind == COMPUTED:
                times = [fact.as_of for fact in map(self._of, rule.inputs) if fact.as_of]
                known = Fact(value, COMPUTED_SOURCE, max(times, default=None))
            else:
                known = self._fact(name, rule, value)
            self._facts[name] = known
        return known


def _quote(
    market: Market,
    state: SymbolState,
    day: TradingDay,
    origins: Mapping[str, Origin],
    split_ratio: float,
    ranges: Section,
) -> Section:
    row, bar = quote_of(market, state.symbol), state.bar
    assert row is not None
    assert bar is not None
    start = bar.start_timestamp
    kind = _kind(bar)
    wire = dict(zip(bar.__struct_fields__, bar.__struct_encode_fields__, strict=True))

    def fact(name: str, rule: Rule, value: Any) -> Fact:
        if rule.kind == WIRE:
            return Fact(value, f"wire {kind}.{wire[name]}", start)
        if rule.kind == REFERENCE:
            if name in row.pending:
                return Fact(value, "asked for, not answered yet", None)
            origin = origins.get(name, NO_ORIGIN)
            return Fact(value, origin.source, origin.as_of, origin.fetched_at)
        if name == "trade_count":
            return Fact(
                value,
                _TRADES if market.trades else "no analyzer of trades runs",
                _newest_trade(market, state.symbol),
            )
        if name == "relative_volume_at_time_days":
            return Fact(value, _history(market), market.clock.now_ms)
        if name == "official_open_price":
            seen = start if value and bar.official_open_price == value else None
            return Fact(value, f"wire {kind}.op, kept since it was first sent", seen)
        return Fact(value, f"wire {kind}.{'v' if bar.accumulated_volume is None else 'av'}", start)

    beside = _beside(market, state, day, kind, split_ratio, ranges)
    return _Teller(QUOTE_RULES, msgspec.structs.asdict(row), fact, beside).tell()


def _beside(
    market: Market, state: SymbolState, day: TradingDay, kind: str, split_ratio: float, ranges: Section
) -> dict[str, Fact]:
    """What the quote's numbers follow from beside its own fields."""
    bar, now = state.bar, market.clock.now_ms
    assert bar is not None
    start = bar.start_timestamp
    at = max(now, start)
    beside = {
        "bar_accumulated_volume": Fact(bar.accumulated_volume, f"wire {kind}.av", start),
        "volume_before": Fact(
            state.volume_before if bar.accumulated_volume is None else None,
            "kept where bars carry no av: accumulated before the newest bar",
            start,
        ),
        "market_time": Fact(now, "market clock", now),
        "regular_session_start": Fact(day.open_ms, "calendar: 09:30 New York time", None),
        "first_open": Fact(
            state.first_open, f"wire {kind}.o of the first pre-market bar", state.first_start or None
        ),
        "regular_open": Fact(
            state.regular_open, f"wire {kind}.o of the first bar from 09:30 on", state.regular_start or None
        ),
        "usual_volume": Fact(
            market.usual_volume(state.symbol, now)[0], f"{_history(market)}, same time of day", now
        ),
        "lost_at": Fact(
            lost_at(market, state.symbol), "kept: market time of the last loss of data; 0: none", now
        ),
        "split_ratio": Fact(split_ratio, "splits that took effect since the previous session", day.start_ms),
    }
    ago = price_history.ago(state.closes, state.start, bar.close, at)
    for minutes, price in zip(price_history.MINUTES, ago, strict=True):
        then = price_history.slot_end(at - minutes * 60_000)
        beside[f"price_{minutes}m_ago"] = Fact(price, "kept: closes of quarters of a minute", min(then, at))
    for name in RANGE[::2]:
        shown = ranges.get(name)
        beside[name] = (
            Fact(None, "daily ranges are not kept here", None)
            if shown is None
            else Fact(shown["value"], shown["source"], shown["as_of"])
        )
    return beside


def _ranges(market: Market, state: SymbolState, day: TradingDay) -> Section:
    if state.range is None:
        return {}
    row: dict[str, Any] = {}
    for index in range(3):
        row[RANGE[2 * index]], row[RANGE[2 * index + 1]] = session_range(state, index)
    row["uncertain_since"] = market.trust.uncertain_since(state.symbol)
    ends = (day.open_ms, day.close_ms, day.post_ms)

    def fact(name: str, _rule: Rule, value: Any) -> Fact:
        if name == "uncertain_since":
            return Fact(value, "gap ledger", market.clock.now_ms)
        until = min(state.start, ends[RANGE.index(name) // 2])
        return Fact(value, f"wire h and l of the session's bars, {day.day}", None if value is None else until)

    return _Teller(RANGE_RULES, row, fact, {}).tell()


def _trades(market: Market, symbol: str, trades: SymbolTrades) -> Section:
    row = trades.day(symbol)
    source = _TRADES

    def fact(name: str, rule: Rule, value: Any) -> Fact:
        if rule.kind == WIRE:
            return Fact(value, "wire T.sym", row["newest_timestamp"] or None)
        at = row["latest_timestamp"] if name.startswith("latest_") else row["newest_timestamp"]
        return Fact(value, source, at or None)

    high, low = trades.extremes[DAY_OUTSIDE_HOURS : DAY_OUTSIDE_HOURS + 2]
    at = row["newest_timestamp"] or None
    beside = {
        "outside_hours_high": Fact(high or None, source, at),
        "outside_hours_low": Fact(low if high else None, source, at),
    }
    return _Teller(TRADE_RULES, row, fact, beside).tell()


def _halt(market: Market, halt: HaltState) -> Section:
    known = market.symbols.get(halt.symbol)
    bar = None if known is None else known.bar
    now = market.clock.now_ms
    row: dict[str, Any] = dict(
        zip(HaltRow.__struct_fields__, values(halt, bar.close if bar else None, now), strict=True)
    )
    ended = row["resume_timestamp"] or row["halt_timestamp"]

    def fact(name: str, rule: Rule, value: Any) -> Fact:
        if rule.kind == CLOCK:
            return Fact(value, "market clock", now)
        if name == "last_price":
            if bar is None:
                return Fact(value, "no bar today", None)
            return Fact(value, f"wire {_kind(bar)}.c", bar.start_timestamp)
        if name in ("high_band", "low_band", "band_timestamp"):
            return Fact(value, "wire LULD.h and LULD.l", row["band_timestamp"])
        if name in ("status", "limit_side", "limit_basis", "limit_timestamp"):
            return Fact(value, "LULD messages, the exchange's list, quotes and bars", now)
        if name == "symbol":
            return Fact(value, "wire LULD.T or the exchange's list", None)
        if name in _EXCHANGE_ALONE:
            return Fact(value, "the exchange's list", None if value is None else ended)
        if name == "halts_today":
            return Fact(value, "LULD messages, the exchange's list", ended)
        told = halt.end_source if name in ("resume_timestamp", "resume_source") else halt.source
        if value is None or not told:
            return Fact(value, "nobody told of one", None)
        return Fact(value, _HALT_SOURCES.get(told, f"the exchange's list: {told}"), ended)

    return _Teller(HALT_RULES, row, fact, {}).tell()


#: Fields of a halt that the tape does not have.
_EXCHANGE_ALONE = frozenset(
    {
        "reason_code",
        "resume_expected_timestamp",
        "quote_resume_expected_timestamp",
        "pause_price",
        "listing_market",
    }
)
_HALT_SOURCES = {LULD: "wire LULD.i 17 and 18", "trades": "bars that prove trading"}


def _kind(bar: Aggregate) -> str:
    """The wire's name of a bar's class."""
    return "AM" if isinstance(bar, MinuteAggregate) else "A"


def _history(market: Market) -> str:
    return "recorded history" if market.volume_history else "no recorded history"


def _trade_rules(market: Market) -> dict[str, Any] | None:
    """Which rules of trade conditions are in force."""
    if market.trades is None:
        return None
    rules = market.trades.rules
    return {"source": rules.source, "dated": rules.dated}


def _newest_trade(market: Market, symbol: str) -> Number | None:
    known = None if market.trades is None else market.trades.symbols.get(symbol)
    if known is None:
        return None
    known.fold()
    return known.newest_ms or None
