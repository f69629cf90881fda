"""Boards: order, ties, ranks, bounds, and when they are published."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdp.analyzers.state import NoReference

from .rig import Rig, at, bar

BOARDS = ("top_volume", "top_gappers", "top_gainers")
OTHERS = ("top_losers", "gap_down", "top_relative_volume", "most_trades")
NOON = at(12)


def full(count: int, *, close: float = 11) -> Rig:
    """A market of `count` symbols, all alike but for their names; half of them without a previous close."""
    rig = Rig()
    rig.tick(NOON)
    names = [f"S{n:04}" for n in range(count)]
    rig.market.refer({name: NoReference(prev_day_close=10) for name in names[::2]})
    rig.send(*[bar(name, NOON, close, o=10, av=1_000) for name in reversed(names)])
    return rig


def symbols(rows: list[dict[str, Any]]) -> list[str]:
    """In order of rank, which counts from 1 without holes."""
    assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))
    return [row["symbol"] for row in rows]


def test_at_most_five_hundred_rows_ties_by_symbol() -> None:
    """The first 500 of 1,200 equal ones, by name; gappers only of those with a previous close."""
    rig = full(1_200)
    assert symbols(rig.get("scanners:top_volume")) == [f"S{n:04}" for n in range(500)]
    assert symbols(rig.get("scanners:top_gainers")) == [f"S{n:04}" for n in range(500)]
    assert symbols(rig.get("scanners:top_gappers")) == [f"S{n:04}" for n in range(0, 1_000, 2)]


def test_boards_are_right_when_leaders_fall_back() -> None:
    """Whoever was far behind moves up, also where all 500 fall below them, or a few."""
    rig = full(1_200)
    for name in BOARDS:
        rig.get(f"scanners:{name}")
    rig.send(*[bar(f"S{n:04}", NOON + 1_000, 9, o=10, av=1_001 + n) for n in range(1_000)])
    expected = sorted(range(1_200), key=lambda n: (-(1_001 + n) if n < 1_000 else -1_000, n))[:500]
    assert symbols(rig.get("scanners:top_volume")) == [f"S{n:04}" for n in expected]
    gainers = [f"S{n:04}" for n in (*range(1_000, 1_200), *range(300))]
    assert symbols(rig.get("scanners:top_gainers")) == gainers
    gappers = [f"S{n:04}" for n in (*range(1_000, 1_200, 2), *range(0, 800, 2))]
    assert symbols(rig.get("scanners:top_gappers")) == gappers


moves = st.lists(st.tuples(st.integers(0, 1_399), st.integers(-9, 9), st.booleans()), max_size=700)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(moves, min_size=1, max_size=4))
def test_ranking_again_and_again_is_ranking_from_scratch(rounds: list[Any]) -> None:
    """However symbols moved since the last time."""
    rig = full(1_400)
    close = dict.fromkeys(range(1_400), 11.0)
    for turn, moved in enumerate(rounds, 1):
        for name in BOARDS:
            rig.get(f"scanners:{name}")
        for n, step, wide in moved:
            for m in range(n, min(n + 200, 1_400)) if wide else (n,):
                close[m] = 11 + step / 10
        rig.send(*[bar(f"S{n:04}", NOON + turn * 1_000, c, o=10, av=1_000) for n, c in close.items()])
        right = sorted(close, key=lambda n: (-close[n], n))
        assert symbols(rig.get("scanners:top_gainers")) == [f"S{n:04}" for n in right[:500]]
        assert symbols(rig.get("scanners:top_gappers")) == [f"S{n:04}" for n in right if n % 2 == 0][:500]


def test_who_is_not_ranked() -> None:
    """Gappers need a previous close, gainers an open, volume some volume."""
    rig = Rig()
    rig.tick(at(8))
    rig.market.refer({"OLD": NoReference(prev_day_close=10)})
    rig.send(bar("OLD", at(8), 10, av=5), bar("NEW", at(8), 10, av=0))
    assert [symbols(rig.get(f"scanners:{name}")) for name in BOARDS] == [["OLD"], ["OLD"], ["NEW", "OLD"]]
    row = rig.get("scanners:top_gainers")[0]
    assert (row["prev_day_close"], row["change"], row["pct_change"], row["relative_volume"]) == (0, 0, 0, 0)


def test_half_past_nine_clears_the_gainers() -> None:
    """On the first event past it, a bar or not; the others stay."""
    rig = Rig()
    rig.tick(at(9, 29))
    rig.market.refer({"AAA": NoReference(prev_day_close=10)})
    rig.send(bar("AAA", at(9, 29), 12, o=11, av=5))
    assert rig.get("quote:AAA")["open"] == 11
    rig.tick(at(9, 30))
    assert [symbols(rig.get(f"scanners:{name}")) for name in BOARDS] == [["AAA"], ["AAA"], []]
    assert rig.get("quote:AAA")["open"] == 0
    rig.send(bar("AAA", at(9, 29, 58), 13, o=13, av=6), bar("AAA", at(9, 30), 14, o=12, av=7))
    (row,) = rig.get("scanners:top_gainers")
    assert (row["open"], row["change_since_open"]) == (12, 2)


def flushes(rig: Rig, times: int) -> list[tuple[str, Any]]:
    """What so many flushes published."""
    for _ in range(times):
        rig.flush(rig.boards)
    return rig.taken()


def test_each_board_is_published_once_a_second_in_its_own_step() -> None:
    """A flush is a seventh of a second and one board; only those somebody wants."""
    rig = full(10)
    every = BOARDS + OTHERS
    assert rig.boards.flush_seconds * len(every) == 1
    rig.subscribe("scanners:*")
    for _ in every:
        assert len(flushes(rig, 1)) == 1
    rig.send(bar("S0000", NOON + 1_000, 12))
    assert sorted(feed for feed, _ in flushes(rig, len(every))) == sorted(
        f"scanners:{name}" for name in every
    )
    assert flushes(full(10), len(every)) == []


def test_what_did_not_change_is_not_published_again() -> None:
    """A `get` in between is no publication: who subscribes still hears of the change."""
    rig = full(10)
    rig.subscribe("scanners:top_volume")
    assert len(flushes(rig, 14)) == 1
    rig.send(bar("S0003", NOON + 1_000, 12, av=5_000))
    assert rig.get("scanners:top_volume")[0]["symbol"] == "S0003"
    ((_, rows),) = flushes(rig, 7)
    assert symbols(rows)[0] == "S0003"


def test_a_published_board_is_sorted_by_the_values_it_shows() -> None:
    """Also where bars came between the steps of a flush."""
    rig = full(300)
    rig.subscribe("scanners:top_gainers")
    (guard,) = [guard for guard in rig.engine.guards if guard.analyzer is rig.boards]
    for turn in range(1, 4):
        for _ in guard.flush():
            rig.send(*[bar(f"S{n:04}", NOON + turn * 1_000, 10 + n % 7 * turn, o=10) for n in range(300)])
        rig.results.commit()
    ((_, rows),) = rig.taken()
    assert all(a["pct_change_since_open"] >= b["pct_change_since_open"] for a, b in pairwise(rows))


@pytest.mark.parametrize(
    "boundary", [at(4, day=(2024, 3, 6)), at(9, 30)], ids=["four_o_clock", "half_past_nine"]
)
def test_a_board_is_not_of_two_days_or_opens(boundary: int) -> None:
    """Where 04:00 or 09:30 comes between any two steps of a flush, nothing of before is on the gainers."""
    stepped = 0
    while True:
        rig = Rig()
        rig.tick(at(9, 20))
        rig.send(*[bar(f"S{n:04}", at(9, 20), 11, o=10, av=1_000) for n in range(320)])
        rig.subscribe("scanners:top_gainers")
        (guard,) = [guard for guard in rig.engine.guards if guard.analyzer is rig.boards]
        rig.boards._next = [board.family.name for board in rig.boards._boards].index("scanners:top_gainers")
        steps = guard.flush()
        if sum(1 for _ in zip(range(stepped), steps, strict=False)) < stepped:
            break
        rig.tick(boundary)
        for _ in steps:
            pass
        rig.results.commit()
        ((_, rows),) = rig.taken()
        assert rows == []
        stepped += 1
    assert stepped > 3  # there are so many steps


def test_four_o_clock_clears_the_boards() -> None:
    """All of them, on the first event past it."""
    rig = full(10)
    rig.tick(at(4, day=(2024, 3, 6)))
    assert [rig.get(f"scanners:{name}") for name in BOARDS] == [[], [], []]


def test_boards_from_the_other_end() -> None:
    """Losers by change since open, gaps down by change from the previous close; the same rows."""
    rig = Rig()
    rig.tick(NOON)
    rig.market.refer({"AAA": NoReference(prev_day_close=10), "BBB": NoReference(prev_day_close=20)})
    rig.send(
        bar("AAA", NOON, 9, o=8, av=5), bar("BBB", NOON, 12, o=15, av=5), bar("CCC", NOON, 10, o=11, av=5)
    )
    assert symbols(rig.get("scanners:top_losers")) == ["BBB", "CCC", "AAA"]
    assert symbols(rig.get("scanners:gap_down")) == ["BBB", "AAA"]
    assert [row["pct_change"] for row in rig.get("scanners:gap_down")] == [-40, -10]
    (first, *_) = rig.get("scanners:top_losers")
    assert first == {**rig.get("quote:BBB"), "rank": 1}


def test_the_board_of_relative_volume() -> None:
    """By the day's volume over the average; without an average, or without volume, a symbol is not ranked."""
    rig = Rig()
    rig.tick(NOON)
    rig.market.refer({name: NoReference(avg_volume=100) for name in ("AAA", "BBB", "NIL")})
    rig.send(*[bar(name, NOON, 9, av=av) for name, av in (("AAA", 50), ("BBB", 300), ("NIL", 0), ("NEW", 9))])
    rows = rig.get("scanners:top_relative_volume")
    assert [(row["symbol"], row["relative_volume"]) for row in rows] == [("BBB", 3), ("AAA", 0.5)]


def test_the_board_of_trades() -> None:
    """By the trades of the day whose shares count; it follows trades also where no bar comes."""
    rig = Rig()
    rig.tick(NOON)
    rig.send(bar("AAA", NOON, 9, av=5), bar("BBB", NOON, 9, av=5), bar("NIL", NOON, 9, av=5))

    def trade(symbol: str, number: int) -> dict[str, Any]:
        return {"ev": "T", "sym": symbol, "p": 9, "s": 100, "t": NOON, "x": 4, "i": str(number), "z": 3}

    rig.send(trade("BBB", 1), trade("AAA", 1), trade("AAA", 2), trade("AAA", 2))
    rows = rig.get("scanners:most_trades")
    assert [(row["symbol"], row["trade_count"]) for row in rows] == [("AAA", 2), ("BBB", 1)]
    rig.send(trade("BBB", 2), trade("BBB", 3))
    rows = rig.get("scanners:most_trades")
    assert [(row["symbol"], row["trade_count"]) for row in rows] == [("BBB", 3), ("AAA", 2)]
