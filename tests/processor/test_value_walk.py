"""Which plain keys are written when: evenly, at most every five seconds, only what changed."""

from __future__ import annotations

from typing import Any

from mdp.analyzers.rows import quote_of
from mdp.analyzers.state import NoReference
from mdp.cache.base import encode_json
from mdp.feeds import AGG, DAILY_RANGE, HALT, LULD, QUOTE, TRADE_STATS, Family
from mdp.processor.value_walk import ValueWalk
from tests.analyzers.rig import Rig, at, bar, trade

NOON = at(12)


class Bench:
    """A market of `count` symbols and a walk over it; values are the numbers of their making."""

    def __init__(self, count: int = 0, **options: Any) -> None:
        self.rig = Rig()
        self.rig.tick(NOON)
        self.made: list[tuple[str, str]] = []
        self.nothing: set[tuple[str, str]] = set()
        providers = {family.name: self.provider(family) for family in (QUOTE, DAILY_RANGE, AGG, TRADE_STATS)}
        self.providers = providers
        self.walk = ValueWalk(self.rig.market, providers, **{"most_seconds": 1.0, **options})
        if count:
            self.bars(count, 10)

    def provider(self, family: Family) -> Any:
        def provide(symbol: str) -> Any:
            self.made.append((family.name, symbol))
            return None if (family.name, symbol) in self.nothing else len(self.made)

        return provide

    def bars(self, count: int, close: float) -> None:
        self.rig.send(*[bar(f"S{n}", NOON + int(close), close, av=1) for n in range(count)])

    def due(self, seconds: float = 5.0) -> list[tuple[str, str]]:
        """What is written in so many seconds, a second at a time."""
        found = []
        while seconds > 0:
            found += [(family.name, symbol) for family, symbol, _ in self.walk.due(min(1.0, seconds))]
            seconds -= 1
        return found


BARS = ("quote:{S}", "daily_range:{S}", "stocks:agg:{S}")


def test_every_value_once_in_five_seconds() -> None:
    """All symbols, and each value at most once in a round."""
    bench = Bench(100)
    assert sorted(bench.due()) == sorted((family, f"S{n}") for family in BARS for n in range(100))


def test_the_work_is_spread_evenly() -> None:
    """A turn of 20 ms looks at its share of the symbols."""
    bench = Bench(1_000)
    turns = [len(list(bench.walk.due(0.02))) for _ in range(100)]
    assert max(turns) == 4 * len(BARS)
    assert sum(turns) == 100 * 4 * len(BARS)


def test_only_what_changed() -> None:
    """A bar changes a symbol's quote, range and last bar; trades its day statistics and quote."""
    bench = Bench(50)
    bench.due()
    assert bench.due() == []
    bench.rig.send(bar("S7", NOON + 5_000, 11, av=2))
    assert sorted(bench.due()) == sorted((family, "S7") for family in BARS)
    bench.rig.send(trade("S8", NOON, 100), trade("NEW", NOON, 100))
    assert sorted(bench.due()) == sorted(
        [
            ("trade_stats:{S}", "S8"),
            ("trade_stats:{S}", "NEW"),
            ("quote:{S}", "S8"),
            ("daily_range:{S}", "S8"),
        ]
    )
    assert bench.due() == []


def test_changes_over_the_last_minutes_go_on_without_a_bar() -> None:
    """A quiet symbol is written each quarter of a minute, until its newest bar is older than half an hour."""
    bench = Bench(10)
    bench.due()
    quiet = sorted((family, f"S{n}") for family in ("quote:{S}", "daily_range:{S}") for n in range(10))
    for minutes in (0.25, 1, 29.75, 30):
        bench.rig.tick(NOON + round(minutes * 60_000))
        assert sorted(bench.due()) == quiet
        assert bench.due() == []
    for minutes in (30.25, 31, 45):
        bench.rig.tick(NOON + round(minutes * 60_000))
        assert bench.due() == []


def test_a_bar_sent_again_and_a_late_one() -> None:
    """The corrected newest bar is another value; so is a range that a late one extended."""
    bench = Bench()
    bench.rig.send(bar("AAA", NOON, 10, av=1))
    bench.due()
    bench.rig.send(bar("AAA", NOON, 10.5, av=1))
    assert ("quote:{S}", "AAA") in bench.due()
    bench.rig.send(bar("AAA", NOON - 5_000, 10, high=20, av=1))
    assert ("daily_range:{S}", "AAA") in bench.due()


def test_reference_values_change_those_whose_they_are() -> None:
    """They stand in their symbol's quote, and nothing that was written of others is wrong by them."""
    bench = Bench(10)
    bench.due()
    bench.rig.market.refer({"S1": NoReference(prev_day_close=5)})
    assert sorted(bench.due(10)) == [("daily_range:{S}", "S1"), ("quote:{S}", "S1")]


def test_no_more_than_the_limit() -> None:
    """More changes than may be written make a round longer; none is forgotten."""
    bench = Bench(100, per_second=30)
    assert len(bench.due(5)) <= 5 * 30 + len(BARS)
    assert len(bench.due(6)) > 100


def test_after_a_pause_not_all_at_once() -> None:
    """Redis was away for a minute: a second's share is due, no more."""
    bench = Bench(500)
    assert len(list(bench.walk.due(60.0))) == 100 * len(BARS)


def test_where_the_loop_is_busy_a_round_takes_longer() -> None:
    """Turns that come late do no more than others: values under plain keys must not cost events."""
    bench = Bench(1_000, most_seconds=0.1)
    in_time = [len(list(bench.walk.due(0.1))) for _ in range(5)]
    late = [len(list(bench.walk.due(0.5))) for _ in range(5)]
    assert sum(late) == sum(in_time) == 5 * 20 * len(BARS)


def test_what_was_lost_is_written_again() -> None:
    """All of it, and what otherwise is written only when it changes: halts and limits."""
    bench = Bench(20)
    bench.due()
    bench.providers[HALT.name] = lambda symbol: symbol == "S3" or None
    bench.providers[LULD.name] = lambda symbol: symbol == "S4" or None
    assert bench.due() == []
    bench.walk.forget()
    again = bench.due()
    assert len(again) == 20 * len(BARS) + 2
    assert {(HALT.name, "S3"), (LULD.name, "S4")} <= set(again)
    assert bench.due() == []


def test_a_new_day_deletes_what_it_forgot() -> None:
    """Yesterday's quote is no longer the quote; whoever trades today has one again."""
    bench = Bench(3)
    bench.rig.send(trade("S0", NOON, 100))
    bench.due(10)
    bench.rig.tick(at(4, day=(2024, 3, 6)))
    bench.rig.send(bar("S1", at(4, day=(2024, 3, 6)), 10, av=1))
    written: dict[tuple[str, str], Any] = {}
    for _ in range(20):
        written |= {(family.name, symbol): value for family, symbol, value in bench.walk.due(1.0)}
    gone = {key for key, value in written.items() if value is None}
    assert gone == {(family, symbol) for family in BARS for symbol in ("S0", "S2")} | {
        ("trade_stats:{S}", "S0")
    }
    assert {key for key, value in written.items() if value is not None} == {(f, "S1") for f in BARS}
    assert bench.due(10) == []


def test_a_value_that_there_is_not_is_not_deleted() -> None:
    """A provider that has nothing yet writes nothing, and is asked again."""
    bench = Bench()
    bench.nothing.add((AGG.name, "AAA"))
    bench.rig.send(bar("AAA", NOON, 10, av=1))
    assert sorted(bench.due()) == [("daily_range:{S}", "AAA"), ("quote:{S}", "AAA")]
    bench.nothing.clear()
    assert bench.due() == [(AGG.name, "AAA")]


def test_a_quote_is_worked_out_with_its_range() -> None:
    """The same bytes as by itself, without working it out twice; where no range is kept, by itself."""
    rig = Rig()
    rig.tick(NOON)
    rig.send(bar("AAA", NOON, 10, av=5))
    quotes: list[str] = []

    def quote(symbol: str) -> Any:
        quotes.append(symbol)
        return quote_of(rig.market, symbol)

    for providers in ({"daily_range:{S}": rig.range.payload, "quote:{S}": quote}, {"quote:{S}": quote}):
        walk = ValueWalk(rig.market, providers, most_seconds=1.0)
        written = {family.name: encode_json(value) for _ in range(5) for family, _, value in walk.due(1.0)}
        assert written["quote:{S}"] == encode_json(quote_of(rig.market, "AAA"))
        assert written.keys() == providers.keys()
    assert written["quote:{S}"].endswith(b'"pending":[]}')
    assert quotes == ["AAA"]
