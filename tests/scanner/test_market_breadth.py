"""Market breadth: how many symbols made new highs and lows today."""

from __future__ import annotations

from typing import Any

from mdp.cache.base import Message
from mdp.cache.memory import MemoryBus, MemoryCache
from mdp.feeds import HOD_ALERT, LOD_ALERT, Family
from mdp.processor.results import Results
from mdp.scanner.market_breadth import MarketBreadth
from tests.analyzers.rig import at


class Alert:
    """What the scanner reads of an alert."""

    def __init__(self, symbol: str, ms: float) -> None:
        self.symbol, self.timestamp = symbol, ms / 1000


def scanner() -> MarketBreadth:
    """A scanner that has seen nothing."""
    bus = MemoryBus(epoch=1)
    return MarketBreadth(Results(bus, MemoryCache(bus)))


def message(family: Family, symbol: str, ms: float) -> Message:
    """An alert as it comes over the bus."""
    return Message(family.name, family, 1, 1, Alert(symbol, ms))


def fields(highs: int, lows: int) -> dict[str, Any]:
    """What is added to `market:status`."""
    return {"new_highs": highs, "new_lows": lows}


def test_before_the_first_alert_there_are_none() -> None:
    """Zero, not absent."""
    breadth = scanner()
    assert breadth.status_fields() == fields(0, 0)
    assert breadth.day is None


def test_a_symbol_counts_once_a_side() -> None:
    """However often it makes a high, in whichever session; a low is counted apart."""
    breadth = scanner()
    breadth.process(
        [message(HOD_ALERT, "AAA", at(hour)) for hour in (5, 10, 17)]
        + [message(LOD_ALERT, "AAA", at(17)), message(HOD_ALERT, "BBB", at(10))]
    )
    assert breadth.status_fields() == fields(2, 1)


def test_four_o_clock_begins_anew() -> None:
    """With the first alert past it; one of the day before that comes later counts for nothing."""
    breadth = scanner()
    breadth.process([message(HOD_ALERT, "AAA", at(10)), message(LOD_ALERT, "BBB", at(10))])
    tomorrow = at(4, day=(2024, 3, 6))
    breadth.process([message(LOD_ALERT, "CCC", tomorrow), message(HOD_ALERT, "DDD", at(19))])
    assert breadth.status_fields() == fields(0, 1)
    assert str(breadth.day) == "2024-03-06"
