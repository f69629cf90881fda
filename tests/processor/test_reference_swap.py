"""The reset brings the new day's reference values before anybody sees the day's first bar."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any, ClassVar

from mdp.analyzers.base import Analyzer, EventBatch
from mdp.analyzers.state import NO_REFERENCE, Market
from mdp.cache.memory import MemoryBus, MemoryCache
from mdp.cache.table import ReferenceRow
from mdp.events import AGGREGATES, Aggregate
from mdp.processor.engine import Engine
from mdp.processor.reference_swap import ReferenceSwap
from mdp.processor.results import Results
from mdp.queues.base import Batch
from tests.analyzers.rig import at

DAY_MS = 86_400_000


class Witness(Analyzer):
    """Notes each symbol's previous close as an analyzer sees it with a bar."""

    name: ClassVar[str] = "witness"
    queues: ClassVar[tuple[str, ...]] = (AGGREGATES,)

    def __init__(self, market: Market, out: Results) -> None:
        super().__init__(market, out)
        self.seen: list[tuple[str, float]] = []

    def process(self, batch: EventBatch) -> None:
        for symbol in sorted(batch.symbols):
            self.seen.append((symbol, self.market.symbols[symbol].reference.prev_day_close))


class Setting:
    """An engine whose values of each day are at hand."""

    def __init__(self, days: dict[date, dict[str, ReferenceRow]]) -> None:
        self.market = Market()
        self.bus = MemoryBus(epoch=1)
        results = Results(self.bus, MemoryCache(self.bus))
        self.entered: list[date] = []
        self.days = days
        self.swap = ReferenceSwap(self.market, results, self.enter)
        self.witness = Witness(self.market, results)
        self.engine = Engine(self.market, results, [self.swap, self.witness], max_failures=3)

    def enter(self, day: date) -> None:
        self.entered.append(day)
        self.swap.swap(self.days.get(day, {}))

    def process(self, *bars: Any) -> None:
        self.engine.process(AGGREGATES, Batch(list(bars), 0))


def bars(start: int, price: float) -> list[Any]:
    """One of each of three symbols: a new day begins when three agree."""
    return [Aggregate(symbol, price, price, price, start) for symbol in ("A", "B", "C")]


def test_the_first_bars_of_a_day_meet_its_values() -> None:
    """Not the old ones, and not for an instant none."""
    first = at(12)
    setting = Setting({})
    setting.process(*bars(first, 10))
    today = setting.entered[0]
    tomorrow = today + timedelta(days=1)
    setting.days = {tomorrow: {"A": ReferenceRow(prev_day_close=50), "B": ReferenceRow(prev_day_close=4)}}
    setting.witness.seen.clear()

    setting.process(*bars(first + DAY_MS, 55))

    assert setting.entered == [today, tomorrow]
    assert setting.witness.seen == [("A", 50), ("B", 4), ("C", 0)]


def test_nothing_of_the_old_day_stays() -> None:
    """A symbol without values for the new day has none, and one that is already there is given them."""
    setting = Setting({})
    setting.process(*bars(at(12), 10))
    setting.swap.swap({"A": ReferenceRow(prev_day_close=8)})
    market = setting.market
    revision = market.revision
    assert market.symbols["A"].reference.prev_day_close == 8
    assert market.symbols["B"].reference is NO_REFERENCE

    rows = {"B": ReferenceRow(prev_day_close=9)}
    setting.swap.swap(rows)
    assert market.symbols["A"].reference is NO_REFERENCE
    assert market.symbols["B"].reference.prev_day_close == 9
    assert set(market.references) == {"B"}
    assert market.revision > revision
    rows["Z"] = ReferenceRow()
    assert "Z" not in market.references


def test_a_failing_part_keeps_no_day_from_beginning() -> None:
    """Whatever the reference values do, the day is reset and bars are taken."""

    def fail(_day: date) -> None:
        raise RuntimeError

    setting = Setting({})
    setting.swap._enter = fail
    setting.process(*bars(at(12), 10))
    assert set(setting.market.symbols) == {"A", "B", "C"}
    assert len(setting.witness.seen) == 3


def test_a_symbol_without_values_says_what_it_waits_for() -> None:
    """Also one that is there already; those that have values keep them."""
    setting = Setting({})
    setting.process(*bars(at(12), 10))
    setting.swap.swap({"A": ReferenceRow(prev_day_close=8)})
    setting.swap.unknown(("free_float",))
    symbols = setting.market.symbols
    assert symbols["A"].reference.pending == ()
    assert symbols["B"].reference.pending == ("free_float",)
    setting.swap.unknown(())
    assert symbols["B"].reference.pending == ()
    assert setting.market.state_of("D").reference.pending == ()
    assert symbols["A"].reference.prev_day_close == 8
