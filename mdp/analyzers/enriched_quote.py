"""The enriched quote: each symbol's newest bar, day's volume, opens and change (`quote:{S}`).

Second and minute bars both feed it; where a symbol has both, seconds win. The rules of late and
repeated bars are those of `design.md` section 5: the newest bar sent again replaces itself, an older
one adds nothing here but accumulated volume. Only a correction of the newest bar lowers that volume.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from mdp.analyzers.base import Analyzer, EventBatch, Output
from mdp.analyzers.state import NO_REFERENCE, Market, SymbolState
from mdp.events import AGGREGATES, Aggregate, MinuteAggregate, payload
from mdp.feeds import AGG, QUOTE
from mdp.sessions import TradingDay

_KINDS: dict[str, type[Aggregate]] = {"A": Aggregate, "AM": MinuteAggregate}
_KIND_NAMES = {kind: name for name, kind in _KINDS.items()}
_BAR_FIELDS = Aggregate.__struct_fields__
_KEPT = (
    "accumulated_volume",
    "volume_before",
    "first_open",
    "first_start",
    "regular_open",
    "regular_start",
    "official_open",
    "open_final",
)
_DUMP_STEP = 500  # symbols a step: about 1 ms


class EnrichedQuote(Analyzer):
    """Keeps `Market.symbols`, which boards and ranges read, and publishes `quote:{S}`."""

    name: ClassVar[str] = "enriched_quote"
    queues: ClassVar[tuple[str, ...]] = (AGGREGATES,)

    def __init__(self, market: Market, out: Output) -> None:
        super().__init__(market, out)
        self._interest = out.interest(QUOTE)
        #: Bars that changed nothing, by reason. Read by metrics.
        self.ignored = {"other_day": 0, "seconds_win": 0}
        out.provide(QUOTE, market.row)
        out.provide(AGG, self._last_bar)

    def process(self, batch: EventBatch) -> None:
        market = self.market
        day = market.clock.day
        if day is None:
            return
        day_start, day_end = day.start_ms, day.end_ms
        bar: Aggregate
        for bar, state in zip(batch.events, market.states, strict=True):
            if state is None:
                continue
            start = bar.start_timestamp
            if start > state.start and bar.__class__ is state.kind and day_start <= start < day_end:
                if not state.open_final:
                    self._learn_open(state, bar, day)
                if state.other is not None:
                    state.other = None
                state.start = start
                state.bar = bar
                volume = bar.accumulated_volume
                if volume is None:
                    state.volume_before = state.accumulated_volume
                    state.accumulated_volume += bar.volume or 0
                elif volume > state.accumulated_volume:
                    state.accumulated_volume = volume
            else:
                self._unusual(state, bar, day)
        market.revision += 1
        interest = self._interest
        if interest.all or interest.symbols:
            row = market.row
            publish = self.out.publish
            for symbol in interest.wanted(batch.symbols):
                value = row(symbol)
                if value is not None:
                    publish(QUOTE, symbol, value)

    def _last_bar(self, symbol: str) -> Any:
        """The last bar of all, as it came, for as long as `stocks:agg:{S}` is kept (by market time)."""
        state = self.market.symbols.get(symbol)
        bar = None if state is None else state.other or state.bar
        if bar is None or self.market.clock.now_ms - bar.start_timestamp > AGG.ttl_seconds * 1000:
            return None
        return payload(bar)

    def _learn_open(self, state: SymbolState, bar: Aggregate, day: TradingDay) -> None:
        start = bar.start_timestamp
        opened = bar.open if bar.open is not None else bar.close
        if start < day.open_ms:
            if not state.first_start or start == state.first_start:
                state.first_open, state.first_start = opened, start
            # Until 09:30 there is nothing more to learn; from then on such a bar is one that came late.
            state.open_final = self.market.clock.now_ms < day.open_ms
            return
        if not state.regular_start or start == state.regular_start:
            state.regular_open, state.regular_start = opened, start
        if bar.official_open_price:
            state.official_open = bar.official_open_price
            state.open_final = True  # the provider sends the same one all day

    def _unusual(self, state: SymbolState, bar: Aggregate, day: TradingDay) -> None:
        """A bar that is not simply its symbol's next: the first, repeated, late, or of the other kind."""
        start = bar.start_timestamp
        if not day.start_ms <= start < day.end_ms:
            self.ignored["other_day"] += 1
            return
        if state.kind is None:
            state.kind = type(bar)
            self._take(state, bar, day)
        elif bar.__class__ is not state.kind:
            if not bar.is_second:
                self.ignored["seconds_win"] += 1
                state.other = bar
                return
            # The symbol's first second bar: from now on seconds count, whatever the newest minute was.
            state.kind = type(bar)
            self._take(state, bar, day)
        elif start == state.start:
            self._correct_volume(state, bar)
            self._learn_open(state, bar, day)
            state.bar = bar
        elif start > state.start or state.start > self.market.clock.now_ms + self.market.clock.LEAP_MS:
            # Newer, or what we took for the newest came from a time the market never reached.
            self._take(state, bar, day)
        else:
            state.other = bar
            self._late(state, bar)

    def _take(self, state: SymbolState, bar: Aggregate, day: TradingDay) -> None:
        self._learn_open(state, bar, day)
        state.start = bar.start_timestamp
        state.bar = bar
        state.volume_before = state.accumulated_volume
        self._late(state, bar)

    @staticmethod
    def _correct_volume(state: SymbolState, bar: Aggregate) -> None:
        """The newest bar sent again takes its own volume back, and none that came from elsewhere."""
        assert state.bar is not None
        before, volume = state.bar.accumulated_volume, bar.accumulated_volume
        if volume is None:
            if before is None:
                state.accumulated_volume = state.volume_before + (bar.volume or 0)
        elif volume > state.accumulated_volume or before == state.accumulated_volume:
            state.accumulated_volume = volume

    @staticmethod
    def _late(state: SymbolState, bar: Aggregate) -> None:
        """What counts also of a late bar: the day's volume, which it can only raise."""
        volume = bar.accumulated_volume
        if volume is None:  # the feed does not sum up, so we do
            state.accumulated_volume += bar.volume or 0
            state.volume_before += bar.volume or 0 if bar is not state.bar else 0
        elif volume > state.accumulated_volume:
            state.accumulated_volume = volume

    def on_session(self, session: str) -> None:
        for state in self.market.symbols.values():
            state.open_final = False  # there is a regular open to learn, or none
        self.market.revision += 1

    def dump(self) -> Iterator[Any]:
        states = [state for state in self.market.symbols.values() if state.bar is not None]
        for at in range(0, len(states), _DUMP_STEP):
            yield [_dump(state) for state in states[at : at + _DUMP_STEP]]

    def hydrate(self, records: Iterable[Any]) -> None:
        for record in records:
            for fields in record:
                state = _load(fields, self.market.references)
                held = self.market.symbols.get(state.symbol)
                state.range = held.range if held is not None else None
                self.market.symbols[state.symbol] = state
        self.market.revision += 1


def _dump(state: SymbolState) -> list[Any]:
    assert state.kind is not None
    return [
        _KIND_NAMES[state.kind],
        [getattr(state.bar, name) for name in _BAR_FIELDS],
        [getattr(state, name) for name in _KEPT],
    ]


def _load(record: list[Any], references: dict[str, Any]) -> SymbolState:
    kind_name, bar_fields, kept = record
    kind = _KINDS[kind_name]
    bar = kind(**dict(zip(_BAR_FIELDS, bar_fields, strict=True)))
    return SymbolState(
        bar.symbol,
        references.get(bar.symbol, NO_REFERENCE),
        bar=bar,
        kind=kind,
        start=bar.start_timestamp,
        **dict(zip(_KEPT, kept, strict=True)),
    )
