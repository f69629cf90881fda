"""The table of trade conditions: what each print may set, by the SIP's rules."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdp.trade_rules import (
    DAY_HIGH_LOW,
    EVERYTHING,
    HIGH_LOW,
    LAST,
    ODD,
    SHIPPED_TABLE,
    UNKNOWN,
    VOLUME,
    Rule,
    completed,
)

#: Written down from the provider's list once more, by group: (high and low, last, volume).
GROUPS: dict[tuple[bool, bool, bool], list[int]] = {
    (True, True, True): [
        1,
        3,
        4,
        6,
        8,
        9,
        11,
        14,
        17,
        18,
        19,
        23,
        24,
        25,
        27,
        28,
        30,
        31,
        34,
        35,
        36,
        41,
        55,
    ],
    (True, False, True): [5, 10, 22, 32, 33],
    (False, False, True): [2, 7, 12, 13, 20, 21, 29, 37, 52, 53],
    (False, False, False): [15, 16],
    (True, True, False): [38],
}
ALLOWED = {number: allowed for allowed, numbers in GROUPS.items() for number in numbers}


def said(conditions: Any, *, extended: bool = False) -> tuple[bool, bool, bool]:
    """(high and low, last, volume) as the table has it."""
    effect = SHIPPED_TABLE.effect(conditions, extended=extended)
    return bool(effect & HIGH_LOW), bool(effect & LAST), bool(effect & VOLUME)


def test_the_shipped_table_is_the_providers() -> None:
    """Every number, none more; dated, so that people can tell how old it is."""
    assert set(SHIPPED_TABLE.rules) == set(ALLOWED)
    assert {n: said([n]) for n in ALLOWED} == ALLOWED
    assert (SHIPPED_TABLE.source, len(SHIPPED_TABLE.dated)) == ("shipped", 10)


@pytest.mark.parametrize("nothing", [None, [], 0, [0]])
def test_no_condition_forbids_nothing(nothing: Any) -> None:
    """Absent, empty, and 0, the regular sale that no list names."""
    assert SHIPPED_TABLE.effect(nothing, extended=False) == EVERYTHING
    assert SHIPPED_TABLE.effect(nothing, extended=True) == EVERYTHING | DAY_HIGH_LOW


@given(st.lists(st.sampled_from(sorted(ALLOWED)), max_size=6))
def test_one_no_wins(conditions: list[int]) -> None:
    """Of all conditions of a print, in whatever order and number."""
    expected = tuple(all(ALLOWED[n][what] for n in conditions) for what in range(3))
    assert said(conditions) == expected
    assert said([float(n) for n in conditions]) == expected
    assert bool(SHIPPED_TABLE.effect(conditions, extended=False) & ODD) == (37 in conditions)


@given(st.lists(st.sampled_from(sorted(ALLOWED)), max_size=6))
def test_form_t_forbids_nothing_of_the_session_in_extended_hours(conditions: list[int]) -> None:
    """Nor does 13; the day's high and low follow the rules as they stand, and the others forbid as ever."""
    others = [n for n in conditions if n not in (12, 13)]
    assert said(conditions, extended=True) == said(others)
    day = SHIPPED_TABLE.effect(conditions, extended=True) & DAY_HIGH_LOW
    assert bool(day) == said(conditions)[0]


@pytest.mark.parametrize("odd", [[61], [-3], [12.5], 10**18, [61, 61]])
def test_an_unknown_number_forbids_nothing_and_is_told(odd: Any) -> None:
    """The provider lists what forbids something; a new flag must not silence a symbol."""
    effect = SHIPPED_TABLE.effect(odd, extended=False)
    assert effect == EVERYTHING | UNKNOWN
    assert SHIPPED_TABLE.unknown(odd)
    assert said([61, 37]) == (False, False, True)


def test_what_an_answer_leaves_out_is_not_allowed_by_that() -> None:
    """The shipped rules fill in; what the answer has wins over them; listed twice, one "no" wins."""
    table = completed(
        [Rule(37, "Odd Lot"), Rule(99, "New", last=False), Rule(99, "New", high_low=False)], "2030"
    )
    assert (table.source, table.dated) == ("provider", "2030")
    assert table.effect([37], extended=False) & EVERYTHING == EVERYTHING
    assert table.effect([12], extended=False) == VOLUME
    assert table.effect([99], extended=False) == VOLUME


def test_people_are_told_who_forbids_what() -> None:
    """Which conditions, by which table, of which date."""
    told = SHIPPED_TABLE.explain([12, 37, 14, 61], extended=True)
    assert told["forbidden_by"] == {"high_low": [37], "last": [37], "volume": []}
    assert (told["updates_volume"], told["updates_last"], told["unknown"]) == (True, False, [61])
    assert told["names"][37] == "Odd Lot Trade"
    assert (told["source"], told["dated"]) == ("shipped", SHIPPED_TABLE.dated)
    assert SHIPPED_TABLE.explain([12], extended=True)["updates_day_high_low"] is False
    assert SHIPPED_TABLE.explain(None, extended=False)["updates_day_high_low"] is True
