"""Which trades came already: the memory that recognizes repeats.

The provider sends a trade again now and then, within a frame or after a while; its sequence number is
neither unique nor rising, so only (symbol, exchange, trade id, tape, TRF) tells. Keeping those for every
trade would take gigabytes a day. Kept are 64-bit hashes of the market's last trades, in two sets: about 80
bytes a trade, 11 MB at most. Two different trades are taken for one with a probability of an eighth of a
million / 2**64 a trade: once in four thousand years of a hundred million trades a day.

A whole batch is looked up in one call of C: one by one, each trade waited for the memory alone, and that
took twice as long.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat

from mdp.events import Trade

#: At least so many trades of the market are remembered, at most twice as many: of an average day a
#: quarter to half a minute. (Larger sets are slower: they fit no cache, and grow in steps of over 5 ms.)
REMEMBERED = 65_536


def identity(trade: Trade) -> tuple[object, ...]:
    """What makes a trade the same as another one of its day."""
    return (trade.symbol, trade.id, trade.exchange, trade.tape, trade.trf_id)


class Seen:
    """Two generations of hashes: when the newer one is full, it becomes the older one.

    Attributes:
        day: Part of each hash, because trade ids are unique within a day only.
    """

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self.day = 0
        self._remembered = remembered
        self._newer: set[int] = set()
        self._older: set[int] = set()
        #: To be freed, a few at a time; empty when its turn comes to be the newer one. Always the same three
        #: sets: in a new one, the garbage collector looked at every hash, which took 15 ms.
        self._forgotten: set[int] = set()

    def __len__(self) -> int:
        """Trades that are remembered."""
        return len(self._newer) + len(self._older)

    def admit(self, trades: list[Trade]) -> tuple[list[Trade], list[Trade]]:
        """Those that are new, in order, and those that came before. Without an id nobody can tell: new."""
        ids = [trade.id for trade in trades]
        if None in ids or "" in ids:
            return self._sort_out(trades)
        hashes = list(
            map(
                hash,
                zip(
                    [trade.symbol for trade in trades],
                    ids,
                    [trade.exchange for trade in trades],
                    [trade.tape for trade in trades],
                    [trade.trf_id for trade in trades],
                    repeat(self.day),
                    strict=False,
                ),
            )
        )
        newer = self._newer
        if not (newer.isdisjoint(hashes) and self._older.isdisjoint(hashes)):
            return self._sort_out(trades)
        before = len(newer)
        newer.update(hashes)
        if len(newer) - before < len(hashes):  # a repeat within the batch: which is it?
            newer.difference_update(hashes)
            return self._sort_out(trades)
        self._forget_oldest(len(hashes))
        return trades, []

    def forget(self, trade: Trade) -> None:
        """A trade that was admitted and did not count: it may come again."""
        self._newer.discard(self._hash(trade))

    def _sort_out(self, trades: Iterable[Trade]) -> tuple[list[Trade], list[Trade]]:
        new: list[Trade] = []
        repeated: list[Trade] = []
        newer, older = self._newer, self._older
        for trade in trades:
            if trade.id is None or trade.id == "":
                new.append(trade)
                continue
            key = self._hash(trade)
            if key in newer or key in older:
                repeated.append(trade)
            else:
                newer.add(key)
                new.append(trade)
        self._forget_oldest(len(new))
        return new, repeated

    def _hash(self, trade: Trade) -> int:
        return hash((trade.symbol, trade.id, trade.exchange, trade.tape, trade.trf_id, self.day))

    def _forget_oldest(self, count: int) -> None:
        if self._forgotten:  # all at once took 20 ms
            pop = self._forgotten.pop
            for _ in range(min(len(self._forgotten), 2 * count)):
                pop()
        if len(self._newer) >= self._remembered:
            self._forgotten.clear()
            self._forgotten, self._older, self._newer = self._older, self._newer, self._forgotten
