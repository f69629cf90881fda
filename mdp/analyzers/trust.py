"""What may be missing of today's data: which symbols' highs and lows may be wrong, and since when.

Every loss has a number. One of the whole market is noted once, not for each symbol; who was repaired up to
which number is noted by symbol until all have been.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from mdp.events import Number

_MAX_LOSSES = 64  # of the whole market that are told apart; beyond them the newest are taken for one
_DUMP_STEP = 2_000


class Trust:
    """Losses of one trading day that are not repaired. Times are market times in ms.

    Args:
        max_symbols: Losses of more single symbols count as one of the whole market.

    Attributes:
        newest_ms: When data was lost last; 0 where nothing is missing.
        number: Of the last loss.
    """

    def __init__(self, max_symbols: int = 100_000) -> None:
        self._max_symbols = max_symbols
        self.number = 0
        self.clear()

    def clear(self) -> None:
        """Another trading day: nothing of it is missing yet."""
        self.newest_ms: Number = 0
        self._all_ms: Number = 0
        self._all: list[tuple[int, Number]] = []  # (number, since) of losses of the whole market
        self._repaired: dict[str, int] = {}  # symbol -> of these, up to which number
        self._single: dict[str, tuple[int, Number, Number]] = {}  # symbol -> last number, since, when lost

    def __bool__(self) -> bool:
        return bool(self._all or self._single)

    @property
    def whole_market(self) -> bool:
        """Whether something of any symbol may be missing."""
        return bool(self._all)

    def lose(
        self, now_ms: Number, symbols: Iterable[str] | None = None, since_ms: Number | None = None
    ) -> int:
        """Note a loss; returns its number.

        Args:
            now_ms: Market time at which it is noticed.
            symbols: Whose data; None: it may have been any symbol's.
            since_ms: What is newer than this may be missing; None: `now_ms`.
        """
        since = now_ms if since_ms is None else since_ms
        self.number += 1
        self.newest_ms = max(self.newest_ms, now_ms)
        single = self._single
        if symbols is not None and len(single) <= self._max_symbols:
            for symbol in symbols:
                known = single.get(symbol)
                earliest = since if known is None else min(since, known[1])
                single[symbol] = (self.number, earliest, now_ms)
            return self.number
        self._all_ms = max(self._all_ms, now_ms)
        self._all.append((self.number, since))
        if len(self._all) > _MAX_LOSSES:
            _, earlier = self._all.pop(-2)
            self._all[-1] = (self.number, min(earlier, since))
        return self.number

    def repaired(self, symbol: str, number: int) -> None:
        """Nothing of a symbol is missing of the losses up to `number`."""
        known = self._single.get(symbol)
        if known is not None and known[0] <= number:
            del self._single[symbol]
        if self._all:
            self._repaired[symbol] = max(number, self._repaired.get(symbol, 0))
        elif not self._single:
            self.newest_ms = 0

    def settle(self, number: int, left: Iterable[str]) -> None:
        """Repairs of the losses up to `number` are over: from now on only `left` are uncertain of them."""
        single = self._single
        for symbol in left:
            since = self.uncertain_since(symbol)
            if since is not None:
                lost = single[symbol][2] if symbol in single else self._all_ms
                single[symbol] = (number, since, lost)
        self._all = [loss for loss in self._all if loss[0] > number]
        if not self._all:
            self._repaired.clear()
            self._all_ms = 0
            self.newest_ms = max((lost for _, _, lost in single.values()), default=0)

    def uncertain_since(self, symbol: str) -> Number | None:
        """Since when something of a symbol may be missing; None where nothing is."""
        known = self._single.get(symbol)
        since = None if known is None else known[1]
        if self._all:
            done = self._repaired.get(symbol, 0)
            for number, begun in self._all:
                if number > done and (since is None or begun < since):
                    since = begun
        return since

    def is_stale(self, symbol: str, start: Number) -> bool:
        """Whether something may be missing of a symbol since its newest bar, which starts at `start`."""
        return 0 < start <= self.lost_at(symbol)

    def lost_at(self, symbol: str) -> Number:
        """Market time up to which data of a symbol may be missing; 0 where nothing is."""
        known = self._single.get(symbol)
        lost = 0 if known is None else known[2]
        if self._all and self._repaired.get(symbol, 0) < self._all[-1][0]:
            lost = max(lost, self._all_ms)
        return lost

    def symbols(self) -> list[str]:
        """Symbols of which data was lost by themselves."""
        return list(self._single)

    def dump(self) -> Iterator[Any]:
        """The state as msgpack-able records."""
        if self._all:
            yield ["all", self._all_ms, self._all]
        for name, table in (("repaired", self._repaired), ("single", self._single)):
            items = list(table.items())
            for at in range(0, len(items), _DUMP_STEP):
                yield [name, items[at : at + _DUMP_STEP]]
        yield ["number", self.number, self.newest_ms]

    def load(self, record: Any) -> None:
        """Take back a record of `dump`."""
        name = record[0]
        if name == "all":
            self._all_ms, self._all = record[1], [(number, since) for number, since in record[2]]
        elif name == "repaired":
            self._repaired.update((symbol, number) for symbol, number in record[1])
        elif name == "single":
            self._single.update((symbol, (known[0], known[1], known[2])) for symbol, known in record[1])
        elif name == "number":
            self.number, self.newest_ms = max(self.number, record[1]), record[2]
