"""Leaderboards: the market ranked by volume, gap and gain, once a second each, in turns.

Nothing is done per event: a board is ranked from `Market.symbols` when it is due and somebody wants
it, or when somebody asks the cache for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import nsmallest
from typing import Any, ClassVar

import msgspec

from mdp.analyzers.base import Analyzer, EventBatch, Output
from mdp.analyzers.state import BoardRow, Market
from mdp.events import AGGREGATES
from mdp.feeds import TOP_GAINERS, TOP_GAPPERS, TOP_VOLUME, Family

ROWS = 500


class _Board(msgspec.Struct):
    family: Family
    keys: Callable[[Market], list[tuple[Any, str]]]  # (key, symbol), smallest first
    interest: Any
    revision: int = -1  # of the market when `rows` were ranked
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

    def flush(self) -> Iterator[None]:
        board = self._boards[self._next]
        self._next = (self._next + 1) % len(self._boards)
        if not board.interest or board.revision == self.market.revision:
            return
        revision = self.market.revision
        best = nsmallest(ROWS, board.keys(self.market))
        yield
        self._fill(board, best, revision)
        self.out.publish(board.family, "", board.rows)

    def _fill(self, board: _Board, best: list[tuple[Any, str]], revision: int) -> None:
        market = self.market
        rows = []
        for _, symbol in best:
            state = market.symbols.get(symbol)
            if state is not None and state.bar is not None:
                rows.append(BoardRow(*market.values(state), rank=len(rows) + 1))
        board.rows, board.revision = rows, revision

    def _provider(self, board: _Board) -> Callable[[str], Any]:
        def provide(_symbol: str) -> list[BoardRow]:
            if board.rows is None or board.revision != self.market.revision:
                self._fill(board, nsmallest(ROWS, board.keys(self.market)), self.market.revision)
            return board.rows or []

        return provide


def _by_volume(market: Market) -> list[tuple[Any, str]]:
    return [(-s.accumulated_volume, s.symbol) for s in market.symbols.values() if s.accumulated_volume]


def _by_gap(market: Market) -> list[tuple[Any, str]]:
    """By change from the previous close; without one a symbol is not ranked."""
    return [
        (-((s.bar.close - previous) / previous * 100), s.symbol)
        for s in market.symbols.values()
        if s.bar is not None and (previous := s.reference.prev_day_close)
    ]


def _by_gain(market: Market) -> list[tuple[Any, str]]:
    """By change since open; a symbol that has not opened is not ranked."""
    open_of = market.open_of
    return [
        (-((s.bar.close - opened) / opened * 100), s.symbol)
        for s in market.symbols.values()
        if s.bar is not None and (opened := open_of(s))
    ]
