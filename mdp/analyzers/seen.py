"""Which trades came already: the memory that recognizes repeats.

The provider sends a trade again now and then, within a frame or after a while; its sequence number is
neither unique nor rising, so only (symbol, exchange, trade id, tape, TRF) tells. Keeping those for every
trade would take gigabytes a day. Kept are 64-bit hashes of the market's last trades, in sets: about 80
bytes a trade, 85 MB at most. Two different trades of the million that is remembered are taken for one
with a probability of a million / 2**64 a trade: once in a thousand years of a hundred million trades a day.
"""

from __future__ import annotations

#: Hashes are spread over so many sets, which are emptied in turn: to free all at once would take 20 ms.
SHARDS = 64
#: At least so many trades of the market are remembered, at most twice as many: of an average day's market
#: 2 to 4 minutes, of a thousand active symbols their last 1,000 trades or so.
REMEMBERED = 524_288


class Seen:
    """Two generations of hashes in each of `SHARDS` sets; `hash & (SHARDS - 1)` says which.

    The hot loop looks into `recent` and `older` itself, adds to `recent`, and says so to `added`.
    """

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self.recent: list[set[int]] = [set() for _ in range(SHARDS)]
        self.older: list[set[int]] = [set() for _ in range(SHARDS)]
        self._step = max(1, remembered // SHARDS)
        self._left = self._step  # trades until the next shard's turn
        self._next = 0

    def __len__(self) -> int:
        """Hashes kept."""
        return sum(map(len, self.recent)) + sum(map(len, self.older))

    def added(self, count: int) -> None:
        """So many trades were added: forget what is due, at most 1 ms of work a step."""
        self._left -= count
        while self._left <= 0:
            self._left += self._step
            at = self._next
            self.older[at] = self.recent[at]
            self.recent[at] = set()
            self._next = (at + 1) % SHARDS
