"""Events that wait for the market clock, and bands of prices, over a hand-over."""

from __future__ import annotations

import json
from typing import Any

from mdp.analyzers import waiting
from mdp.analyzers.trade_ledger import TradeLedger
from mdp.processor import engine_state
from tests.analyzers.rig import Rig, at, trade

NOON = at(12)
LATER = NOON + 75_000  # beyond what the clock believes


def handed_over(one: Rig) -> Rig:
    """Another engine with what the first one dumped, as it is after MessagePack or JSON."""
    records: list[Any] = [tuple(json.loads(json.dumps(record))) for record in engine_state.dump(one.engine)]
    other = Rig()
    engine_state.hydrate(other.engine, one.market.clock.now_ms, records)
    return other


def test_a_trade_ahead_of_the_clock_counts_for_the_successor_once_its_time_has_come() -> None:
    """Once, and it is a repeat when it comes again."""
    one = Rig()
    one.tick(NOON)
    one.send(trade("AAA", LATER, 70, 7.5, i="ahead"))
    assert TradeLedger.of(one.market).trade_count("AAA") == 0

    other = handed_over(one)
    other.tick(NOON + 30_000)
    other.send(trade("BBB", NOON + 30_000, 1, 1.0, i="b"), trade("AAA", LATER, 70, 7.5, i="ahead"))

    known = TradeLedger.of(other.market).symbols["AAA"]
    assert (known.trade_count, known.duplicates) == (1, 1)


def test_what_another_version_wrote_is_left_alone() -> None:
    """Kinds and numbers of fields that are not ours."""
    rig = Rig()
    waiting.hydrate(rig.market, [["T", "AAA"], ["NEW", 1, 2, 3]])
    assert waiting.dump(rig.market) == []
