"""State that analyzers of aggregates share: each symbol's newest bar, day's volume and opens.

`EnrichedQuote` keeps it; boards, ranges and alerts read it. Numbers follow `design.md` section 5.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

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


NO_REFERENCE = NoReference()


class SymbolState(msgspec.Struct, gc=False):
    """One symbol today. `gc=False`: it refers to scalars and structs that cannot refer back.

    Each analyzer writes its own fields only: `range` is `DailyRange`'s, the rest `EnrichedQuote`'s.
    """

    symbol: str
    reference: Any  # Reference
    bar: Aggregate | None = None  # the newest bar; None until EnrichedQuote took one
    other: Aggregate | None = None  # the last bar of all, where that is not the newest (late, or a minute's)
    kind: type | None = None  # class of the bars that feed it: seconds win over minutes
    start: Number = 0  # of the newest bar, ms
    accumulated_volume: Number = 0  # lowered by a correction of the newest bar only
    volume_before: Number = 0  # accumulated before the newest bar, for feeds without `av`
    first_open: Number = 0  # `open` of the trading day's first bar; 0 where that began after 09:30
    first_start: Number = 0  # start of that bar, ms
    regular_open: Number = 0  # `open` of the first bar from 09:30 on; 0 before
    regular_start: Number = 0  # start of that bar, ms
    official_open: Number = 0  # `op`, once it was sent; 0 before
    open_final: bool = False  # nothing more to learn about the open until the next reset
    range: Any = None  # RangeState


class QuoteRow(msgspec.Struct, gc=False):
    """The enriched quote (`design.md` section 5). Prices in USD, volumes in shares, times in ms."""

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


class BoardRow(QuoteRow, gc=False, kw_only=True):
    """A leaderboard's row."""

    rank: int


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
        #: The states of the batch of aggregates at hand, one for each bar; None where the bar is not admitted.
        self.states: list[SymbolState | None] = []
        #: Bars of symbols that were not admitted, by reason. Read by metrics.
        self.refused = {"other_day": 0, "otc": 0, "not_a_symbol": 0, "too_many_symbols": 0}

    @property
    def day(self) -> TradingDay | None:
        """The trading day of the market clock; None before the first event."""
        return self.clock.day

    def start_day(self) -> None:
        """Forget yesterday's symbols."""
        self.symbols.clear()
        self.states = []
        self.revision += 1

    def resolve(self, bars: list[Aggregate]) -> None:
        """Look up the symbols of a batch once, for all analyzers: fills `states`."""
        get = self.symbols.get
        states = [get(bar.symbol) for bar in bars]
        if None in states:
            for at, state in enumerate(states):
                if state is None:
                    states[at] = get(bars[at].symbol) or self._admit(bars[at])
        self.states = states

    def _admit(self, bar: Aggregate) -> SymbolState | None:
        """The state of a symbol seen first today, or None with the reason counted."""
        day = self.clock.day
        if day is None or not day.start_ms <= bar.start_timestamp < day.end_ms:
            self.refused["other_day"] += 1
        elif bar.otc and not self.include_otc:
            self.refused["otc"] += 1
        elif not is_symbol(bar.symbol):
            self.refused["not_a_symbol"] += 1
        elif len(self.symbols) >= self.max_symbols:
            self.refused["too_many_symbols"] += 1
        else:
            state = SymbolState(bar.symbol, self.references.get(bar.symbol, NO_REFERENCE))
            self.symbols[bar.symbol] = state
            return state
        return None

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

    def row(self, symbol: str) -> QuoteRow | None:
        """The enriched quote of a symbol now; None for one without a bar today."""
        state = self.symbols.get(symbol)
        return None if state is None or state.bar is None else QuoteRow(*self.values(state))

    def values(self, state: SymbolState, bar: Aggregate | None = None) -> tuple[Any, ...]:
        """The fields of `QuoteRow` in their order.

        Args:
            state: Of a symbol that has a bar.
            bar: As of which of its bars; None: the newest.
        """
        volume = state.accumulated_volume
        if bar is None:
            bar = state.bar
            assert bar is not None
        elif bar is not state.bar and bar.accumulated_volume is not None:
            volume = bar.accumulated_volume
        ref = state.reference
        close = bar.close
        previous = ref.prev_day_close
        change = close - previous if previous else 0
        opened = self.open_of(state)
        since_open = close - opened if opened else 0
        average = ref.avg_volume
        return (
            state.symbol,
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
            bar.aggregate_vwap or 0,
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
            bar.start_timestamp,
            bar.end_timestamp or 0,
            ref.avg_volume_days,
        )

    def refer(self, rows: Any) -> None:
        """Take reference values: a mapping from symbol to `Reference`."""
        self.references.update(rows)
        symbols = self.symbols
        for symbol, row in rows.items():
            state = symbols.get(symbol)
            if state is not None:
                state.reference = row
        self.revision += 1
