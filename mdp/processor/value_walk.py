"""Which of a partition's values changed since they were written under their plain keys.

Nobody notes it event by event: a walk over the symbols, once around in five seconds, compares what a value
follows from with what it followed from when it was written. So the work is spread evenly, each value is
written every five seconds at most, and a burst of events costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from mdp.analyzers.price_history import MINUTES, SLOT_MS
from mdp.analyzers.state import Market
from mdp.analyzers.trade_ledger import TradeLedger
from mdp.cache.base import encode_json
from mdp.feeds import AGG, DAILY_RANGE, HALT, LULD, QUOTE, TRADE_STATS, Family

PERIOD_SECONDS = 5.0
#: Values of the whole market a second. At 200,000 events/s these are 20 commands for 1,000 events, a third of
#: what all roles together may use; with more changes than that, a round takes longer.
PER_SECOND = 4_000

#: What a daily range says besides the enriched quote begins with this: making one of them is making both.
_RANGE_BEGINS = b',"pre_market_high":'
_SLOTS_BACK = max(MINUTES) * 60_000 // SLOT_MS
_RARE = (HALT, LULD)  # published whenever they change; walked only where Redis may have lost them


class ValueWalk:
    """A `mdp.cache.redis_writer.Walk` over the symbols of a market.

    Args:
        market: Of the partition.
        providers: By family name: makes a symbol's value; None where it has none.
        per_second: Values at most.
        period_seconds: Once around.
        most_seconds: That count at once. Where turns come further apart, the loop has other things to do, and
            a round takes longer.
    """

    families = frozenset(family.name for family in (QUOTE, DAILY_RANGE, AGG, TRADE_STATS))

    def __init__(
        self,
        market: Market,
        providers: Mapping[str, Callable[[str], Any]],
        *,
        per_second: float = PER_SECOND,
        period_seconds: float = PERIOD_SECONDS,
        most_seconds: float = 0.1,
    ) -> None:
        self._market = market
        self._ledger = TradeLedger.of(market)
        self._providers = providers
        self._per_second = per_second
        self._period_seconds = period_seconds
        self._most_seconds = most_seconds
        self._written: dict[tuple[str, str], Any] = {}  # (family, symbol) -> what it followed from
        self._round: list[str] = []  # symbols still to be looked at, last first
        self._size = 0  # of the round
        self._looks = self._values = 0.0  # that may be done now
        self._common: Any = None
        self._generation = 0
        self._lost = True  # Redis may not have what was published before this round

    def forget(self) -> None:
        """Nothing that was written is there any more: another round writes all of it."""
        self._generation += 1
        self._round = []
        self._lost = True

    def due(self, seconds: float) -> Iterator[tuple[Family, str, Any]]:
        """The share of a round that is due after so many seconds; a value None is to be deleted.

        Counts as written when it was handed out; call `forget` where it could not be.
        """
        seconds = min(seconds, self._most_seconds)
        most = max(1.0, self._per_second * self._most_seconds)
        self._values = min(self._values + self._per_second * seconds, most)
        if not self._round:
            self._begin_round()
        self._looks = min(self._looks + self._size * seconds / self._period_seconds, float(self._size))
        while self._looks >= 1 and self._values >= 1 and self._round:
            self._looks -= 1
            symbol = self._round.pop()
            for item in self._look_at(symbol):
                self._values -= 1
                yield item
        if not self._round:
            self._lost = False

    def _begin_round(self) -> None:
        market = self._market
        common = (market.losses, market.is_open_set)
        if common != self._common:  # what all values follow from
            self._common = common
            self._generation += 1
        written = [symbol for _, symbol in self._written]
        self._round = list(dict.fromkeys((*market.symbols, *self._ledger.symbols, *written)))
        self._size = len(self._round)

    def _look_at(self, symbol: str) -> Iterator[tuple[Family, str, Any]]:
        bars = self._of_bars(symbol)
        if self._changed(QUOTE, symbol, bars):
            yield from self._bars(symbol) if bars is not None else self._gone(symbol)
        state = self._market.symbols.get(symbol)
        last = None if state is None else state.other or state.bar
        yield from self._compare(AGG, symbol, None if last is None else (last,))
        yield from self._compare(TRADE_STATS, symbol, self._of_trades(symbol))
        if self._lost:
            for family in _RARE:
                value = self._value(family, symbol)
                if value is not None:
                    yield family, symbol, value

    def _compare(
        self, family: Family, symbol: str, follows: tuple[Any, ...] | None
    ) -> Iterator[tuple[Family, str, Any]]:
        key = (family.name, symbol)
        had = key in self._written
        if self._changed(family, symbol, follows):
            value = None if follows is None else self._value(family, symbol)
            if value is None:
                self._written.pop(key, None)
            if value is not None or had:
                yield family, symbol, value

    def _changed(self, family: Family, symbol: str, follows: tuple[Any, ...] | None) -> bool:
        """Whether a value is to be written or deleted (there is nothing that it follows from)."""
        key = (family.name, symbol)
        had = self._written.get(key)
        if follows is None:
            return self._written.pop(key, None) is not None
        # The object is kept, so that its address means it; a struct's fields need not be compared.
        if had is not None and had[0] == self._generation and had[1] is follows[0] and had[2] == follows[1:]:
            return False
        self._written[key] = (self._generation, follows[0], follows[1:])
        return True

    def _gone(self, symbol: str) -> Iterator[tuple[Family, str, Any]]:
        yield QUOTE, symbol, None
        yield DAILY_RANGE, symbol, None

    def _bars(self, symbol: str) -> Iterator[tuple[Family, str, Any]]:
        """Enriched quote and daily range, worked out once for both."""
        known = self._value(DAILY_RANGE, symbol)
        body = b"" if known is None else encode_json(known)
        cut = body.find(_RANGE_BEGINS)
        quote = msgspec.Raw(body[:cut] + b"}") if cut > 0 else self._value(QUOTE, symbol)
        if quote is not None:
            yield QUOTE, symbol, quote
        if body:
            yield DAILY_RANGE, symbol, msgspec.Raw(body)

    def _value(self, family: Family, symbol: str) -> Any:
        provider = self._providers.get(family.name)
        return None if provider is None else provider(symbol)

    def _of_bars(self, symbol: str) -> tuple[Any, ...] | None:
        """What quote and daily range follow from."""
        market = self._market
        state = market.symbols.get(symbol)
        if state is None or state.bar is None:
            return None
        known = state.range
        return (
            state.bar,
            state.accumulated_volume,
            state.high,
            state.low,
            state.reference,
            0 if known is None else known.revision,
            market.trade_count(symbol),
            market.is_stale(symbol, state.start),
            # Changes over the last minutes go on without a bar, until the newest one is older than them all.
            min(int(market.clock.now_ms // SLOT_MS), int(state.start // SLOT_MS) + _SLOTS_BACK),
        )

    def _of_trades(self, symbol: str) -> tuple[Any, ...] | None:
        known = self._ledger.symbols.get(symbol)
        return None if known is None else (known, known.trade_count, known.singles, known.duplicates)
