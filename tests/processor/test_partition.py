"""A partition that is taken over: what it knows of the listener whose entries its state is of."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mdp.analyzers.state import Market
from mdp.processor.partition import Partition
from mdp.processor.partition_gaps import PartitionGaps
from mdp.queues.entry import Header
from mdp.queues.stream_reader import Cursor, Delivery


@pytest.mark.parametrize(("epoch", "marked"), [(7, 0), (8, 1)])
def test_a_successor_knows_whose_entries_its_state_is_of(epoch: int, marked: int) -> None:
    """The first entry of a later listener marks the market, also where it is the first that comes here."""
    gaps = _Gaps()
    engine: Any = SimpleNamespace(guards=[SimpleNamespace(analyzer=gaps)])
    one = object.__new__(Partition)
    one.engine = engine
    one.go_on({"quotes": Cursor(epoch=6), "aggregates": Cursor(epoch=7)})
    one._hear(epoch)
    one._hear(epoch)
    assert gaps.marks == marked


def test_lost_bars_are_known_before_the_bars_behind_them() -> None:
    """One of these may be a new high that is none."""
    steps: list[Any] = []
    gaps = _Gaps()
    gaps.bars_lost = steps.append  # type: ignore[assignment, method-assign]
    engine: Any = SimpleNamespace(
        guards=[SimpleNamespace(analyzer=gaps)],
        lead=lambda _ms: None,
        market=Market(),
        process=lambda queue, batch: steps.append((queue, batch.events)),
    )
    output = SimpleNamespace(silent=False)
    out: Any = SimpleNamespace(output=output, attach=lambda *_, **__: None, warming_up=lambda: False)
    one = Partition(0, 1, engine, out)
    header = Header(3, 1, 1, 1, 0, 5, None, {"expired": ["AAA"]})
    one.take(Delivery("aggregates", 0, (1, 0), header, ["a bar"], False), 0)
    assert steps == [{"expired": ["AAA"]}, ("aggregates", ["a bar"])]


class _Gaps(PartitionGaps):
    """Counts what it is told."""

    def __init__(self) -> None:
        self.marks = 0

    def another_writes(self) -> None:
        self.marks += 1
