"""Session highs and lows, their alerts and what an alert says."""

from __future__ import annotations

from typing import Any

import pytest

from .rig import Rig, at, bar

PRE, REGULAR, POST = at(5), at(10), at(17)
HOURS = {"pre_market": PRE, "regular": REGULAR, "after_hours": POST}


def watched() -> Rig:
    """A rig whose alerts are noted; the clock stands in pre-market."""
    rig = Rig()
    rig.subscribe("daily_range_hod_alert")
    rig.subscribe("daily_range_lod_alert")
    rig.tick(PRE)
    return rig


def prints(rig: Rig, start: int, *prices: float) -> list[dict[str, Any]]:
    """Bars of one price each, a second apart; returns the alerts."""
    if start > rig.market.clock.now_ms + 60_000:
        rig.tick(start)
    for second, price in enumerate(prices):
        rig.send(bar("AAA", start + second * 1_000, price))
    return [alert for _, alert in rig.taken()]


def test_an_alert_has_the_contracts_fields() -> None:
    """Session, direction, price, previous, a time in seconds, a note, and the enriched quote of its bar."""
    rig = watched()
    (alert,) = prints(rig, PRE, 10, 10.5)
    quote = rig.get("quote:AAA")
    assert alert == quote | {
        "session": "pre_market", "direction": "high", "price": 10.5, "previous": 10,
        "timestamp": PRE / 1000 + 1, "note": "", "uncertain_since": None,
    }  # fmt: skip
    assert rig.get("daily_range_hod_alert") == [alert]
    assert rig.get("daily_range_lod_alert") == []


@pytest.mark.parametrize("session", HOURS)
def test_the_first_print_of_a_session_is_silent(session: str) -> None:
    """Even one far beyond every earlier session's range; the second is not."""
    rig = watched()
    if session != "pre_market":
        prints(rig, PRE, 10)
    assert prints(rig, HOURS[session], 100) == []
    assert [a["session"] for a in prints(rig, HOURS[session] + 5_000, 101)] == [session]


@pytest.mark.parametrize(
    ("before", "session", "price", "note"),
    [
        ({}, "pre_market", 15.01, ""),
        ({}, "regular", 15.01, ""),
        ({"pre_market": 15}, "regular", 15.01, "Broke pre-market high of $15.00"),
        ({"pre_market": 15}, "regular", 15, ""),
        ({"pre_market": 15}, "regular", 14.99, ""),
        ({"pre_market": 1234.5678}, "regular", 1300, "Broke pre-market high of $1234.57"),
        ({"pre_market": 15}, "after_hours", 15.01, "Broke pre-market high of $15.00"),
        ({"regular": 15}, "after_hours", 15.01, "Broke regular session high of $15.00"),
        ({"regular": 15}, "after_hours", 15, ""),
        ({"pre_market": 14, "regular": 15}, "after_hours", 15.01, "Broke regular session high of $15.00"),
        ({"pre_market": 15, "regular": 16}, "after_hours", 15.5, "Broke pre-market high of $15.00"),
        ({"pre_market": 16, "regular": 15}, "after_hours", 15.5, "Broke regular session high of $15.00"),
        ({"pre_market": 16, "regular": 15}, "after_hours", 16.5, "Broke regular session high of $15.00"),
    ],
)
@pytest.mark.parametrize("side", ["high", "low"])
def test_the_note_names_the_earlier_session_whose_extreme_broke(
    before: dict[str, float], session: str, price: float, note: str, side: str
) -> None:
    """The nearest earlier one; word by word; the same upside down for lows."""
    mirror = 1.0 if side == "high" else -1.0

    def turned(value: float) -> float:
        return value if side == "high" else round(4_000 - value, 4)

    rig = watched()
    for earlier, extreme in before.items():
        prints(rig, HOURS[earlier], turned(extreme - mirror * 0 - 0.5), turned(extreme))
    alerts = prints(rig, HOURS[session], turned(10), turned(price))
    assert [(a["direction"], a["price"], a["previous"]) for a in alerts] == [
        (side, turned(price), turned(10))
    ]
    if note and side == "low":
        extreme = turned(float(note.split("$")[1])) if "1234" not in note else turned(1234.5678)
        note = note.split("$")[0].replace("high", "low") + f"${extreme:.2f}"
    assert alerts[0]["note"] == note


def test_a_bar_may_break_both_ways() -> None:
    """A high and a low alert, each in its list."""
    rig = watched()
    prints(rig, PRE, 10)
    rig.send(bar("AAA", PRE + 1_000, 10, high=11, low=9))
    assert [(feed, a["price"], a["previous"]) for feed, a in rig.taken()] == [
        ("daily_range_hod_alert", 11, 10), ("daily_range_lod_alert", 9, 10),
    ]  # fmt: skip


def test_a_late_bar_extends_in_silence() -> None:
    """Its own session's range, whichever that is; later prints are measured against it."""
    rig = watched()
    prints(rig, PRE, 10)
    prints(rig, REGULAR, 10, 10)
    rig.send(bar("AAA", PRE - 1_000, 10, high=12, low=8), bar("AAA", REGULAR - 1_000, 10, high=13))
    assert rig.taken() == []
    got = rig.get("daily_range:AAA")
    assert (got["pre_market_high"], got["pre_market_low"]) == (12, 8)
    assert (got["regular_session_high"], got["regular_session_low"]) == (13, 10)
    assert (got["after_hours_high"], got["after_hours_low"]) == (None, None)
    assert (got["close"], got["start_timestamp"]) == (10, REGULAR + 1_000)
    assert prints(rig, REGULAR + 2_000, 12.5) == []
    assert [a["previous"] for a in prints(rig, REGULAR + 3_000, 13.5)] == [13]


def test_only_a_correction_of_the_newest_bar_shrinks_a_range() -> None:
    """Back to what the others say, and no further; the newest one repeated unchanged says nothing."""
    rig = watched()
    assert [a["price"] for a in prints(rig, PRE, 10, 20)] == [20]
    for again in (20, 10.5, 10.5, 9.9):
        rig.send(bar("AAA", PRE + 1_000, again))
    assert [(a["direction"], a["price"], a["previous"]) for _, a in rig.taken()] == [("low", 9.9, 10)]
    assert rig.get("daily_range:AAA")["pre_market_high"] == 10
    assert rig.get("daily_range:AAA")["pre_market_low"] == 9.9
    prints(rig, PRE + 2_000, 9.95)
    rig.send(bar("AAA", PRE + 1_000, 10))
    assert rig.get("daily_range:AAA")["pre_market_low"] == 9.9, "an older bar shrinks nothing"


def test_correcting_the_first_print_stays_silent() -> None:
    """It is the first print still."""
    rig = watched()
    prints(rig, PRE, 10)
    rig.send(bar("AAA", PRE, 30, low=2))
    assert rig.taken() == []
    assert rig.get("daily_range:AAA")["pre_market_high"] == 30


def test_an_alert_shows_its_own_bar_however_bars_were_batched() -> None:
    """Three bars of a symbol in one batch: the same alerts as one by one."""
    bars = [bar("AAA", PRE + n * 1_000, 10 + n, av=100 + n, v=n) for n in range(3)]
    together, apart = watched(), watched()
    together.send(*bars)
    for one in bars:
        apart.send(one)
    assert together.taken() == apart.taken() != []


def test_what_is_older_than_a_bar_of_the_night_is_late() -> None:
    """A bar past 20:00 is the newest, though it has no range."""
    rig = watched()
    prints(rig, at(19, 59), 10, 10)
    prints(rig, at(20, 0, 5), 50)
    rig.send(bar("AAA", at(19, 59, 50), 11))
    assert rig.taken() == []
    assert rig.get("daily_range:AAA")["after_hours_high"] == 11


def test_changes_are_journaled_before_an_alert_leaves() -> None:
    """So that after a kill nothing is announced twice; replayed, the next rig is silent about old news."""
    rig = watched()
    order: list[str] = []
    rig.bus.subscribe(
        "daily_range_hod_alert", lambda _message: order.append(f"out {len(rig.journal.records)}")
    )
    prints(rig, PRE, 10)
    written = len(rig.journal.records)
    prints(rig, PRE + 1_000, 11)
    assert len(order) == 1
    assert int(order[0].split()[1]) > written
    other = watched()
    for record in rig.journal.records:
        if record[0] == "s":
            other.range.replay(record[2])
    assert prints(other, PRE + 1_000, 11, 10.5) == []
    assert [a["previous"] for a in prints(other, PRE + 5_000, 12)] == [11]


def test_four_o_clock_clears_the_ranges() -> None:
    """Nothing of yesterday; the first print of the new day is silent."""
    rig = watched()
    prints(rig, PRE, 10, 11)
    rig.taken()
    tomorrow = at(4, day=(2024, 3, 6))
    rig.tick(tomorrow)
    assert rig.get("daily_range:AAA") is None
    assert prints(rig, tomorrow, 50) == []
    assert rig.get("daily_range:AAA")["pre_market_low"] == 50


def test_a_range_is_published_to_those_who_want_it() -> None:
    """Only the symbols somebody asked for, once a batch."""
    rig = Rig()
    rig.tick(PRE)
    rig.subscribe("daily_range:AAA")
    rig.send(bar("AAA", PRE, 10), bar("BBB", PRE, 10), bar("AAA", PRE + 1_000, 11))
    assert [feed for feed, _ in rig.taken()] == ["daily_range:AAA"]


@pytest.mark.parametrize("when", ["next", "again", "late", "first"])
@pytest.mark.parametrize(
    "prices",
    [
        {"low": -1},
        {"low": 0},
        {"low": 9, "high": 1, "close": 9},
        {"close": 0, "low": 0, "high": 0},
        {"close": 0, "low": 9, "high": 9},
        {"high": 2e7},
        {"close": 1e7, "low": 10, "high": 11},
    ],
)
def test_an_impossible_bar_changes_nothing(prices: dict[str, float], when: str) -> None:
    """Neither as the newest, nor as its correction, nor late, nor as the first: and it is counted."""
    rig = Rig()
    rig.subscribe("daily_range_hod_alert")
    rig.subscribe("daily_range_lod_alert")
    rig.tick(at(12))
    rig.send(bar("BBB", at(12), 10, av=50))
    if when != "first":
        rig.send(bar("AAA", at(12), 10, high=11, low=9, av=100))
    before = rig.get("quote:AAA"), rig.get("daily_range:AAA"), rig.get("scanners:top_volume")
    start = {"next": at(12, 0, 1), "again": at(12), "late": at(11), "first": at(12)}[when]
    rig.taken()
    rig.send(
        bar("AAA", start, prices.get("close", 10), high=prices.get("high"), low=prices.get("low"), av=900)
    )
    assert (rig.get("quote:AAA"), rig.get("daily_range:AAA"), rig.get("scanners:top_volume")) == before
    assert rig.taken() == []
    assert {reason: count for reason, count in rig.market.refused.items() if count} == {
        "implausible_price": 1
    }


def test_a_negative_volume_takes_none_back() -> None:
    """A feed without the day's volume: what a bar says of its own is added, but never less than nothing."""
    rig = Rig()
    rig.tick(at(12))
    for second, volume in enumerate((100, -50, 20)):
        rig.send(bar("AAA", at(12, 0, second), 10, v=volume))
    rig.send(bar("AAA", at(11), 10, v=-30))
    assert rig.get("quote:AAA")["accumulated_volume"] == 120
