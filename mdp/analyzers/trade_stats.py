"""The day's trades of a symbol by the SIP's rules: feed `trade_stats:{S}`.

`TradeLedger` counts; here the numbers are published, for symbols that somebody wants, and kept over a
restart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from mdp.analyzers.base import Analyzer, EventBatch, Output
from mdp.analyzers.state import Market
from mdp.analyzers.trade_ledger import TradeLedger
from mdp.events import TRADES
from mdp.feeds import TRADE_STATS
from mdp.sessions import TradingDay

_STEP = 500  # symbols worked out in one step: about 2 ms


class TradeStats(Analyzer):
    """Publishes `trade_stats:{S}`, ten times a second at most."""

    name: ClassVar[str] = "trade_stats"
    queues: ClassVar[tuple[str, ...]] = (TRADES,)
    flush_seconds: ClassVar[float] = 0.1

    def __init__(self, market: Market, out: Output) -> None:
        super().__init__(market, out)
        self._ledger = TradeLedger.of(market)
        self._interest = out.interest(TRADE_STATS)
        self._shown: dict[str, dict[str, Any]] = {}  # symbol -> what was published last
        out.provide(TRADE_STATS, self._provide, lambda: list(self._ledger.symbols))

    def process(self, batch: EventBatch) -> None:
        self._ledger.take(batch)

    def flush(self) -> Iterator[None] | None:
        if not self._interest:
            self._shown.clear()
            return None
        return self._publish()

    def _publish(self) -> Iterator[None]:
        shown, symbols = self._shown, self._ledger.symbols
        if not self._interest.all and len(shown) > 2 * len(self._interest.symbols) + 1_000:
            shown.clear()  # of symbols that were wanted once; the others are published once more
        for done, symbol in enumerate(list(self._interest.wanted(symbols.keys())), 1):
            known = symbols.get(symbol)
            if known is not None:
                value = known.day(symbol)
                # A value is the same object until the next trade.
                if shown.get(symbol) is not value:
                    shown[symbol] = value
                    self.out.publish(TRADE_STATS, symbol, value)
            if done % _STEP == 0:
                yield
                if self._ledger.symbols is not symbols:
                    return  # 04:00

    def _provide(self, symbol: str) -> dict[str, Any] | None:
        known = self._ledger.symbols.get(symbol)
        return None if known is None else known.day(symbol)

    def on_day(self, day: TradingDay) -> None:
        self._ledger.start_day()
        self._shown = {}

    def dump(self) -> Iterator[Any]:
        return self._ledger.dump()

    def hydrate(self, records: Iterable[Any]) -> None:
        self._ledger.hydrate(records)
