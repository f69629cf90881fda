"""Lost bars make a partition's highs and lows uncertain; other events are only counted."""

from __future__ import annotations

from typing import Any

import pytest

from mdp.analyzers.state import Market
from mdp.listener.announcement import Announcement
from mdp.processor.listener_gaps import ListenerGaps
from mdp.processor.partition_losses import PartitionLosses

NOW = 1_773_153_000_000  # 2026-03-10 10:30 New York


def at(ms: int) -> Market:
    market = Market()
    market.clock.set(ms)
    return market


def test_lost_bars_mark_their_partition_since_the_last_look() -> None:
    """Whose they were is not known: any symbol's of the partition, and no other partition's."""
    losses, markets = PartitionLosses(), {1: at(NOW), 2: at(NOW)}
    losses.mark(markets)
    markets[1].clock.set(NOW + 5_000)

    losses.note("aggregates", 1, 30, "missed")
    losses.note("aggregates", 1, 12, "missed")
    losses.mark(markets)

    assert markets[1].trust.uncertain_since("ANY") == NOW
    assert markets[2].trust.uncertain_since("ANY") is None
    assert losses.events == {("aggregates", "missed"): 42}
    before = markets[1].losses
    losses.mark(markets)
    assert markets[1].losses == before, "once"


@pytest.mark.parametrize("queue", ["trades", "quotes", "halts"])
def test_other_events_mark_nothing(queue: str) -> None:
    """Ranges come of bars alone."""
    losses, market = PartitionLosses(), at(NOW)
    losses.note(queue, 1, 3, "expired")
    losses.mark({1: market})
    assert not market.trust
    assert losses.events == {(queue, "expired"): 3}


def said(*gaps: dict[str, Any], ts: int = 1_000_000) -> Announcement:
    return Announcement(ts=ts, ledger=list(gaps))


GAP: dict[str, Any] = {
    "number": 1,
    "reason": "error",
    "start_ms": 999_000,
    "market_start_ms": NOW - 3_000,
    "end_ms": None,
}


def test_a_gap_of_the_listener_marks_every_market_when_it_opens_and_when_it_ends() -> None:
    """What came between may be missing until the first event behind it."""
    gaps, market, idle = ListenerGaps(), at(NOW), Market()
    gaps.look(said(), [market])
    gaps.look(said(GAP), [market, idle])
    assert market.trust.uncertain_since("ANY") == NOW - 3_000
    assert not idle.trust, "before its first event there is nothing that could be incomplete"
    gaps.look(said(GAP), [market])
    assert gaps.marked == 1
    gaps.look(said({**GAP, "end_ms": 1_000_500}), [market])
    assert gaps.marked == 2


def test_what_ended_long_before_we_heard_of_it_is_in_the_checkpoints() -> None:
    """A processor that starts in the afternoon does not mark the morning's outage; a present one, it does."""
    gaps, market = ListenerGaps(), at(NOW)
    gaps.look(said({**GAP, "end_ms": 999_500}, {**GAP, "number": 2}, ts=2_000_000), [market])
    assert gaps.marked == 1


def test_a_gap_of_some_symbols_marks_those_alone() -> None:
    """As far as the ledger names them all."""
    gaps, market = ListenerGaps(), at(NOW)
    market.state_of("AAA")
    gaps.look(said(), [market])
    gaps.look(said({**GAP, "symbols": ["AAA", "ZZZ"], "symbols_count": 2}), [market])
    assert market.trust.symbols() == ["AAA"]
