"""A market in one process and the same one in parts, for tests that compare what comes out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mdp.analyzers.leaderboards import BOARDS, ROWS
from mdp.analyzers.state import NoReference
from mdp.feeds import Family
from mdp.processor.parts import Packer, Part, merge_board, read
from tests.analyzers.halt_rig import HaltRig
from tests.analyzers.rig import Rig, at

NOON = at(12)
Wire = dict[str, Any]


class Whole:
    """The whole market in one rig, and its symbols spread over others.

    Args:
        partition_of: Where a symbol belongs.
        count: Partitions.
        rig: What each of them is.
    """

    def __init__(
        self,
        partition_of: Callable[[str], int],
        count: int,
        rig: Callable[[], Rig] = Rig,
        *,
        limit: int = ROWS,
    ) -> None:
        self.one = rig()
        self.parts = [rig() for _ in range(count)]
        self.packers = [Packer(epoch=1) for _ in range(count)]
        self._partition_of = partition_of
        for each in (self.one, *self.parts):
            each.tick(NOON)
        for board in BOARDS:
            for number in range(count):
                self.limit(number, board, limit)

    def limit(self, number: int, board: Family, rows: int) -> None:
        """Tell a partition how many rows of a board it is to give."""
        self.packers[number].limits[board.name] = rows
        self.parts[number].boards.limit(board, rows)

    def refer(self, rows: dict[str, NoReference]) -> None:
        """Reference values: every partition gets all of them."""
        for each in (self.one, *self.parts):
            each.market.refer(rows)

    def send(self, *wire: Wire) -> None:
        """Events, to the one and to the parts; all clocks go on with each."""
        newest = max(event["s"] if "s" in event and event["ev"] == "A" else event["t"] for event in wire)
        for each in (self.one, *self.parts):
            if newest > each.market.clock.now_ms:
                each.tick(newest)
        self.one.send(*wire)
        for number, part in enumerate(self.parts):
            part.send(*[e for e in wire if self._partition_of(e.get("sym") or e["T"]) == number])

    def read(self, family: Family) -> dict[str, Part]:
        """What the partitions contribute to a feed now; those that have nothing are left out."""
        found = {}
        for number, part in enumerate(self.parts):
            value = value_of(part, family.name)
            if value is not None:
                found[f"partition:{number}"] = read(self.packers[number].packers[family.name](value))
        return found

    def merged(self, board: Family, *, rounds: int = 1) -> list[Any]:
        """A board put together, after so many rounds of asking for more or less."""
        rows: list[Any] = []
        for _ in range(rounds):
            rows, limits = merge_board(board, self.read(board))
            for name, limit in limits.items():
                self.limit(int(name.removeprefix("partition:")), board, limit)
        return rows


def value_of(rig: Rig, key: str) -> Any:
    """What a provider of a rig says, as an object."""
    asking = rig.cache.get(key)
    while True:
        try:
            asking.send(None)
        except StopIteration as answer:
            return None if answer.value is None else answer.value.value


__all__ = ["NOON", "HaltRig", "Whole", "value_of"]
