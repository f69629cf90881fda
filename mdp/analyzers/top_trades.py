"""Top trades: statistics of each symbol's last 1,000 trades, published every 5 seconds.

A window keeps what the statistics need and no more, in arrays of doubles: 16 KB a full symbol.
Doubles hold every share count and millisecond exactly (below 2**53).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from datetime import UTC, datetime
from heapq import nlargest
from typing import Any, ClassVar

import msgspec

from mdp.analyzers.base import Analyzer, EventBatch, Output
from mdp.analyzers.state import Market
from mdp.events import TRADES, Number
from mdp.feeds import TTA, TTA_ALL, is_symbol
from mdp.sessions import TradingDay

WINDOW = 1_000
_SILENT_MS = 5 * 60_000  # a symbol without a trade for so long drops out
_TOP = 100
_NAN = float("nan")
_STEP = 1_000  # symbols worked out in one step: about 1 ms


class Window(msgspec.Struct, gc=False):
    """The last `WINDOW` trades of a symbol, in order of arrival.

    Sums and extremes are carried along, so that a window is measured without looking through it; what
    a trade that leaves may have spoilt is worked out anew when it is measured.
    """

    sizes: array[float]
    times: array[float]
    at: int = 0  # where the next trade goes once the window is full
    total: float = 0.0
    largest: float = _NAN  # NaN: not known, or it has left
    newest: float = 0.0  # time of the trade that arrived last
    ordered: int = 0  # so many of the last trades came in order of time
    price: Number = 0  # of the trade that arrived last, like `exchange`
    exchange: Number | None = None
    stats: dict[str, Any] | None = None  # of what is in the window; None: work it out anew

    def measure(self) -> dict[str, Any]:
        """The statistics, worked out once until the next trade."""
        if self.stats is None:
            sizes, times = self.sizes, self.times
            count = len(sizes)
            if self.largest != self.largest:
                self.largest = max(sizes)
            if not self.total.is_integer():  # fractions of shares: a running sum drifts
                self.total = sum(sizes)
            if self.ordered >= count:
                span = self.newest - times[self.at if count == WINDOW else 0]
            else:
                span = max(times) - min(times)
            self.stats = {
                "total_volume": _plain(self.total),
                "trade_count": count,
                "avg_size": round(self.total / count, 2),
                "max_size": _plain(self.largest),
                "time_span_ms": int(span),
                "latest_price": self.price,
                "latest_timestamp": _plain(self.newest),
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
        self._all: dict[str, Any] | None = None  # what was published last
        self._top: dict[str, dict[str, Any]] = {}
        self.ignored = {"not_a_symbol": 0, "too_many_symbols": 0}
        self._all_interest = out.interest(TTA_ALL)
        self._top_interest = out.interest(TTA)
        out.provide(TTA_ALL, lambda _symbol: self._all)
        out.provide(TTA, self._top.get)

    def process(self, batch: EventBatch) -> None:
        get = self._windows.get
        for trade in batch.events:
            window = get(trade.symbol)
            if window is None:
                window = self._first(trade.symbol)
                if window is None:
                    continue
            size = trade.size
            time = trade.timestamp
            sizes = window.sizes
            if len(sizes) < WINDOW:
                sizes.append(size)
                window.times.append(time)
                window.total += size
            else:
                at = window.at
                left = sizes[at]
                sizes[at] = size
                window.times[at] = time
                window.at = at + 1 if at < WINDOW - 1 else 0
                window.total += size - left
                if left == window.largest:
                    window.largest = _NAN
            if size > window.largest:  # never true while that is unknown
                window.largest = size
            window.ordered = window.ordered + 1 if time >= window.newest else 1
            window.newest = time
            window.price = trade.price
            window.exchange = trade.exchange
            if window.stats is not None:
                window.stats = None

    def _first(self, symbol: str) -> Window | None:
        if len(self._windows) >= self.market.max_symbols:
            self.ignored["too_many_symbols"] += 1
            return None
        if not is_symbol(symbol):
            self.ignored["not_a_symbol"] += 1
            return None
        window = self._windows[symbol] = Window(array("d"), array("d"))
        return window

    def flush(self) -> Iterator[None]:
        oldest = self.market.clock.now_ms - _SILENT_MS
        stats: dict[str, dict[str, Any]] = {}
        gone = []
        for done, (symbol, window) in enumerate(list(self._windows.items()), 1):
            if window.newest < oldest:
                gone.append(symbol)
            else:
                stats[symbol] = window.measure()
            if done % _STEP == 0:
                yield
        for symbol in gone:
            window = self._windows[symbol]
            if window.newest < oldest:  # none came while we stepped
                del self._windows[symbol]
        if not stats and self._all is None:
            return
        # The market's time, in ISO form as existing clients get it.
        timestamp = datetime.fromtimestamp(self.market.clock.now_ms / 1000, UTC).isoformat()
        self._all = {"timestamp": timestamp, "symbols": stats, "symbol_count": len(stats)}
        if self._all_interest:
            self.out.publish(TTA_ALL, "", self._all)
        yield
        self._top.clear()
        for symbol, row in nlargest(_TOP, stats.items(), key=lambda item: (item[1]["total_volume"], item[0])):
            self._top[symbol] = {"timestamp": timestamp, "symbol": symbol, **row}
        for symbol in self._top_interest.wanted(self._top.keys()):
            self.out.publish(TTA, symbol, self._top[symbol])

    def on_day(self, day: TradingDay) -> None:
        self._windows.clear()
        self._top.clear()
        self._all = None


def _plain(value: Number) -> Number:
    """A count as an int, unless it has a fraction of a share."""
    whole = int(value)
    return whole if whole == value else value
