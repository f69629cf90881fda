"""Daily range: highs and lows of each session, and an alert for each new one.

Feeds `daily_range:{S}`, `daily_range_hod_alert`, `daily_range_lod_alert`. Rules (`design.md`
section 5): no alert for a symbol's first print of a session; a late bar extends a range silently; the
newest bar sent again replaces itself, and only so can a range shrink. Every change of a range is
journaled before an alert leaves, so that after a kill nothing is announced twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import msgspec

from mdp.analyzers.base import Analyzer, EventBatch, Output
from mdp.analyzers.state import NO_REFERENCE, Market, QuoteRow, SymbolState
from mdp.events import AGGREGATES, Aggregate, MinuteAggregate, Number
from mdp.feeds import DAILY_RANGE, HOD_ALERT, LOD_ALERT
from mdp.sessions import AFTER_HOURS, PRE_MARKET, REGULAR, TradingDay

_SESSIONS = (PRE_MARKET, REGULAR, AFTER_HOURS)
_HIGH, _LOW = "high", "low"
_DUMP_STEP = 1_000
_NEVER = float("inf")
_SHOWN = ("pre-market", "regular session")


class RangeState(msgspec.Struct, gc=False):
    """One symbol's ranges. `extremes` is [high, low] of each session in order, None before its first print."""

    symbol: str
    kind: type
    session: int  # index of the newest bar's session
    start: Number  # of the newest bar, ms
    high: Number  # of that session
    low: Number
    high_before: Number  # of that session without the newest bar; -inf where it is the first
    low_before: Number
    extremes: list[Number | None]  # of the sessions that are not `session`; its own entries may be old

    def session_range(self, index: int) -> tuple[Number | None, Number | None]:
        """High and low of a session."""
        if index == self.session:
            return self.high, self.low
        return self.extremes[2 * index], self.extremes[2 * index + 1]


class Alert(QuoteRow, gc=False, kw_only=True):
    """A new session high or low, with the enriched quote at that moment."""

    session: str
    direction: str  # "high" or "low"
    price: Number
    previous: Number  # the extreme it broke
    timestamp: float  # of the bar, in epoch SECONDS: existing clients expect it so
    note: str  # which earlier session's extreme it broke, too; empty where none


class DailyRange(Analyzer):
    """See the module. Keeps `SymbolState.range`."""

    name: ClassVar[str] = "daily_range"
    queues: ClassVar[tuple[str, ...]] = (AGGREGATES,)

    def __init__(self, market: Market, out: Output) -> None:
        super().__init__(market, out)
        self._bounds: tuple[tuple[int, int], ...] = ()  # of the day's sessions, ms
        self._day: TradingDay | None = None
        self._changed: dict[str, RangeState] = {}  # in this batch
        self._interest = out.interest(DAILY_RANGE)
        out.provide(DAILY_RANGE, self.payload)

    def process(self, batch: EventBatch) -> None:
        day = self.market.clock.day
        if day is None:
            return
        if day is not self._day:
            self._set_day(day)
        # The session nearly all bars of a batch are in; others go the long way.
        at = self._session_index(batch.events[-1].start_timestamp)
        lo, hi = self._bounds[at] if at >= 0 else (0, 0)
        for bar, owner in zip(batch.events, self.market.states, strict=True):
            if owner is None:
                continue
            state = owner.range
            start = bar.start_timestamp
            if (
                state is not None
                and start > state.start
                and lo <= start < hi
                and state.session == at
                and bar.__class__ is state.kind
            ):
                state.start = start
                high, low = state.high, state.low
                state.high_before = high
                state.low_before = low
                if bar.high > high or bar.low < low:
                    self._extend(owner, state, bar)
            else:
                self._unusual(owner, bar)
        if self._changed:
            self._write_changes()
        interest = self._interest
        if interest.all or interest.symbols:
            for symbol in interest.wanted(batch.symbols):
                value = self.payload(symbol)
                if value is not None:
                    self.out.publish(DAILY_RANGE, symbol, value)

    def payload(self, symbol: str) -> dict[str, Any] | None:
        """The enriched quote with the six extremes, null where a session has none."""
        owner = self.market.symbols.get(symbol)
        row = self.market.row(symbol)
        if owner is None or owner.range is None or row is None:
            return None
        state = owner.range
        value = msgspec.structs.asdict(row)
        value["pre_market_high"], value["pre_market_low"] = state.session_range(0)
        value["regular_session_high"], value["regular_session_low"] = state.session_range(1)
        value["after_hours_high"], value["after_hours_low"] = state.session_range(2)
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

    def _extend(self, owner: SymbolState, state: RangeState, bar: Aggregate) -> None:
        """The newest bar breaks its session's range: note it, then say so."""
        previous_high, previous_low = state.high, state.low
        self._changed[state.symbol] = state
        if bar.high > previous_high:
            state.high = bar.high
            self._alert(owner, state, bar, _HIGH, bar.high, previous_high)
        if bar.low < previous_low:
            state.low = bar.low
            self._alert(owner, state, bar, _LOW, bar.low, previous_low)

    def _unusual(self, owner: SymbolState, bar: Aggregate) -> None:
        at = self._session_index(bar.start_timestamp)
        state: RangeState | None = owner.range
        if at < 0:
            if state is not None:
                self._after_sessions(state, bar)
            return
        if state is None:
            owner.range = state = _new_state(bar, at)
            self._changed[bar.symbol] = state
            return
        start = bar.start_timestamp
        if bar.__class__ is not state.kind:
            if not bar.is_second:
                return
            # The first second bar: newer than the minute that was the newest, whatever it says.
            state.kind = type(bar)
            self._newest(owner, state, bar, at)
            return
        ahead = state.start > self.market.clock.now_ms + self.market.clock.LEAP_MS
        if start > state.start or (ahead and start < state.start):
            self._newest(owner, state, bar, at)
        elif start == state.start:
            self._replace(owner, state, bar)
        else:
            self._late(state, bar, at)

    def _after_sessions(self, state: RangeState, bar: Aggregate) -> None:
        """A bar past 20:00 has no range, but what is older than it is late from now on."""
        day = self._day
        assert day is not None
        if day.post_ms <= bar.start_timestamp < day.end_ms and (bar.is_second or bar.__class__ is state.kind):
            state.kind = bar.__class__
            state.start = max(state.start, bar.start_timestamp)

    def _newest(self, owner: SymbolState, state: RangeState, bar: Aggregate, at: int) -> None:
        if at != state.session:
            self._enter(owner, state, bar, at)
            return
        state.start = bar.start_timestamp
        state.high_before, state.low_before = state.high, state.low
        if bar.high > state.high or bar.low < state.low:
            self._extend(owner, state, bar)

    def _enter(self, owner: SymbolState, state: RangeState, bar: Aggregate, at: int) -> None:
        """The symbol's newest bar is of another session than the one before."""
        extremes = state.extremes
        extremes[2 * state.session], extremes[2 * state.session + 1] = state.high, state.low
        high, low = extremes[2 * at], extremes[2 * at + 1]
        state.session, state.start = at, bar.start_timestamp
        self._changed[state.symbol] = state
        if high is None or low is None:  # its first print of the session: no alert
            state.high, state.low = bar.high, bar.low
            state.high_before, state.low_before = -_NEVER, _NEVER
            return
        # Known already, from a late bar or a time that the market had not reached.
        state.high, state.low = high, low
        state.high_before, state.low_before = high, low
        if bar.high > high or bar.low < low:
            self._extend(owner, state, bar)

    def _replace(self, owner: SymbolState, state: RangeState, bar: Aggregate) -> None:
        high = max(state.high_before, bar.high)
        low = min(state.low_before, bar.low)
        previous_high, previous_low = state.high, state.low
        if high == previous_high and low == previous_low:
            return
        self._changed[state.symbol] = state
        state.high, state.low = high, low
        if state.high_before == -_NEVER:  # still the first print of the session
            return
        if high > previous_high:
            self._alert(owner, state, bar, _HIGH, high, previous_high)
        if low < previous_low:
            self._alert(owner, state, bar, _LOW, low, previous_low)

    def _late(self, state: RangeState, bar: Aggregate, at: int) -> None:
        """An older bar extends its session's range and says nothing."""
        if at == state.session:
            high, low = max(state.high, bar.high), min(state.low, bar.low)
            state.high_before = max(state.high_before, bar.high)
            state.low_before = min(state.low_before, bar.low)
            if high != state.high or low != state.low:
                state.high, state.low = high, low
                self._changed[state.symbol] = state
            return
        known_high, known_low = state.extremes[2 * at], state.extremes[2 * at + 1]
        high = bar.high if known_high is None else max(known_high, bar.high)
        low = bar.low if known_low is None else min(known_low, bar.low)
        if high != known_high or low != known_low:
            state.extremes[2 * at], state.extremes[2 * at + 1] = high, low
            self._changed[state.symbol] = state

    def _alert(
        self,
        owner: SymbolState,
        state: RangeState,
        bar: Aggregate,
        side: str,
        price: Number,
        previous: Number,
    ) -> None:
        alert = Alert(
            *self.market.values(owner, bar),  # the batch may hold newer bars of the symbol already
            session=_SESSIONS[state.session],
            direction=side,
            price=price,
            previous=previous,
            timestamp=bar.start_timestamp / 1000,
            note=self._note(state, side, price),
        )
        self.out.emit(HOD_ALERT if side == _HIGH else LOD_ALERT, "", alert, journal=True)

    @staticmethod
    def _note(state: RangeState, side: str, price: Number) -> str:
        """Which earlier session's extreme the price broke: the nearest one; empty where none."""
        for index in range(state.session - 1, -1, -1):
            extreme = state.extremes[2 * index + (side == _LOW)]
            if extreme is not None and (price > extreme if side == _HIGH else price < extreme):
                return f"Broke {_SHOWN[index]} {side} of ${extreme:.2f}"
        return ""

    def _write_changes(self) -> None:
        self.out.journal(self.name, [_dump(state) for state in self._changed.values()])
        self._changed.clear()

    def on_day(self, day: TradingDay) -> None:
        self._set_day(day)

    def dump(self) -> Iterator[Any]:
        states = [owner.range for owner in self.market.symbols.values() if owner.range is not None]
        for at in range(0, len(states), _DUMP_STEP):
            yield [_dump(state) for state in states[at : at + _DUMP_STEP]]

    def hydrate(self, records: Iterable[Any]) -> None:
        for record in records:
            self.replay(record)

    def replay(self, record: Any) -> None:
        market = self.market
        for fields in record:
            state = _load(fields)
            owner = market.symbols.get(state.symbol)
            if owner is None:
                reference = market.references.get(state.symbol, NO_REFERENCE)
                owner = market.symbols[state.symbol] = SymbolState(state.symbol, reference)
            owner.range = state


def _new_state(bar: Aggregate, at: int) -> RangeState:
    return RangeState(
        symbol=bar.symbol,
        kind=type(bar),
        session=at,
        start=bar.start_timestamp,
        high=bar.high,
        low=bar.low,
        high_before=-_NEVER,
        low_before=_NEVER,
        extremes=[None] * 6,
    )


def _dump(state: RangeState) -> list[Any]:
    return [
        state.symbol,
        state.kind is Aggregate,
        state.session,
        state.start,
        state.high,
        state.low,
        state.high_before,
        state.low_before,
        list(state.extremes),
    ]


def _load(fields: list[Any]) -> RangeState:
    symbol, is_second, *rest = fields
    return RangeState(symbol, Aggregate if is_second else MinuteAggregate, *rest)
