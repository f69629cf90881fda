"""When garbage is collected."""

from __future__ import annotations

import gc

from mdp.collector import Collector, spare_the_collector
from mdp.sessions import CLOSED, REGULAR


def test_the_old_is_collected_once_an_hour_while_the_market_is_closed() -> None:
    """Never while somebody trades, however long that lasts; then at once."""
    now, session, collected = 0.0, CLOSED, 0

    def collect() -> None:
        nonlocal collected
        collected += 1

    collector = Collector(lambda: session, lambda: now, collect)
    collector.look()
    assert collected == 0
    now = 3_600.0
    collector.look()
    collector.look()
    assert collected == collector.runs == 1
    session, now = REGULAR, 100_000.0
    collector.look()
    assert collected == 1
    session = CLOSED
    collector.look()
    assert collected == 2


def test_cycles_among_the_young_are_still_collected() -> None:
    """A process that never sees the market closed does not grow by what ends young."""
    before = gc.get_threshold()
    seen = []

    class Node:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            seen.append(1)

    try:
        spare_the_collector()
        for _ in range(50_000):
            Node()
        assert len(seen) > 20_000
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
