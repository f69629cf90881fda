"""Events that were never processed are counted by process, and entered in their partition's ledger."""

from __future__ import annotations

import pytest

from mdp.analyzers.state import Market
from mdp.events import Aggregate
from mdp.processor.partition_gaps import PartitionGaps
from mdp.processor.partition_losses import PartitionLosses

NOW = 1_773_153_000_000  # 2026-03-10 10:30 New York


class Rig:
    """Two partitions at work."""

    def __init__(self) -> None:
        self.gaps: dict[int, PartitionGaps] = {}
        for number in (1, 2):
            market = Market()
            market.clock.set(NOW)
            self.gaps[number] = PartitionGaps(market, None)  # type: ignore[arg-type]
        self.losses = PartitionLosses(self.gaps.get)

    def look(self) -> None:
        for gaps in self.gaps.values():
            gaps.losses.look()

    def since(self, number: int, symbol: str = "ANY") -> float | None:
        return self.gaps[number].market.trust.uncertain_since(symbol)


def test_lost_bars_mark_their_partition_since_they_were_missed() -> None:
    """Whose they were is not known: any symbol's of the partition, and no other partition's."""
    rig = Rig()
    rig.losses.note("aggregates", 1, 30, "missed")
    rig.gaps[1].market.clock.set(NOW + 5_000)
    rig.losses.note("aggregates", 1, 12, "missed")
    rig.look()

    assert rig.since(1) == NOW
    assert rig.since(2) is None
    assert rig.losses.events == {("aggregates", "missed"): 42}
    (entry,) = rig.gaps[1].entries()
    assert (entry["reason"], entry["events"], entry["symbols"]) == ("missed", 42, None)
    assert "daily_range_hod_alert" in entry["not_recoverable"]
    before = rig.gaps[1].market.losses
    rig.look()
    assert rig.gaps[1].market.losses == before, "once"


def test_expired_bars_mark_exactly_their_symbols() -> None:
    """The entry was there: it says whose they are, and of when."""
    rig = Rig()
    bars = [Aggregate(symbol, 1, 1, 1, NOW - 8_000) for symbol in ("AAA", "BBB", "BBB")]
    rig.losses.note("aggregates", 1, 3, "expired", bars)
    rig.look()
    assert sorted(rig.gaps[1].market.trust.symbols()) == ["AAA", "BBB"]
    assert (rig.since(1, "AAA"), rig.since(1, "CCC")) == (NOW - 8_000, None)
    rig.losses.note("aggregates", 1, 2, "expired", None)
    rig.look()
    assert rig.since(1, "CCC") == NOW - 8_000, "one that could not be read may have been anybody's"


@pytest.mark.parametrize("queue", ["trades", "quotes", "halts"])
def test_other_events_mark_nothing(queue: str) -> None:
    """Ranges come of bars alone. The ledger has them all the same."""
    rig = Rig()
    rig.losses.note(queue, 1, 3, "expired")
    rig.look()
    assert not rig.gaps[1].market.trust
    assert rig.losses.events == {(queue, "expired"): 3}
    assert [entry["detail"] for entry in rig.gaps[1].entries()] == [f"queue {queue}"]


def test_what_was_lost_of_a_partition_that_is_gone_is_counted() -> None:
    """Its next owner finds the same loss by the counts in its checkpoint."""
    rig = Rig()
    rig.losses.note("aggregates", 7, 3, "missed")
    assert rig.losses.events == {("aggregates", "missed"): 3}
