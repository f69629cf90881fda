"""Leaderboards: the market ranked by volume, gap, gain, loss and trades, once a second each, in turns.

Nothing is done per event: a board is ranked from `Market.symbols` when it is due and somebody wants
it, or when somebody asks the cache for it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from typing import Any, ClassVar

import msgspec

from mdp.analyzers.base import Analyzer, EventBatch, Output
from mdp.analyzers.rows import BoardRow, values
from mdp.analyzers.state import Market, SymbolState
from mdp.events import AGGREGATES, Number
from mdp.feeds import (
    GAP_DOWN,
    MOST_TRADES,
    TOP_GAINERS,
    TOP_GAPPERS,
    TOP_LOSERS,
    TOP_RELATIVE_VOLUME,
    TOP_VOLUME,
    Family,
)

ROWS = 500
# Ranked a little further than shown: next time, whoever is behind that place need not be looked at.
_FURTHER = 150
_ALL = float("inf")
_STEP = 2_000  # symbols looked at in one step: about 2 ms
_FILL = 100  # rows worked out in one step: about 1 ms
_SPARE = 25  # worked out further than shown: some may fall back meanwhile

Ranking = list[tuple[Number, str]]  # (key, symbol), smallest first


class _Board(msgspec.Struct):
    family: Family
    keys: Callable[[Market, Iterable[SymbolState], float], Ranking]  # of those up to a key, unsorted
    interest: Any
    cut: float = _ALL  # key of the last place ranked
    revision: int = -1  # of the market when `rows` were ranked
    published: int = -1  # of the market when subscribers got rows last
    rows: list[BoardRow] = []
    limit: int = ROWS


class Leaderboards(Analyzer):
    """Feeds the boards `scanners:top_*`, `scanners:gap_down` and `scanners:most_trades`."""

    name: ClassVar[str] = "leaderboards"
    queues: ClassVar[tuple[str, ...]] = (AGGREGATES,)
    flush_seconds: ClassVar[float] = 1.0 / 7.0  # a board a turn, so not all in the same step
    flush_turns: ClassVar[int] = 7

    def __init__(self, market: Market, out: Output) -> None:
        super().__init__(market, out)
        self._boards = [_Board(family, keys, out.interest(family)) for family, keys in _BOARDS]
        self._next = 0
        for board in self._boards:
            out.provide(board.family, self._provider(board))

    def limit(self, family: Family, rows: int) -> None:
        """Rank so many rows of a board from now on, 1 to `ROWS`: a part of the market need not give more."""
        for board in self._boards:
            if board.family is family and board.limit != rows:
                board.limit = max(1, min(rows, ROWS))
                # Ranked anew, and published, though nothing may have happened since.
                board.cut, board.revision, board.published = _ALL, -1, -1

    def process(self, batch: EventBatch) -> None:
        """Nothing a batch: the boards read what `Market` keeps."""

    def flush(self) -> Iterator[None] | None:
        board = self._boards[self._next]
        self._next = (self._next + 1) % len(self._boards)
        if not board.interest or board.published == self.market.revision:
            return None
        return self._publish(board)

    def _publish(self, board: _Board) -> Iterator[None]:
        yield from self._rank(board)
        board.published = board.revision
        self.out.publish(board.family, "", board.rows)

    def _rank(self, board: _Board) -> Iterator[None]:
        """Rank and fill a board in steps."""
        market = self.market
        if board.revision == market.revision:
            return
        rows, ranked = board.limit, board.limit + _FURTHER
        found: Ranking = []
        for cut in (board.cut, _ALL) if board.cut != _ALL else (_ALL,):
            found.clear()
            states = list(market.symbols.values())
            for at in range(0, len(states), _STEP):
                found += board.keys(market, states[at : at + _STEP], cut)
                if len(found) > 2 * ranked:
                    found.sort()
                    del found[ranked:]
                    cut = float(found[-1][0])
                yield
            if len(found) >= rows:
                break  # else too many fell back since last time
        found.sort()
        board.cut = float(found[ranked - 1][0]) if len(found) >= ranked else _ALL
        revision = market.revision
        yield from self._fill(board, [name for _, name in found[: rows + _SPARE]])
        board.revision = revision

    def _fill(self, board: _Board, names: list[str]) -> Iterator[None]:
        """Work out the rows, some at a time: each one's key together with its values, so that they agree."""
        market = self.market
        moment = market.clock.day, market.session
        filled: list[tuple[Number, str, tuple[Any, ...]]] = []
        for at in range(0, len(names), _FILL):
            filled += self._rows(board, names[at : at + _FILL])
            yield
        if moment != (market.clock.day, market.session):  # not a board of two days, or of two opens
            filled = self._rows(board, names)
        filled.sort()  # ties by symbol
        board.rows = [BoardRow(*row, rank=rank) for rank, (_, _, row) in enumerate(filled[: board.limit], 1)]

    def _rows(self, board: _Board, names: list[str]) -> list[tuple[Number, str, tuple[Any, ...]]]:
        market, symbols = self.market, self.market.symbols
        states = [symbols[name] for name in names if name in symbols]
        return [(key, name, values(market, symbols[name])) for key, name in board.keys(market, states, _ALL)]

    def _provider(self, board: _Board) -> Callable[[str], Any]:
        def provide(_symbol: str) -> Generator[None, None, list[BoardRow]]:
            yield from self._rank(board)
            return board.rows

        return provide


def _by_volume(_market: Market, states: Iterable[SymbolState], cut: float) -> Ranking:
    return [
        (key, state.symbol)
        for state in states
        if (key := -state.accumulated_volume) <= cut and key and state.bar is not None
    ]


def _by_gap(_market: Market, states: Iterable[SymbolState], cut: float, *, sign: int) -> Ranking:
    """By change from the previous close, -1: the largest first; without a close a symbol is not ranked."""
    return [
        (key, state.symbol)
        for state in states
        if (bar := state.bar) is not None
        and (previous := state.reference.prev_day_close)
        and (key := sign * ((bar.close - previous) / previous * 100)) <= cut
    ]


def _by_gain(market: Market, states: Iterable[SymbolState], cut: float, *, sign: int) -> Ranking:
    """By change since open, -1: the largest first; a symbol that has not opened is not ranked."""
    regular = market.is_open_set
    return [
        (key, state.symbol)
        for state in states
        if (opened := (state.official_open or state.regular_open) if regular else state.first_open)
        and (bar := state.bar) is not None
        and (key := sign * ((bar.close - opened) / opened * 100)) <= cut
    ]


def _by_relative_volume(_market: Market, states: Iterable[SymbolState], cut: float) -> Ranking:
    """By the day's volume over the average day's; without an average a symbol is not ranked."""
    return [
        (key, state.symbol)
        for state in states
        if (average := state.reference.avg_volume)
        and (key := -(state.accumulated_volume / average)) <= cut
        and key
        and state.bar is not None
    ]


def _by_trades(market: Market, states: Iterable[SymbolState], cut: float) -> Ranking:
    """By the day's trades; whoever has none is not ranked."""
    count = market.trade_count
    return [
        (key, state.symbol)
        for state in states
        if (key := -count(state.symbol)) <= cut and key and state.bar is not None
    ]


_BOARDS = (
    (TOP_VOLUME, _by_volume),
    (TOP_GAPPERS, partial(_by_gap, sign=-1)),
    (TOP_GAINERS, partial(_by_gain, sign=-1)),
    (TOP_LOSERS, partial(_by_gain, sign=1)),
    (GAP_DOWN, partial(_by_gap, sign=1)),
    (TOP_RELATIVE_VOLUME, _by_relative_volume),
    (MOST_TRADES, _by_trades),
)

#: The families of all boards.
BOARDS = tuple(family for family, _ in _BOARDS)

#: What each board is ranked by, as its rows show it: (field, whether the largest comes first), ties by
#: symbol. The keys above are these numbers, worked out in the same way, without making a row.
RANKED_BY: dict[str, tuple[str, bool]] = {
    TOP_VOLUME.name: ("accumulated_volume", True),
    TOP_GAPPERS.name: ("pct_change", True),
    TOP_GAINERS.name: ("pct_change_since_open", True),
    TOP_LOSERS.name: ("pct_change_since_open", False),
    GAP_DOWN.name: ("pct_change", False),
    TOP_RELATIVE_VOLUME.name: ("relative_volume", True),
    MOST_TRADES.name: ("trade_count", True),
}
