"""What a listener lost while connected is in its ledger: whose, how much, from when to when."""

from __future__ import annotations

from typing import Any

import pytest

from mdp.events import Aggregate, Trade
from mdp.listener import losses as losses_module
from mdp.listener.gaps import GapLedger
from mdp.listener.losses import QUIET_NS, ListenerLosses
from mdp.listener.ring import RawRing
from mdp.queues.base import Batch


class Rig:
    """Losses with clocks that a test turns."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.market_ms = 1_000.0
        self.ring = RawRing(max_bytes=100, max_age_ns=1 << 62)
        self.ledger = GapLedger(wall_ms=lambda: 10)
        self.losses = ListenerLosses(self.ledger, self.ring, lambda: self.market_ms, lambda: self.now_ns)

    def entries(self) -> list[dict[str, Any]]:
        return self.ledger.entries()

    def quiet(self) -> None:
        self.now_ns += QUIET_NS
        self.market_ms += 5_000
        self.losses.look()


def bars(*symbols: str, start: float = 1_000) -> Batch:
    return Batch([Aggregate(symbol, 1, 1, 1, start) for symbol in symbols], 0)


def test_without_losses_the_ledger_stays_empty() -> None:
    """However often it is looked."""
    rig = Rig()
    rig.losses.look()
    rig.quiet()
    assert rig.entries() == []


def test_losses_that_follow_each_other_are_one_entry() -> None:
    """From the oldest bar's time to the one after the last, with the symbols of all."""
    rig = Rig()
    rig.losses.queue_lost("aggregates", "expired", bars("A", "B", start=900))
    rig.losses.look()
    rig.now_ns += QUIET_NS - 1
    rig.losses.queue_lost("aggregates", "expired", bars("C", start=800))
    rig.losses.look()
    (entry,) = rig.entries()
    assert entry["end_ms"] is None
    rig.quiet()
    (entry,) = rig.entries()
    assert (entry["reason"], entry["detail"], entry["events"]) == ("expired", "queue aggregates", 3)
    assert (entry["symbols"], entry["symbols_count"]) == (["A", "B", "C"], 3)
    assert (entry["market_start_ms"], entry["market_end_ms"]) == (800, 6_000)
    rig.losses.queue_lost("aggregates", "expired", bars("D"))
    rig.losses.look()
    assert len(rig.entries()) == 2


def test_shed_frames_may_have_been_any_symbols() -> None:
    """They were not decoded: counted by what looks like events."""
    rig = Rig()
    for _ in range(4):
        rig.ring.append('[{"ev":"T"},{"ev":"Q"}]' + " " * 30, 0)
    rig.losses.look()
    (entry,) = rig.entries()
    assert (entry["reason"], entry["frames"], entry["events"]) == ("shed", 3, 6)
    assert entry["symbols"] is entry["symbols_count"] is None


def test_lost_trades_make_nobodys_bars_uncertain() -> None:
    """The number is told, and no symbol."""
    rig = Rig()
    rig.losses.queue_lost("trades", "dropped", Batch([Trade("A", 1, 1, 1)], 0))
    rig.losses.look()
    (entry,) = rig.entries()
    assert (entry["events"], entry["symbols"], entry["symbols_count"]) == (1, [], 0)


@pytest.mark.parametrize("at_once", [True, False])
def test_more_symbols_than_can_be_told_apart_are_all(at_once: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one second or one after the other."""
    monkeypatch.setattr(losses_module, "MAX_SYMBOLS", 3)
    rig = Rig()
    for number in range(6):
        rig.losses.queue_lost("aggregates", "expired", bars(f"S{number}"))
        if not at_once:
            rig.losses.look()
    rig.losses.look()
    (entry,) = rig.entries()
    assert entry["symbols"] is None
    assert entry["events"] == 6
