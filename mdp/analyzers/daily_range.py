"""Daily range: highs and lows of each session, and an alert for each new one.

Feeds `daily_range:{S}`, `daily_range_hod_alert`, `daily_range_lod_alert`. Rules (`docs/feeds.md`):
no alert for a symbol's first print of a session; a late bar extends a range silently; the
newest bar sent again replaces itself, and only so can a range shrink. Every change of a range is
journaled before an alert leaves, so that after a kill nothing is announced twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any, ClassVar

import msgspec

from mdp.analyzers.base import Analyzer, EventBatch, Output
from mdp.analyzers.changes import Changes
from mdp.analyzers.rows import QuoteRow, quote_of, values
from mdp.analyzers.state import AGAIN, NEXT, Market, SymbolState
from mdp.events import AGGREGATES, Aggregate, MinuteAggregate, Number
from mdp.feeds import DAILY_RANGE, HOD_ALERT, LOD_ALERT
from mdp.sessions import AFTER_HOURS, PRE_MARKET, REGULAR, TradingDay

_SESSIONS = (PRE_MARKET, REGULAR, AFTER_HOURS)
_HIGH, _LOW = "high", "low"
_DUMP_STEP = 1_000
_NEVER = float("inf")
_SHOWN = ("pre-market", "regular session")


class RangeState(msgspec.Struct, gc=False):
    """What is known of a symbol's ranges beside `SymbolState.session`, `high` and `low`."""

    #: Of that session without the bar that extended it last, and that bar's start: what its correction
    #: needs. Infinite where that bar was the session's first print.
    high_before: Number
    low_before: Number
    extended: Number
    extremes: list[Number | None]  # [high, low] of each session in order; those of the present one may be old
    revision: int = 0  # grows with changes of other sessions' extremes


def session_range(owner: SymbolState, index: int) -> tuple[Number | None, Number | None]:
    """High and low of a session; None before its first print."""
    if index == owner.session:
        return owner.high, owner.low
    extremes = owner.range.extremes
    return extremes[2 * index], extremes[2 * index + 1]


class Alert(QuoteRow, gc=False, kw_only=True):
    """A new session high or low, with the enriched quote at that moment."""

    session: str
    direction: str  # "high" or "low"
    price: Number
    previous: Number  # the extreme it broke
    timestamp: float  # of the bar, in epoch SECONDS: existing clients expect it so
    note: str  # which earlier session's extreme it broke, too; empty where none
    uncertain_since: Number | None  # ms: a more extreme one since then may have been missed


class DailyRange(Analyzer):
    """See the module. Keeps `session`, `high`, `low` and `range` of `SymbolState`."""

    name: ClassVar[str] = "daily_range"
    queues: ClassVar[tuple[str, ...]] = (AGGREGATES,)
    flush_on_tick: ClassVar[bool] = True

    def __init__(self, market: Market, out: Output) -> None:
        super().__init__(market, out)
        self._bounds: tuple[tuple[int, int], ...] = ()  # of the day's sessions, ms
        self._day: TradingDay | None = None
        self._changed: dict[str, SymbolState] = {}  # in this batch
        self._volume: Number = 0  # the day's volume as of the bar at hand
        self._changes = Changes(market, out.interest(DAILY_RANGE))
        out.provide(DAILY_RANGE, self.payload, lambda: list(market.symbols))

    def process(self, batch: EventBatch) -> None:
        market = self.market
        day = market.clock.day
        if day is None:
            return
        if day is not self._day:
            self._set_day(day)
        for bar, state, place, volume in market.notable:
            self._volume = volume
            at = self._session_index(bar.start_timestamp)
            if at < 0:
                continue
            if place == NEXT and at == state.session:
                if bar.high > state.high or bar.low < state.low:
                    self._extend(state, bar)
            else:
                self._unusual(state, bar, place, at)
        self._journal()
        self._changes.note(batch)

    def on_refill(self) -> None:
        market = self.market
        day = market.clock.day
        if day is None:
            return
        if day is not self._day:
            self._set_day(day)
        for bar, state, _, _ in market.notable:
            at = self._session_index(bar.start_timestamp)
            if at >= 0:
                self._refill(state, bar, at)
        self._journal()
        self._changes.touch(state.symbol for _, state, _, _ in market.notable)

    def on_repaired(self, symbols: Collection[str]) -> None:
        self._changes.touch(symbols)

    def _refill(self, state: SymbolState, bar: Aggregate, at: int) -> None:
        """A bar that was missed, perhaps the first of its session that we know."""
        if state.range is None:
            state.range = RangeState(-_NEVER, _NEVER, bar.start_timestamp, [None] * 6)
            state.session, state.high, state.low = at, bar.high, bar.low
            self._changed[state.symbol] = state
            return
        if at > state.session:
            extremes = state.range.extremes
            extremes[2 * state.session], extremes[2 * state.session + 1] = state.high, state.low
            high, low = extremes[2 * at], extremes[2 * at + 1]
            state.session = at
            state.high = bar.high if high is None else high
            state.low = bar.low if low is None else low
            self._changed[state.symbol] = state
        self._late(state, bar, at)
        # A live bar that is sent again may shrink a range; what was fetched is final.
        state.range.extended = 0

    def _journal(self) -> None:
        if self._changed:
            self.out.journal(self.name, [_dump(state) for state in self._changed.values()])
            self._changed.clear()

    def flush(self) -> Iterator[None]:
        for part in self._changes.take():
            for symbol in part:
                value = self.payload(symbol)
                if value is not None:
                    self.out.publish(DAILY_RANGE, symbol, value)
            yield

    def payload(self, symbol: str) -> dict[str, Any] | None:
        """The enriched quote with the six extremes, null where a session has none.

        And since when they may be wrong because data was lost, null where they are not.
        """
        state = self.market.symbols.get(symbol)
        row = quote_of(self.market, symbol)
        if state is None or state.range is None or row is None:
            return None
        value = msgspec.structs.asdict(row)
        value["pre_market_high"], value["pre_market_low"] = session_range(state, 0)
        value["regular_session_high"], value["regular_session_low"] = session_range(state, 1)
        value["after_hours_high"], value["after_hours_low"] = session_range(state, 2)
        value["uncertain_since"] = self.market.trust.uncertain_since(symbol)
        return value

    def _session_index(self, ms: Number) -> int:
        for index, (lo, hi) in enumerate(self._bounds):
            if lo <= ms < hi:
                return index
        return -1

    def _set_day(self, day: TradingDay) -> None:
        self._day = day
        self._bounds = (
            (day.start_ms, day.open_ms),
            (day.open_ms, day.close_ms),
            (day.close_ms, day.post_ms),
        )

    def _extend(self, state: SymbolState, bar: Aggregate) -> None:
        """The newest bar breaks its session's range: note it, then say so."""
        high, low, known = state.high, state.low, state.range
        known.high_before, known.low_before, known.extended = high, low, bar.start_timestamp
        self._changed[state.symbol] = state
        if bar.high > high:
            state.high = bar.high
            self._alert(state, bar, _HIGH, bar.high, high)
        if bar.low < low:
            state.low = bar.low
            self._alert(state, bar, _LOW, bar.low, low)

    def _unusual(self, state: SymbolState, bar: Aggregate, place: int, at: int) -> None:
        """A bar that is not simply the next of its session."""
        if state.range is None:
            state.range = RangeState(-_NEVER, _NEVER, bar.start_timestamp, [None] * 6)
            state.session, state.high, state.low = at, bar.high, bar.low
            self._changed[state.symbol] = state
        elif place == NEXT:
            self._enter(state, bar, at)
        elif place == AGAIN and at == state.session:
            self._replace(state, bar)
        else:
            self._late(state, bar, at)

    def _enter(self, state: SymbolState, bar: Aggregate, at: int) -> None:
        """The symbol's newest bar is of another session than the one before."""
        known = state.range
        extremes = known.extremes
        extremes[2 * state.session], extremes[2 * state.session + 1] = state.high, state.low
        high, low = extremes[2 * at], extremes[2 * at + 1]
        state.session = at
        self._changed[state.symbol] = state
        if high is None or low is None:  # its first print of the session: no alert
            state.high, state.low = bar.high, bar.low
            known.high_before, known.low_before, known.extended = -_NEVER, _NEVER, bar.start_timestamp
            return
        # Known already, from a late bar or a time that the market had not reached.
        state.high, state.low = high, low
        if bar.high > high or bar.low < low:
            self._extend(state, bar)

    def _replace(self, state: SymbolState, bar: Aggregate) -> None:
        """The newest bar sent again. Only here can a range shrink."""
        known = state.range
        had_high, had_low = state.high, state.low
        if known.extended != bar.start_timestamp:  # its first version lay within the range
            if bar.high > had_high or bar.low < had_low:
                self._extend(state, bar)
            return
        high = max(known.high_before, bar.high)
        low = min(known.low_before, bar.low)
        if high == had_high and low == had_low:
            return
        self._changed[state.symbol] = state
        state.high, state.low = high, low
        if known.high_before == -_NEVER:  # still the first print of the session
            return
        if high > had_high:
            self._alert(state, bar, _HIGH, high, had_high)
        if low < had_low:
            self._alert(state, bar, _LOW, low, had_low)

    def _late(self, state: SymbolState, bar: Aggregate, at: int) -> None:
        """An older bar extends its session's range and says nothing."""
        known = state.range
        had_high, had_low = session_range(state, at)
        if at == state.session:
            known.high_before = max(known.high_before, bar.high)
            known.low_before = min(known.low_before, bar.low)
        high = bar.high if had_high is None else max(had_high, bar.high)
        low = bar.low if had_low is None else min(had_low, bar.low)
        if high == had_high and low == had_low:
            return
        self._changed[state.symbol] = state
        if at == state.session:
            state.high, state.low = high, low
        else:
            known.extremes[2 * at], known.extremes[2 * at + 1] = high, low
            known.revision += 1

    def _alert(self, state: SymbolState, bar: Aggregate, side: str, price: Number, previous: Number) -> None:
        alert = Alert(
            *values(self.market, state, bar, self._volume),  # the batch may hold newer bars already
            session=_SESSIONS[state.session],
            direction=side,
            price=price,
            previous=previous,
            timestamp=bar.start_timestamp / 1000,
            note=_note(state, side, price),
            uncertain_since=self.market.trust.uncertain_since(state.symbol),
        )
        self.out.emit(HOD_ALERT if side == _HIGH else LOD_ALERT, "", alert, journal=True)

    def on_day(self, day: TradingDay) -> None:
        self._set_day(day)

    def dump(self) -> Iterator[Any]:
        states = [state for state in self.market.symbols.values() if state.range is not None]
        for at in range(0, len(states), _DUMP_STEP):
            yield [_dump(state) for state in states[at : at + _DUMP_STEP]]

    def hydrate(self, records: Iterable[Any]) -> None:
        for record in records:
            self.replay(record)

    def replay(self, record: Any) -> None:
        for symbol, is_second, start, session, high, low, known in record:
            state = self.market.state_of(symbol)
            state.kind = Aggregate if is_second else MinuteAggregate
            state.start = max(state.start, start)
            state.session, state.high, state.low = session, high, low
            state.range = RangeState(*known)


def _note(state: SymbolState, side: str, price: Number) -> str:
    """Which earlier session's extreme the price broke: the nearest one; empty where none."""
    extremes = state.range.extremes
    for index in range(state.session - 1, -1, -1):
        extreme = extremes[2 * index + (side == _LOW)]
        if extreme is not None and (price > extreme if side == _HIGH else price < extreme):
            return f"Broke {_SHOWN[index]} {side} of ${extreme:.2f}"
    return ""


def _dump(state: SymbolState) -> list[Any]:
    """What `replay` takes: with the newest bar's kind and start, so that older ones stay late."""
    known = msgspec.structs.astuple(state.range)
    return [state.symbol, state.kind is Aggregate, state.start, state.session, state.high, state.low, known]
