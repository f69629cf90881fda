"""Top trades: statistics of each symbol's last 1,000 trades, published every 5 seconds.

The windows are `TradeLedger`'s: of trades whose shares count by the SIP's rules, each of them once.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from datetime import UTC, datetime
from heapq import nsmallest
from typing import Any, ClassVar

from mdp.analyzers.base import Analyzer, EventBatch, Output
from mdp.analyzers.state import Market
from mdp.analyzers.trade_ledger import TradeLedger
from mdp.events import TRADES
from mdp.feeds import TTA, TTA_ALL
from mdp.sessions import TradingDay

_SILENT_MS = 5 * 60_000  # a symbol without a trade for so long drops out
_TOP = 100
_STEP = 100  # symbols worked out in one step: about 4 ms with full windows


class TopTrades(Analyzer):
    """Feeds `tta:all_symbols:widget` and, for the 100 symbols with the most volume, `tta:{S}:widget`."""

    name: ClassVar[str] = "top_trades"
    queues: ClassVar[tuple[str, ...]] = (TRADES,)
    flush_seconds: ClassVar[float] = 5.0

    def __init__(self, market: Market, out: Output) -> None:
        super().__init__(market, out)
        self._ledger = TradeLedger.of(market)
        self._all: dict[str, Any] | None = None  # what was worked out last
        self._top: dict[str, dict[str, Any]] = {}
        self._due = True  # five seconds have passed since
        self._all_interest = out.interest(TTA_ALL)
        self._top_interest = out.interest(TTA)
        out.provide(TTA_ALL, self._provide_all)
        out.provide(TTA, self._provide_top)

    def process(self, batch: EventBatch) -> None:
        self._ledger.take(batch)

    def flush(self) -> Iterator[None] | None:
        self._due = True
        if not (self._all_interest or self._top_interest):
            return None  # worked out when somebody asks
        return self._publish()

    def _publish(self) -> Iterator[None]:
        yield from self._measure()
        if self._all is None:
            return
        if self._all_interest:
            self.out.publish(TTA_ALL, "", self._all)
        for symbol in self._top_interest.wanted(self._top.keys()):
            self.out.publish(TTA, symbol, self._top[symbol])

    def _provide_all(self, _symbol: str) -> Generator[None, None, Any]:
        if self._due:
            yield from self._measure()
        return self._all

    def _provide_top(self, symbol: str) -> Generator[None, None, Any]:
        if self._due:
            yield from self._measure()
        return self._top.get(symbol)

    def _measure(self) -> Iterator[None]:
        """Work out all statistics in steps."""
        self._due = False
        oldest = self.market.clock.now_ms - _SILENT_MS
        stats: dict[str, dict[str, Any]] = {}
        gone = []
        symbols = self._ledger.symbols
        done = 0
        for symbol, known in list(symbols.items()):
            if known.empty:
                continue  # silent since, or today's were all before a restart
            if (
                known.last_ms < oldest and known.newest_in_window_ms < oldest
            ):  # the last may be one reported late
                gone.append(known)
            else:
                stats[symbol] = known.window()
            done += 1
            if done % _STEP == 0:
                yield
                if self._ledger.symbols is not symbols:
                    return  # 04:00: nobody's today
        for known in gone:
            if known.last_ms < oldest:  # none came while we stepped
                known.clear_window()
        if not stats and self._all is None:
            return
        # The market's time, in ISO form as existing clients get it.
        timestamp = datetime.fromtimestamp(self.market.clock.now_ms / 1000, UTC).isoformat()
        self._all = {"timestamp": timestamp, "symbols": stats, "symbol_count": len(stats)}
        best = nsmallest(_TOP, stats.items(), key=lambda item: (-item[1]["total_volume"], item[0]))
        self._top = {symbol: {"timestamp": timestamp, "symbol": symbol, **row} for symbol, row in best}

    def on_day(self, day: TradingDay) -> None:
        self._ledger.start_day()
        self._top = {}
        self._all = None
