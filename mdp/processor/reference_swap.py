"""Swaps in a trading day's reference values at its reset, before an analyzer sees the day's first bar."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from typing import ClassVar

from mdp.analyzers.base import Analyzer, Output
from mdp.analyzers.state import Market, NoReference
from mdp.cache.table import ReferenceRow
from mdp.sessions import TradingDay


class ReferenceSwap(Analyzer):
    """An analyzer of no events: it only wants to know of the reset, and first of all.

    Args:
        market: Whose reference values are swapped.
        out: Not used.
        enter: Told of the trading day; calls `swap` before it returns where that is another than before.
    """

    name: ClassVar[str] = "reference_swap"

    def __init__(self, market: Market, out: Output, enter: Callable[[date], None]) -> None:
        super().__init__(market, out)
        self._enter = enter

    def on_day(self, day: TradingDay) -> None:
        """The reset."""
        self._enter(day.day)

    def swap(self, rows: Mapping[str, ReferenceRow]) -> None:
        """Let the market forget all reference values for these."""
        market = self.market
        market.references = dict(rows)
        for symbol, state in market.symbols.items():
            state.reference = rows.get(symbol, market.unreferenced)
        market.referred += 1
        market.revision += 1

    def unknown(self, pending: tuple[str, ...]) -> None:
        """Let symbols without reference values say what they wait for."""
        market = self.market
        before, market.unreferenced = market.unreferenced, NoReference(pending=pending)
        for state in market.symbols.values():
            if state.reference is before:
                state.reference = market.unreferenced
        market.referred += 1
        market.revision += 1
