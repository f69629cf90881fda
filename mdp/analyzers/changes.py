"""Which wanted symbols have changed since they were published last."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mdp.analyzers.base import EventBatch, Wanted
from mdp.analyzers.state import Market, SymbolState


class Changes:
    """For a state feed with a value per symbol that follows from `SymbolState`.

    While somebody wants symbols by name, only those are looked at, when it is time to publish: however
    many events there were, it costs the same. Only a wish for all symbols costs something per batch.
    """

    def __init__(self, market: Market, interest: Wanted) -> None:
        self._market = market
        self._interest = interest
        self._touched: set[str] = set()  # since the last `take`, while all symbols are wanted
        self._seen: dict[str, tuple[Any, ...]] = {}  # symbol -> what its value followed from
        self._revision = -1

    def note(self, batch: EventBatch) -> None:
        """Take note of a batch of aggregates."""
        if self._interest.all:
            self._touched.update(batch.symbols)

    def take(self) -> Iterable[str]:
        """The symbols to publish now; they count as published."""
        interest, market = self._interest, self._market
        if market.revision == self._revision:
            return ()
        self._revision = market.revision
        if not interest.all and not interest.symbols:
            if self._seen:
                self._seen.clear()
            return ()
        seen = self._seen
        if len(seen) > 2 * len(interest.symbols) + 1_000 and not interest.all:
            seen.clear()
        candidates: set[str] = self._touched | interest.symbols if interest.all else interest.symbols
        self._touched = set()
        changed = []
        for symbol in candidates:
            state = market.symbols.get(symbol)
            if state is None:
                continue
            now = _basis(state, market)
            if seen.get(symbol) != now:
                seen[symbol] = now
                changed.append(symbol)
        return changed


def _basis(state: SymbolState, market: Market) -> tuple[Any, ...]:
    """What a quote or range follows from."""
    return (
        state.bar,
        state.accumulated_volume,
        state.high,
        state.low,
        market.referred,
        market.is_open_set,
        state.range.revision if state.range is not None else 0,
    )
