"""State that analyzers of aggregates share: each symbol's newest bar, day's volume and opens.

`Market.take` keeps it, once for all analyzers, before a batch is handed to them; quotes, boards, ranges
and alerts read it. Numbers follow `docs/feeds.md`.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Mapping
from math import inf
from typing import Any, Protocol

import msgspec

from mdp.analyzers import price_history
from mdp.analyzers.trust import Trust
from mdp.events import Aggregate, Number
from mdp.feeds import is_symbol
from mdp.sessions import CLOSED, MarketClock, TradingDay


class Reference(Protocol):
    """Reference values of a symbol; 0 where unknown. Volumes and float in shares, prices in USD."""

    prev_day_open: Number
    prev_day_high: Number
    prev_day_low: Number
    prev_day_close: Number
    prev_day_volume: Number
    prev_day_vwap: Number
    avg_volume: Number
    avg_volume_days: int
    free_float: Number
    pending: tuple[str, ...]  # fields that are 0 only because their answer has not come yet


class NoReference(msgspec.Struct, frozen=True, gc=False):
    """What is known of a symbol before its reference values came."""

    prev_day_open: Number = 0
    prev_day_high: Number = 0
    prev_day_low: Number = 0
    prev_day_close: Number = 0
    prev_day_volume: Number = 0
    prev_day_vwap: Number = 0
    avg_volume: Number = 0
    avg_volume_days: int = 0
    free_float: Number = 0
    pending: tuple[str, ...] = ()


NO_REFERENCE = NoReference()


#: The place of a bar among its symbol's bars (`docs/feeds.md`, "Late bars").
NEXT = 0  # the newest now
AGAIN = 1  # the newest sent again: it replaces itself
LATE = 2  # older than the newest
IGNORED = 3  # of another day, not admitted, or a minute where seconds count
REFILL = 4  # fetched after an outage in which it was missed


#: Beyond it a price is an error of whoever sent it: the dearest stock costs under a million. USD.
MAX_PRICE = 10_000_000.0


def is_plausible(bar: Aggregate) -> bool:
    """Whether a bar's prices can be a stock's: else all of it is wrong, and it would stay the day's low."""
    return 0 < bar.low <= bar.high < MAX_PRICE and 0 < bar.close < MAX_PRICE


class _Hot:
    """What `Market.take` reads of a symbol at each bar, side by side in memory."""

    __slots__ = ("accumulated_volume", "bar", "high", "kind", "low", "open_final", "other", "start", "until")


_MAX_AHEAD = 1_000  # bars


class SymbolState(_Hot):
    """One symbol today.

    A plain class with slots, because a struct's fields cost several times as much to set. `session`,
    `high`, `low`, `range` are `DailyRange`'s to write, the rest is `Market`'s. `EnrichedQuote` and
    `DailyRange` keep it over a restart.

    Attributes:
        symbol: Its name.
        reference: A `Reference`.
        kind: Class of the bars that count: seconds win over minutes.
        start: Of the newest bar, ms.
        until: Bars that start before it are of the newest bar's session and quarter of a minute; 0 before
            the first.
        ends: End of the session of the newest bar, ms.
        closes: The last prices of half an hour (`price_history`); None before there are any.
        bar: The newest bar; None for a symbol of which only the range was restored.
        accumulated_volume: Never goes back within a trading day.
        open_final: Nothing more to learn about the open until the next reset.
        other: The last bar of all, where that is not the newest (late, or a minute's).
        session: Index of the newest bar's session; -1 before the first.
        high, low: Of that session.
        volume_before: Accumulated before the newest bar, for feeds without `av`.
        first_open, first_start: `open` and start of the trading day's first bar; 0 where after 09:30.
        regular_open, regular_start: The same of the first bar from 09:30 on; 0 before.
        official_open: `op`, once it was sent; 0 before.
        range: What else `DailyRange` knows.
    """

    __slots__ = (
        "closes",
        "ends",
        "first_open",
        "first_start",
        "official_open",
        "range",
        "reference",
        "regular_open",
        "regular_start",
        "session",
        "symbol",
        "volume_before",
    )

    def __init__(self, symbol: str, reference: Any) -> None:
        self.symbol = symbol
        self.reference: Any = reference
        self.kind: type | None = None
        self.start: Number = 0
        self.until: Number = 0
        self.bar: Aggregate | None = None
        self.accumulated_volume: Number = 0
        self.open_final = False
        self.other: Aggregate | None = None
        self.session = -1
        self.high: Number = 0
        self.low: Number = 0
        self.volume_before: Number = 0
        self.first_open: Number = 0
        self.first_start: Number = 0
        self.regular_open: Number = 0
        self.regular_start: Number = 0
        self.official_open: Number = 0
        self.range: Any = None
        self.ends: Number = 0
        self.closes: array[float] | None = None


class Market:
    """What all analyzers of a process share: the clock, the symbols, their reference values."""

    def __init__(self, *, max_symbols: int = 100_000, include_otc: bool = False) -> None:
        self.clock = MarketClock()
        self.session = CLOSED
        self.symbols: dict[str, SymbolState] = {}  # those of today, by symbol
        self.references: dict[str, Any] = {}  # symbol -> Reference
        self.max_symbols = max_symbols
        self.include_otc = include_otc
        self.revision = 0  # grows whenever a row may have changed
        self.referred = 0  # grows when reference values came
        self.losses = 0  # grows when data was lost
        self.trust = Trust(max_symbols)  # what may be missing of today's data
        #: Of symbols that have no reference values; says whether they may still come.
        self.unreferenced: Any = NO_REFERENCE
        self.trades: Any = None  # the `TradeLedger`, where an analyzer of trades runs
        self.volume_history: Any = None  # a `VolumeHistory`, where there is one
        #: Of the batch of aggregates at hand, in order: the bars that say something new about a symbol's
        #: range or place in time, with the symbol's state, the bar's place and the day's volume at that
        #: moment. All others are the next of their symbol, in the session of the one before, and within
        #: that session's range.
        self.notable: list[tuple[Aggregate, SymbolState, int, Number]] = []
        #: Bars of a time that the clock does not believe yet, in order of arrival: they may be strays, or the
        #: first of a day or after a pause. They wait, uncounted, until it does.
        self._ahead: deque[Aggregate] = deque()
        self._ahead_ms = inf  # the earliest of them
        #: Bars that count for nothing, by reason. Read by metrics.
        self.refused = dict.fromkeys(
            (
                "other_day",
                "ahead_of_clock",
                "otc",
                "not_a_symbol",
                "too_many_symbols",
                "seconds_win",
                "implausible_price",
            ),
            0,
        )

    def start_day(self) -> None:
        """A trading day began: forget yesterday's symbols."""
        self.symbols.clear()
        self.trust.clear()
        self.notable = []
        self.revision += 1

    def take(self, bars: list[Aggregate]) -> None:
        """Take a batch of bars: the one place that applies the rules of late and repeated bars.

        Fills `notable` for the analyzers.
        """
        self.notable = notable = []
        day = self.clock.day
        if day is None:  # not a single time that a market can have
            self.refused["other_day"] += len(bars)
            return
        if self._ahead_ms <= self.clock.now_ms + self.clock.LEAP_MS:
            bars = self._due() + bars
        get = self.symbols.get
        for bar in bars:
            high, low = bar.high, bar.low
            if not (0 < low <= high < MAX_PRICE and 0 < bar.close < MAX_PRICE):  # as `is_plausible`
                self.refused["implausible_price"] += 1
                continue
            state = get(bar.symbol)
            start = bar.start_timestamp
            if (
                state is not None
                and (start < state.until or self._turn(state, bar))
                and start > state.start
                and bar.__class__ is state.kind
            ):
                state.start = start
                state.bar = bar
                volume = bar.accumulated_volume
                if volume is None:
                    state.volume_before = state.accumulated_volume
                    state.accumulated_volume += max(0, bar.volume or 0)
                elif volume > state.accumulated_volume:
                    state.accumulated_volume = volume
                if not state.open_final:
                    self._learn_open(state, bar, day)
                if state.other is not None:
                    state.other = None
                if high > state.high or low < state.low:
                    notable.append((bar, state, NEXT, state.accumulated_volume))
            else:
                state, place = self._unusual(bar, state, day)
                if state is not None and place != IGNORED:
                    notable.append((bar, state, place, state.accumulated_volume))
        self._bound(day)
        self.revision += 1

    def _due(self) -> list[Aggregate]:
        """The bars that the clock has come to believe since they came."""
        latest = self.clock.now_ms + self.clock.LEAP_MS
        due = [bar for bar in self._ahead if bar.start_timestamp <= latest]
        self._ahead = deque(bar for bar in self._ahead if bar.start_timestamp > latest)
        self._ahead_ms = min((bar.start_timestamp for bar in self._ahead), default=inf)
        return due

    def _wait(self, bar: Aggregate) -> None:
        if len(self._ahead) >= _MAX_AHEAD:
            self._ahead.popleft()
            self.refused["ahead_of_clock"] += 1
        self._ahead.append(bar)
        self._ahead_ms = min(self._ahead_ms, bar.start_timestamp)

    def refill(self, bars: list[Aggregate]) -> None:
        """Take bars that were missed and fetched afterwards. Fills `notable` for `Analyzer.on_refill`.

        They widen ranges and add to volume as late bars do; where nothing newer has come since, they are
        also the newest, but nothing that they did is news.

        Args:
            bars: Of one symbol or many, each symbol's in order of time, from the start of the outage on.
                Without `accumulated_volume`, the volume of those is added that begin after the newest bar's
                end.
        """
        self.notable = notable = []
        day = self.clock.day
        if day is None:
            self.refused["other_day"] += len(bars)
            return
        for bar in bars:
            start = bar.start_timestamp
            if not day.start_ms <= start < day.idle_ms:
                self.refused["other_day"] += 1
                continue
            if not is_plausible(bar):
                self.refused["implausible_price"] += 1
                continue
            state = self.symbols.get(bar.symbol) or self._admit(bar)
            if state is None:
                continue
            newest = state.bar
            volume = bar.accumulated_volume
            if volume is None:
                fresh = newest is None or start >= (newest.end_timestamp or newest.start_timestamp + 1)
                volume = state.accumulated_volume + (bar.volume or 0 if fresh else 0)
            if start > state.start or newest is None:
                self._write_down(state, start)
                state.volume_before = state.accumulated_volume
                state.start, state.bar, state.other = start, bar, None
                if state.kind is None:
                    state.kind = type(bar)
            self._learn_open(state, bar, day)
            if volume > state.accumulated_volume:
                state.accumulated_volume = volume
            state.until = 0
            notable.append((bar, state, REFILL, state.accumulated_volume))
        self._bound(day)
        self.revision += 1

    def _bound(self, day: TradingDay) -> None:
        """Say up to when bars of the notable symbols are ordinary."""
        for _, state, _, _ in self.notable:
            if not state.until:
                state.ends = day.session_end(state.start)
                state.until = min(state.ends, price_history.slot_end(state.start))

    def _turn(self, state: SymbolState, bar: Aggregate) -> bool:
        """Whether a bar beyond `until` is its symbol's next in the same session; then `until` is moved."""
        start = bar.start_timestamp
        latest = self.clock.now_ms + self.clock.LEAP_MS
        if not state.until or start >= state.ends or start > latest or bar.__class__ is not state.kind:
            return False
        self._write_down(state, start)
        state.until = min(state.ends, price_history.slot_end(start))
        return True

    def _write_down(self, state: SymbolState, later: Number) -> None:
        """A bar that starts later than the newest comes: keep the latter's close."""
        if state.bar is not None:
            state.closes = price_history.write_down(state.closes, state.start, state.bar.close, later)

    def _unusual(
        self, bar: Aggregate, state: SymbolState | None, day: TradingDay
    ) -> tuple[SymbolState | None, int]:
        """Take a bar that is not simply its symbol's next; returns state and place."""
        start = bar.start_timestamp
        if start > self.clock.now_ms + self.clock.LEAP_MS:
            self._wait(bar)
            return None, IGNORED
        if not day.start_ms <= start < day.idle_ms:  # none trades on the dates up to the next session
            self.refused["other_day"] += 1
            return None, IGNORED
        if state is None:
            state = self._admit(bar)
            if state is None:
                return None, IGNORED
        volume = bar.accumulated_volume
        if bar.__class__ is not state.kind and (state.kind is None or bar.is_second):
            # The symbol's first bar, or its first second bar: from now on seconds count, whatever the
            # newest minute was.
            state.kind = type(bar)
            place = NEXT
        elif bar.__class__ is not state.kind:
            self.refused["seconds_win"] += 1
            state.other = bar
            return state, IGNORED
        elif start == state.start:
            place = AGAIN
        else:
            place = LATE if start < state.start else NEXT
        if place == LATE:
            state.other = bar
            if volume is None:
                state.volume_before += max(0, bar.volume or 0)
                volume = state.accumulated_volume + max(0, bar.volume or 0)
        else:
            if place == NEXT:
                self._write_down(state, start)
                state.start = start
                state.volume_before = state.accumulated_volume
            if volume is None:  # sent again, its own volume is in the sum already
                volume = state.volume_before + (bar.volume or 0)
            state.bar = bar
            state.other = None
            # `high` and `low` may be of another session now, or shrink: all further bars of this batch
            # are notable, lest they are compared with what is no longer true.
            state.until = 0
            self._learn_open(state, bar, day)
        if volume > state.accumulated_volume:
            state.accumulated_volume = volume
        return state, place

    def _learn_open(self, state: SymbolState, bar: Aggregate, day: TradingDay) -> None:
        start = bar.start_timestamp
        opened = bar.open if bar.open is not None else bar.close
        if start < day.open_ms:
            if not state.first_start or start == state.first_start:
                state.first_open, state.first_start = opened, start
            # Until 09:30 there is nothing more to learn; from then on such a bar is one that came late.
            state.open_final = self.clock.now_ms < day.open_ms
            return
        if not state.regular_start or start == state.regular_start:
            state.regular_open, state.regular_start = opened, start
        if bar.official_open_price:
            state.official_open = bar.official_open_price
            state.open_final = True  # the provider sends the same one all day

    def start_session(self) -> None:
        """A session began. At 09:30 there is a regular open to learn; at others nothing changes by it."""
        for state in self.symbols.values():
            state.open_final = False
            state.until = 0  # when sessions end may have been learned since (an early close)
        self.revision += 1

    def _admit(self, bar: Aggregate) -> SymbolState | None:
        """The state of a symbol seen first today, or None with the reason counted."""
        if bar.otc and not self.include_otc:
            self.refused["otc"] += 1
        elif not is_symbol(bar.symbol):
            self.refused["not_a_symbol"] += 1
        elif len(self.symbols) >= self.max_symbols:
            self.refused["too_many_symbols"] += 1
        else:
            return self.state_of(bar.symbol)
        return None

    def state_of(self, symbol: str) -> SymbolState:
        """The state of a symbol, made where there is none."""
        state = self.symbols.get(symbol)
        if state is None:
            state = SymbolState(symbol, self.references.get(symbol, self.unreferenced))
            self.symbols[symbol] = state
        return state

    @property
    def is_open_set(self) -> bool:
        """Whether opens are those of the regular session: from 09:30 on, by the market clock."""
        day = self.clock.day
        return day is not None and self.clock.now_ms >= day.open_ms

    def open_of(self, state: SymbolState) -> Number:
        """The price that change since open refers to; 0 while there is none.

        Before 09:30 the first pre-market print of the trading day; from then on the official open once
        it was sent, else the open of the first bar from 09:30 on.
        """
        if self.is_open_set:
            return state.official_open or state.regular_open
        return state.first_open

    def trade_count(self, symbol: str) -> int:
        """Trades of the day whose shares count; 0 where no analyzer of trades runs."""
        return 0 if self.trades is None else self.trades.trade_count(symbol)

    def usual_volume(self, symbol: str, now_ms: Number) -> tuple[float, int]:
        """(mean volume of earlier days up to this time of day, how many days); (0, 0) where unknown."""
        history, day = self.volume_history, self.clock.day
        return (
            (0, 0) if history is None or day is None else history.expected_at(symbol, now_ms - day.start_ms)
        )

    def lose(self, symbols: Iterable[str] | None = None, *, since_ms: float | None = None) -> int:
        """Note that data was lost at this moment of the market; returns the loss's number (`Trust`).

        Args:
            symbols: Whose; None: it may have been any symbol's.
            since_ms: Market time from which on data may be missing; None: now.
        """
        self.losses += 1
        self.revision += 1
        return self.trust.lose(self.clock.now_ms, symbols, since_ms)

    def is_stale(self, symbol: str, start: Number) -> bool:
        """Whether something may have been lost of a symbol since its newest bar, which starts at `start`."""
        trust = self.trust
        return start <= trust.newest_ms and trust.is_stale(symbol, start)

    def raise_volumes(self, volumes: Mapping[str, Number]) -> list[str]:
        """Take the day's volumes as the provider counts them; returns the symbols that they changed.

        For symbols of which something is missing since their newest bar: a live one brings its own.
        """
        changed = []
        for symbol, volume in volumes.items():
            state = self.symbols.get(symbol)
            if state is not None and volume > state.accumulated_volume and self.is_stale(symbol, state.start):
                state.accumulated_volume = volume
                changed.append(symbol)
        self.revision += bool(changed)
        return changed

    def refer(self, rows: Any) -> None:
        """Take reference values: a mapping from symbol to `Reference`."""
        self.references.update(rows)
        symbols = self.symbols
        for symbol, row in rows.items():
            state = symbols.get(symbol)
            if state is not None:
                state.reference = row
        self.referred += 1
        self.revision += 1
