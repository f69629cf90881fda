"""Leaderboards: the market ranked by volume, gap and gain, once a second each, in turns.

Nothing is done per event: a board is ranked from `Market.symbols` when it is due and somebody wants
it, or when somebody asks the cache for it.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import nsmallest
from typing import Any, ClassVar

import msgspec

from mdp.analyzers.base import Analyzer, EventBatch, Output
from mdp.analyzers.state import BoardRow, Market
from mdp.events import AGGREGATES, Number
from mdp.feeds import TOP_GAINERS, TOP_GAPPERS, TOP_VOLUME, Family

ROWS = 500
# Ranked a little further than shown: next time, whoever is behind that place need not be looked at.
_RANKED = 650
_ALL = float("inf")

Ranking = list[tuple[Number, str]]  # (key, symbol), smallest first


class _Board(msgspec.Struct):
    family: Family
    keys: Callable[[Market, float], Ranking]  # those up to a key, unsorted
    interest: Any
    cut: float = _ALL  # key of the last place ranked
    revision: int = -1  # of the market when `rows` were ranked
    published: int = -1  # of the market when subscribers got rows last
    rows: list[BoardRow] | None = None


class Leaderboards(Analyzer):
    """Feeds `scanners:top_volume`, `scanners:top_gappers`, `scanners:top_gainers`."""

    name: ClassVar[str] = "leaderboards"
    queues: ClassVar[tuple[str, ...]] = (AGGREGATES,)
    flush_seconds: ClassVar[float] = 1.0 / 3.0  # a board a turn, so not all in the same step

    def __init__(self, market: Market, out: Output) -> None:
        super().__init__(market, out)
        ranked = ((TOP_VOLUME, _by_volume), (TOP_GAPPERS, _by_gap), (TOP_GAINERS, _by_gain))
        self._boards = [_Board(family, keys, out.interest(family)) for family, keys in ranked]
        self._next = 0
        for board in self._boards:
            out.provide(board.family, self._provider(board))

    def process(self, batch: EventBatch) -> None:
        """Nothing a batch: the boards read what `EnrichedQuote` keeps."""

    def flush(self) -> None:
        board = self._boards[self._next]
        self._next = (self._next + 1) % len(self._boards)
        revision = self.market.revision
        if board.interest and board.published != revision:
            self._rank(board)
            board.published = revision
            self.out.publish(board.family, "", board.rows)

    def _rank(self, board: _Board) -> None:
        """Rank and fill in one step (3 ms for 11,000 symbols), so that order and values agree."""
        market = self.market
        if board.revision == market.revision:
            return
        found = board.keys(market, board.cut)
        if len(found) < ROWS and board.cut != _ALL:  # too many fell back since
            found = board.keys(market, _ALL)
        best = nsmallest(_RANKED, found) if len(found) > 2 * _RANKED else sorted(found)
        board.cut = float(best[_RANKED - 1][0]) if len(best) >= _RANKED else _ALL
        symbols, values = market.symbols, market.values
        board.rows = [
            BoardRow(*values(symbols[symbol]), rank=rank) for rank, (_, symbol) in enumerate(best[:ROWS], 1)
        ]
        board.revision = market.revision

    def _provider(self, board: _Board) -> Callable[[str], Any]:
        def provide(_symbol: str) -> list[BoardRow]:
            self._rank(board)
            return board.rows or []

        return provide


def _by_volume(market: Market, cut: float) -> Ranking:
    return [
        (key, state.symbol)
        for state in market.symbols.values()
        if (key := -state.accumulated_volume) <= cut and key and state.bar is not None
    ]


def _by_gap(market: Market, cut: float) -> Ranking:
    """By change from the previous close; without one a symbol is not ranked."""
    return [
        (key, state.symbol)
        for state in market.symbols.values()
        if (bar := state.bar) is not None
        and (previous := state.reference.prev_day_close)
        and (key := -((bar.close - previous) / previous * 100)) <= cut
    ]


def _by_gain(market: Market, cut: float) -> Ranking:
    """By change since open; a symbol that has not opened is not ranked."""
    regular = market.is_open_set
    return [
        (key, state.symbol)
        for state in market.symbols.values()
        if (opened := (state.official_open or state.regular_open) if regular else state.first_open)
        and (bar := state.bar) is not None
        and (key := -((bar.close - opened) / opened * 100)) <= cut
    ]
