"""The enriched quote (`quote:{S}`), and the last bar of a symbol as it came (`stocks:agg:{S}`).

`Market` works the numbers out; here they are published. A quote is a state: subscribers get the newest,
looked for many times a second among the symbols they want, at no cost per event.
"""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from operator import attrgetter
from typing import Any, ClassVar

import msgspec

from mdp.analyzers import price_history
from mdp.analyzers.base import Analyzer, EventBatch, Output
from mdp.analyzers.changes import Changes
from mdp.analyzers.rows import quote_of
from mdp.analyzers.state import Market, SymbolState
from mdp.events import AGGREGATES, Aggregate, MinuteAggregate, payload
from mdp.feeds import AGG, QUOTE
from mdp.sessions import TradingDay

_KINDS: dict[str, type[Aggregate]] = {"A": Aggregate, "AM": MinuteAggregate}
_KIND_NAMES = {kind: name for name, kind in _KINDS.items()}
_BAR_FIELDS = Aggregate.__struct_fields__
_KEPT = (  # of a symbol's state, beside its bar
    "accumulated_volume",
    "volume_before",
    "first_open",
    "first_start",
    "regular_open",
    "regular_start",
    "official_open",
    "open_final",
)
_kept = attrgetter(*_KEPT)
_DUMP_STEP = 500  # symbols a step: about 1 ms
_AGG_TTL_NS = int(AGG.ttl_seconds * 1e9)
_SAMPLE_NS = 1_000_000_000


class EnrichedQuote(Analyzer):
    """Publishes `quote:{S}`, and keeps `Market.symbols` over a restart."""

    name: ClassVar[str] = "enriched_quote"
    queues: ClassVar[tuple[str, ...]] = (AGGREGATES,)
    flush_on_tick: ClassVar[bool] = True

    def __init__(self, market: Market, out: Output, clock: Callable[[], int] = time.monotonic_ns) -> None:
        super().__init__(market, out)
        self._clock = clock  # monotonic ns
        #: (monotonic ns, market ms), one a second, the first one older than `stocks:agg:{S}` is kept: what
        #: the market showed then tells which bars have come since, without a note for each bar.
        self._shown: deque[tuple[int, float]] = deque()
        self._changes = Changes(market, out.interest(QUOTE))
        out.provide(QUOTE, functools.partial(quote_of, market), lambda: list(market.symbols))
        out.provide(AGG, self._last_bar)

    def process(self, batch: EventBatch) -> None:
        self._changes.note(batch)

    def on_refill(self) -> None:
        self._changes.touch(state.symbol for _, state, _, _ in self.market.notable)

    def on_repaired(self, symbols: Collection[str]) -> None:
        self._changes.touch(symbols)

    def flush(self) -> Iterator[None]:
        self._sample()
        for part in self._changes.take():
            for symbol in part:
                row = quote_of(self.market, symbol)
                if row is not None:
                    self.out.publish(QUOTE, symbol, row)
            yield

    def _sample(self) -> int:
        """Note what the market shows, once a second; returns the time now, monotonic ns."""
        now, shown = self._clock(), self._shown
        if not shown or now - shown[-1][0] >= _SAMPLE_NS:
            shown.append((now, self.market.clock.now_ms))
            while len(shown) > 1 and now - shown[1][0] > _AGG_TTL_NS:
                shown.popleft()
        return now

    def _last_bar(self, symbol: str) -> Any:
        """The last bar of all, as it came, for as long as `stocks:agg:{S}` is kept, by arrival."""
        state = self.market.symbols.get(symbol)
        bar = None if state is None else state.other or state.bar
        if bar is None:
            return None
        now = self._sample()
        at, market_ms = self._shown[0]
        # Before the process is old enough: a bar restored from a snapshot came in the market's pace.
        oldest = market_ms if now - at > _AGG_TTL_NS else market_ms - AGG.ttl_seconds * 1000
        return None if bar.start_timestamp <= oldest else payload(bar)

    def on_day(self, day: TradingDay) -> None:
        self._shown.clear()  # of another time

    def dump(self) -> Iterator[Any]:
        states = [state for state in self.market.symbols.values() if state.bar is not None]
        for at in range(0, len(states), _DUMP_STEP):
            yield [_dump(state) for state in states[at : at + _DUMP_STEP]]

    def hydrate(self, records: Iterable[Any]) -> None:
        for record in records:
            for kind_name, bar_fields, kept, closes in record:
                kind = _KINDS[kind_name]
                bar = kind(**dict(zip(_BAR_FIELDS, bar_fields, strict=True)))
                state = self.market.state_of(bar.symbol)
                state.kind, state.bar = kind, bar
                state.closes = price_history.unpack(closes)
                state.start = max(state.start, bar.start_timestamp)
                for name, value in zip(_KEPT, kept, strict=True):
                    setattr(state, name, value)
        self.market.revision += 1


def _dump(state: SymbolState) -> list[Any]:
    assert state.kind is not None
    return [
        _KIND_NAMES[state.kind],
        msgspec.structs.astuple(state.bar),  # type: ignore[arg-type]  # whoever has no bar is not dumped
        _kept(state),
        price_history.pack(state.closes),
    ]
