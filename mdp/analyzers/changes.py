"""Which wanted symbols have changed since they were published last."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from mdp.analyzers.base import EventBatch, Wanted
from mdp.analyzers.state import Market, SymbolState

_STEP = 500  # symbols looked at in one step: 3 ms, where all of them are to be published


class Changes:
    """For a state feed with a value per symbol that follows from `SymbolState`.

    While somebody wants symbols by name, only those are looked at, when it is time to publish: however
    many events there were, it costs the same. Only a wish for all symbols costs something per batch.
    """

    def __init__(self, market: Market, interest: Wanted) -> None:
        self._market = market
        self._interest = interest
        self._touched: set[str] = set()  # since the last `take`, while all symbols are wanted
        self._seen: dict[str, _Seen] = {}  # symbol -> what its value followed from
        self._common: tuple[int, bool] = (0, False)  # what all values followed from
        self._referred = 0
        self._revision = -1

    def note(self, batch: EventBatch) -> None:
        """Take note of a batch of aggregates."""
        if self._interest.all:
            self._touched.update(batch.symbols)
            # First prints of a day may have waited for the clock: they are notable, and of no batch now.
            self._touched.update([state.symbol for _, state, _, _ in self._market.notable])

    def touch(self, symbols: Iterable[str]) -> None:
        """Take note of symbols whose values changed otherwise: they are published, whatever was before."""
        symbols = list(symbols)
        for symbol in symbols:
            self._seen.pop(symbol, None)
        if self._interest.all:
            self._touched.update(symbols)

    def take(self) -> Iterator[list[str]]:
        """The symbols to publish now, in steps; they count as published."""
        interest, market = self._interest, self._market
        if market.revision == self._revision:
            return
        self._revision = market.revision
        if not interest.all and not interest.symbols:
            if self._seen:
                self._seen.clear()
            return
        seen = self._seen
        common = (market.losses, market.is_open_set)
        if interest.all and (common != self._common or market.referred != self._referred):
            self._touched.update(
                market.symbols
            )  # whose reference values came is seen when they are looked at
        if common != self._common or (len(seen) > 2 * len(interest.symbols) + 1_000 and not interest.all):
            self._common = common
            seen.clear()
        self._referred = market.referred
        candidates = list(self._touched | interest.symbols if interest.all else interest.symbols)
        self._touched = set()
        for at in range(0, len(candidates), _STEP):
            yield self._changed(candidates[at : at + _STEP])

    def _changed(self, candidates: list[str]) -> list[str]:
        changed = []
        seen = self._seen
        get = self._market.symbols.get
        for symbol in candidates:
            state = get(symbol)
            if state is None:
                continue
            held = seen.get(symbol)
            # A bar sent again is another object; `seen` keeps the old one, so its address is not reused.
            if held is None or held[0] is not state.bar or held[1:] != _rest(state):
                seen[symbol] = (state.bar, *_rest(state))
                changed.append(symbol)
        return changed


_Seen = tuple[Any, ...]


def _rest(state: SymbolState) -> _Seen:
    """What a value follows from beside the newest bar: late bars and reference values change only this."""
    known = state.range
    return (
        state.accumulated_volume,
        state.high,
        state.low,
        state.reference,
        0 if known is None else known.revision,
    )
