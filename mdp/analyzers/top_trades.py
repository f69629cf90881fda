"""Top trades: statistics of each symbol's last 1,000 trades, published every 5 seconds.

A window keeps what the statistics need and no more, in arrays of doubles: 16 KB a full symbol.
Doubles hold every share count and millisecond exactly (below 2**53).
"""

from __future__ import annotations

from array import array
from collections.abc import Generator, Iterator
from datetime import UTC, datetime
from heapq import nsmallest
from typing import Any, ClassVar

from mdp.analyzers.base import Analyzer, EventBatch, Output
from mdp.analyzers.state import Market
from mdp.events import TRADES, Number
from mdp.feeds import TTA, TTA_ALL, is_symbol
from mdp.sessions import TradingDay

WINDOW = 1_000
_SILENT_MS = 5 * 60_000  # a symbol without a trade for so long drops out
_TOP = 100
_STEP = 100  # symbols worked out in one step: about 4 ms with full windows


class Window:
    """The last `WINDOW` trades of a symbol, in order of arrival.

    Attributes:
        sizes, times: Of the trades; doubles.
        at: Where the next trade goes once the window is full.
        price, exchange: Of the trade that arrived last; its time is in `times`.
        stats: Of what is in the window; None: to be worked out anew.
    """

    __slots__ = ("at", "exchange", "price", "sizes", "stats", "times")

    def __init__(self) -> None:
        self.sizes = array("d")
        self.times = array("d")
        self.at = 0
        self.price: Number = 0
        self.exchange: Number | None = None
        self.stats: dict[str, Any] | None = None

    @property
    def last_ms(self) -> float:
        """Time of the trade that arrived last."""
        return self.times[self.at - 1]

    def measure(self) -> dict[str, Any]:
        """The statistics, worked out once until the next trade (40 us for a full window)."""
        if self.stats is None:
            count = len(self.sizes)
            total = sum(self.sizes)
            self.stats = {
                "total_volume": _plain(total),
                "trade_count": count,
                "avg_size": round(total / count, 2),
                "max_size": _plain(max(self.sizes)),
                "time_span_ms": int(max(self.times) - min(self.times)),
                "latest_price": self.price,
                "latest_timestamp": _plain(self.last_ms),
                "latest_exchange": self.exchange if self.exchange is not None else "",
            }
        return self.stats


class TopTrades(Analyzer):
    """Feeds `tta:all_symbols:widget` and, for the 100 symbols with the most volume, `tta:{S}:widget`."""

    name: ClassVar[str] = "top_trades"
    queues: ClassVar[tuple[str, ...]] = (TRADES,)
    flush_seconds: ClassVar[float] = 5.0

    def __init__(self, market: Market, out: Output) -> None:
        super().__init__(market, out)
        self._windows: dict[str, Window] = {}
        self._all: dict[str, Any] | None = None  # what was worked out last
        self._top: dict[str, dict[str, Any]] = {}
        self._due = True  # five seconds have passed since
        self.ignored = {"not_a_symbol": 0, "too_many_symbols": 0}
        self._all_interest = out.interest(TTA_ALL)
        self._top_interest = out.interest(TTA)
        out.provide(TTA_ALL, self._provide_all)
        out.provide(TTA, self._provide_top)

    def process(self, batch: EventBatch) -> None:
        get = self._windows.get
        for trade in batch.events:
            window = get(trade.symbol)
            if window is None:
                window = self._first(trade.symbol)
                if window is None:
                    continue
            sizes = window.sizes
            if len(sizes) < WINDOW:
                sizes.append(trade.size)
                window.times.append(trade.timestamp)
            else:
                at = window.at
                sizes[at] = trade.size
                window.times[at] = trade.timestamp
                window.at = at + 1 if at < WINDOW - 1 else 0
            window.price = trade.price
            window.exchange = trade.exchange
            window.stats = None

    def _first(self, symbol: str) -> Window | None:
        if len(self._windows) >= self.market.max_symbols:
            self.ignored["too_many_symbols"] += 1
            return None
        if not is_symbol(symbol):
            self.ignored["not_a_symbol"] += 1
            return None
        window = self._windows[symbol] = Window()
        return window

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
        windows = self._windows
        for done, (symbol, window) in enumerate(list(windows.items()), 1):
            if window.last_ms < oldest and max(window.times) < oldest:  # the last may be one reported late
                gone.append(symbol)
            else:
                stats[symbol] = window.measure()
            if done % _STEP == 0:
                yield
                if self._windows is not windows:
                    return  # 04:00: nobody's today
        for symbol in gone:
            silent = self._windows.get(symbol)
            if silent is not None and silent.last_ms < oldest:  # none came while we stepped
                del self._windows[symbol]
        if not stats and self._all is None:
            return
        # The market's time, in ISO form as existing clients get it.
        timestamp = datetime.fromtimestamp(self.market.clock.now_ms / 1000, UTC).isoformat()
        self._all = {"timestamp": timestamp, "symbols": stats, "symbol_count": len(stats)}
        best = nsmallest(_TOP, stats.items(), key=lambda item: (-item[1]["total_volume"], item[0]))
        self._top = {symbol: {"timestamp": timestamp, "symbol": symbol, **row} for symbol, row in best}

    def on_day(self, day: TradingDay) -> None:
        self._windows = {}
        self._top = {}
        self._all = None


def _plain(value: Number) -> Number:
    """A count as an int, unless it has a fraction of a share."""
    whole = int(value)
    return whole if whole == value else value
