"""Which trades came already: the memory that recognizes repeats.

The provider sends a trade again now and then, within a frame or after a while; its sequence number is
neither unique nor rising, so only (symbol, exchange, trade id, tape, TRF) tells. Keeping those for every
trade would take gigabytes a day. Kept are 64-bit hashes of the market's last trades, in two sets: about 90
bytes a trade, 18 MB at most. Two different trades are taken for one with a probability of an eighth of a
million / 2**64 a trade: once in four thousand years of a hundred million trades a day.

A whole batch is looked up in one call of C: one by one, each trade waited for the memory alone, and that
took twice as long.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import repeat

from mdp.events import Trade

#: At least so many trades of the market are remembered, at most twice as many: of an average day a
#: quarter to half a minute. (Larger sets are slower: they fit no cache, and grow in steps of over 5 ms.)
REMEMBERED = 65_536


def identity(trade: Trade) -> tuple[object, ...]:
    """What makes a trade the same as another one of its day."""
    return (trade.symbol, trade.id, trade.exchange, trade.tape, trade.trf_id)


class _Generation:
    """Hashes of trades, and in which order they came."""

    __slots__ = ("batches", "hashes", "noted")

    def __init__(self) -> None:
        self.hashes: set[int] = set()
        self.batches: deque[tuple[int, ...]] = deque()  # of tuples: the garbage collector leaves them alone
        self.noted = 0  # hashes in all of them, those that `forget` took out of the set as well

    def note(self, batch: tuple[int, ...]) -> None:
        """Keep the order of hashes that were added to the set."""
        if batch:
            self.batches.append(batch)
            self.noted += len(batch)

    def free(self, count: int) -> None:
        """Forget about so many, oldest first.

        In the order in which they came they lie in memory one behind the other. In the set's own order each
        is somewhere else, and to fetch it only to free it took as long as all the rest of `admit`.
        """
        batches = self.batches
        while batches and count > 0:
            batch = batches.popleft()
            count -= len(batch)
            self.hashes.difference_update(batch)

    def clear(self) -> None:
        """Forget all, and give the memory back."""
        self.batches.clear()
        self.hashes.clear()
        self.noted = 0


class Seen:
    """Two generations of hashes: when the newer one is full, it becomes the older one.

    Attributes:
        day: Part of each hash, because trade ids are unique within a day only.
    """

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self.day = 0
        self._remembered = remembered
        self._newer = _Generation()
        self._older = _Generation()
        #: To be freed, a few at a time; empty when its turn comes to be the newer one. Always the same three
        #: sets: in a new one, the garbage collector looked at every hash, which took 15 ms.
        self._forgotten = _Generation()

    def __len__(self) -> int:
        """Trades that are remembered."""
        return len(self._newer.hashes) + len(self._older.hashes)

    def admit(self, trades: list[Trade]) -> tuple[list[Trade], list[Trade]]:
        """Those that are new, in order, and those that came before. Without an id nobody can tell: new."""
        ids = [trade.id for trade in trades]
        if not all(ids):
            return self._sort_out(trades)
        hashes = tuple(
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
        newer = self._newer.hashes
        if not (newer.isdisjoint(hashes) and self._older.hashes.isdisjoint(hashes)):
            return self._sort_out(trades)
        before = len(newer)
        newer.update(hashes)
        if len(newer) - before < len(hashes):  # a repeat within the batch: which is it?
            newer.difference_update(hashes)
            return self._sort_out(trades)
        self._newer.note(hashes)
        self._forget_oldest(len(hashes))
        return trades, []

    def forget(self, trade: Trade) -> None:
        """A trade that was admitted and did not count: it may come again."""
        key = self._hash(trade)
        self._newer.hashes.discard(key)
        self._older.hashes.discard(key)  # where the batch that it came with filled the newer one

    def _sort_out(self, trades: Iterable[Trade]) -> tuple[list[Trade], list[Trade]]:
        new: list[Trade] = []
        repeated: list[Trade] = []
        added: list[int] = []
        newer, older = self._newer.hashes, self._older.hashes
        for trade in trades:
            if trade.id is None or trade.id == "":
                new.append(trade)
                continue
            key = self._hash(trade)
            if key in newer or key in older:
                repeated.append(trade)
            else:
                newer.add(key)
                added.append(key)
                new.append(trade)
        self._newer.note(tuple(added))
        self._forget_oldest(len(new))
        return new, repeated

    def _hash(self, trade: Trade) -> int:
        return hash((trade.symbol, trade.id, trade.exchange, trade.tape, trade.trf_id, self.day))

    def _forget_oldest(self, count: int) -> None:
        self._forgotten.free(2 * count)  # all at once took 20 ms
        if self._newer.noted >= self._remembered:
            self._forgotten.clear()
            self._forgotten, self._older, self._newer = self._older, self._newer, self._forgotten
