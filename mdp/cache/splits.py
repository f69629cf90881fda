"""Stock splits, and what they make of values from before them.

The provider's documentation of `/stocks/v1/splits`: on the day before `execution_date` the post-market
session is the last with old prices; on the date itself all trading, pre-market included, is adjusted. So a
bar of session `d` is brought to trading day `D` by every split with `d < execution_date <= D`.

Grouped bars are asked for with `adjusted=false` and adjusted here. With `adjusted=true` they would follow
the splits up to the day of asking: those of tonight perhaps not yet, and in a replay of an old day those of
its future.
"""

from __future__ import annotations

from datetime import date

from mdp.cache.validate import LARGEST_RATIO


class Splits:
    """Splits by symbol, up to a trading day.

    Attributes:
        day: The trading day to which values are brought.
        by_symbol: symbol -> {execution date -> shares now per share before}.
    """

    def __init__(self, day: date) -> None:
        self.day = day
        self.by_symbol: dict[str, dict[date, float]] = {}
        self._known: set[tuple[str, date, float, float]] = set()

    def add(self, symbol: str, executed: date, split_from: float, split_to: float) -> bool:
        """Take a split; one that is known or still to come changes nothing.

        Two different ones of a symbol on one day (a split and a stock dividend) multiply.

        Returns:
            False where the ratio is absurd.
        """
        if not 1 / LARGEST_RATIO <= split_to / split_from <= LARGEST_RATIO:
            return False
        key = (symbol, executed, split_from, split_to)
        if executed <= self.day and key not in self._known:
            self._known.add(key)
            dates = self.by_symbol.setdefault(symbol, {})
            dates[executed] = dates.get(executed, 1.0) * split_to / split_from
        return True

    def ratio(self, symbol: str, since: date) -> float:
        """Shares on the trading day per share at the end of date `since`: 0.1 after a reverse split 1:10.

        Volumes and floats of `since` are multiplied by it, prices divided. Without a split it is the whole
        number 1, which leaves a whole number whole: clients get the form that the provider sent.
        """
        dates = self.by_symbol.get(symbol)
        if not dates:
            return 1
        ratio: float = 1
        for executed, one in dates.items():
            if executed > since:
                ratio *= one
        return ratio

    def takes_effect(self, symbol: str) -> bool:
        """Whether a split of the symbol takes effect on the trading day itself."""
        return self.day in self.by_symbol.get(symbol, ())

    def dump(self) -> list[tuple[str, str, float]]:
        """(symbol, execution date, ratio) of all, for msgpack."""
        return [
            (symbol, executed.isoformat(), ratio)
            for symbol, dates in self.by_symbol.items()
            for executed, ratio in dates.items()
        ]

    def restore(self, dumped: list[tuple[str, str, float]]) -> None:
        """Take back what `dump` gave; raises ValueError for a date that is none."""
        for symbol, executed, ratio in dumped:
            self.by_symbol.setdefault(symbol, {})[date.fromisoformat(executed)] = ratio

    @property
    def today(self) -> bool:
        """Whether any symbol's takes effect on the trading day itself."""
        return any(self.day in dates for dates in self.by_symbol.values())
