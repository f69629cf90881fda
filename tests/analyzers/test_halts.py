"""Halts by the tape: each halt and resumption once, whatever is lost, late, repeated or restarted."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdp.sessions import TradingDay

from .halt_rig import MINUTE, NOON, SECOND, HaltRig, luld
from .rig import at, bar, plain

TOMORROW = (2024, 3, 6)


@pytest.fixture
def rig() -> HaltRig:
    """A pipeline at noon."""
    return HaltRig()


def test_a_halt_and_its_resumption_are_announced_once_with_all_that_is_known(rig: HaltRig) -> None:
    """The event is the symbol's row of that moment; prices make distances, times make durations."""
    rig.send(bar("AAA", NOON, 10))
    rig.tell(luld("AAA", NOON + SECOND, 17, high=11, low=9))
    rig.tick(NOON + 31 * SECOND)

    expected = {
        "event": "halted",
        "symbol": "AAA",
        "status": "halted",
        "reason": "volatility pause or halt",
        "reason_code": None,
        "source": "luld",
        "halt_timestamp": NOON + SECOND,
        "resume_timestamp": None,
        "resume_source": None,
        "resume_expected_timestamp": None,
        "quote_resume_expected_timestamp": None,
        "halted_ms": 0,
        "halts_today": 1,
        "high_band": 11,
        "low_band": 9,
        "band_timestamp": NOON + SECOND,
        "distance_to_high_pct": 10,
        "distance_to_low_pct": 10,
        "last_price": 10,
        "limit_side": None,
        "limit_basis": None,
        "limit_timestamp": None,
        "pause_price": None,
        "listing_market": None,
        "timestamp": NOON + SECOND,
    }
    assert [plain(item) for item in rig.announcements] == [expected]
    assert rig.get("halts") == [expected]
    del expected["event"]
    running = {"halted_ms": 30 * SECOND, "timestamp": NOON + 31 * SECOND}
    assert rig.row() == {**expected, **running}
    assert rig.get("halts:active") == [rig.row()]

    rig.tell(luld("AAA", NOON + 5 * MINUTE, 18, high=12, low=10))
    rig.tick(NOON + 20 * MINUTE)

    assert [item.event for item in rig.announcements] == ["halted", "resumed"]
    row = rig.row()
    assert (row["status"], row["resume_source"], row["halts_today"]) == ("trading", "luld", 1)
    assert (row["halt_timestamp"], row["resume_timestamp"]) == (NOON + SECOND, NOON + 5 * MINUTE)
    assert row["halted_ms"] == 5 * MINUTE - SECOND, "it grows no more"
    assert (row["high_band"], row["low_band"]) == (12, 10)
    assert rig.get("halts:active") == []


def test_what_is_said_again_is_not_announced_again(rig: HaltRig) -> None:
    """The provider repeats messages, also with new times; a halt counts once."""
    rig.tell(luld("AAA", NOON, 17), luld("AAA", NOON, 17))
    rig.tell(luld("AAA", NOON + SECOND, 17))
    assert rig.told() == [("halted", "AAA")]
    assert rig.row()["halt_timestamp"] == NOON
    rig.tell(luld("AAA", NOON + 2 * SECOND, 18), luld("AAA", NOON + 2 * SECOND, 18))
    rig.tell(luld("AAA", NOON + 3 * SECOND, 18))
    assert rig.told() == [("resumed", "AAA")]
    assert (rig.row()["halts_today"], rig.row()["resume_timestamp"]) == (1, NOON + 2 * SECOND)
    assert rig.halts.ignored["duplicate"] == 4


def test_a_second_halt_is_another_one(rig: HaltRig) -> None:
    """Also one that comes seconds after the resumption, as in a stock that runs."""
    rig.tell(luld("AAA", NOON, 17), luld("AAA", NOON + 5 * MINUTE, 18))
    rig.tell(luld("AAA", NOON + 5 * MINUTE + 20 * SECOND, 17))
    assert rig.told() == [("halted", "AAA"), ("resumed", "AAA"), ("halted", "AAA")]
    assert (rig.status(), rig.row()["halts_today"]) == ("halted", 2)
    assert rig.halts.announced == {("halted", "luld"): 2, ("resumed", "luld"): 1}


def test_an_older_halt_after_a_newer_resumption_halts_nothing(rig: HaltRig) -> None:
    """Out of order, or sent again: the symbol trades. One that was not known counts all the same."""
    rig.tell(luld("AAA", NOON, 17), luld("AAA", NOON + MINUTE, 18), luld("AAA", NOON, 17))
    assert (rig.status(), rig.row()["halts_today"]) == ("trading", 1)
    rig.tell(luld("BBB", NOON + MINUTE, 18), luld("BBB", NOON + SECOND, 17))
    row = rig.row("BBB")
    assert (row["status"], row["halts_today"], row["halted_ms"]) == ("trading", 1, 59 * SECOND)
    assert (row["halt_timestamp"], row["resume_timestamp"]) == (NOON + SECOND, NOON + MINUTE)
    assert rig.told() == [("halted", "AAA"), ("resumed", "AAA")]
    assert rig.halts.ignored["late"] == 1


def test_an_older_resumption_after_a_newer_halt_resumes_nothing(rig: HaltRig) -> None:
    """It belongs to the halt before."""
    rig.tell(luld("AAA", NOON, 17), luld("AAA", NOON - SECOND, 18))
    assert rig.status() == "halted"
    assert rig.halts.ignored["late"] == 1


def test_a_resumption_after_the_next_halt_ends_the_first_one_alone(rig: HaltRig) -> None:
    """Both halts came before it: the newest message says how things are."""
    rig.tell(luld("AAA", NOON, 17), luld("AAA", NOON + 6 * MINUTE, 17), luld("AAA", NOON + 5 * MINUTE, 18))
    assert rig.told() == [("halted", "AAA"), ("resumed", "AAA"), ("halted", "AAA")]
    row = rig.row()
    assert (row["status"], row["halt_timestamp"], row["halts_today"]) == ("halted", NOON + 6 * MINUTE, 2)


def test_a_resumption_without_a_halt_is_noted_and_not_announced(rig: HaltRig) -> None:
    """We came too late to see the halt: nobody was told of it, so nobody waits for its end."""
    rig.tell(luld("AAA", NOON, 18))
    assert rig.told() == []
    row = rig.row()
    assert (row["status"], row["resume_timestamp"], row["halt_timestamp"]) == ("trading", NOON, None)
    assert (row["reason"], row["halted_ms"], row["halts_today"]) == (None, None, 0)
    assert rig.halts.ignored["unmatched_resumption"] == 1


def test_a_halt_lasts_over_the_night(rig: HaltRig) -> None:
    """News halts do. Counts and bands are the day's; the halt is not announced again, its end is."""
    rig.tell(luld("AAA", NOON, 17), luld("BBB", NOON, 17), luld("BBB", NOON + MINUTE, 18))
    rig.tell(luld("CCC", NOON, 21))
    rig.told()
    rig.tick(at(4, 0, 1, day=TOMORROW))

    row = rig.row()
    assert (row["status"], row["halts_today"]) == ("halted", 0)
    assert row["halt_timestamp"] == NOON
    assert row["halted_ms"] == 16 * 60 * MINUTE + SECOND
    assert (row["high_band"], row["low_band"], row["band_timestamp"]) == (None, None, None)
    assert rig.active() == ["AAA"]
    assert rig.row("BBB")["resume_timestamp"] == NOON + MINUTE, "for a day it can be asked for"
    assert rig.row("BBB")["halts_today"] == 0
    assert rig.get("halt:CCC") is None, "yesterday's bands say nothing"
    assert rig.told() == []

    rig.tell(luld("AAA", at(4, 0, 2, day=TOMORROW), 18))
    assert rig.told() == [("resumed", "AAA")]
    assert rig.row()["halts_today"] == 0, "it began yesterday"
    rig.tick(at(4, 1, day=(2024, 3, 7)))
    assert rig.get("halt:BBB") is None
    assert rig.active() == []


def test_bands_are_the_newest_that_bind(rig: HaltRig) -> None:
    """Every indicator of a band, also alone; not those outside of hours, unknown ones, or older ones."""
    rig.send(bar("AAA", NOON, 8))
    for offset, code in enumerate((15, 16, 21, 22)):
        rig.tell({**luld("AAA", NOON + offset, high=10 + offset, low=4), "i": code})
        assert rig.row()["high_band"] == 10 + offset
    assert rig.row()["distance_to_high_pct"] == pytest.approx(62.5)
    assert rig.row()["distance_to_low_pct"] == pytest.approx(50)
    rig.tell(
        luld("AAA", NOON + 10, 19, high=99),
        luld("AAA", NOON + 10, 77, high=99),
        luld("AAA", NOON + 1, 16, high=99),
        luld("AAA", NOON + 10, 16, high=None),
        luld("AAA", NOON + 10, 16, high=3, low=5),
        luld("AAA", NOON + 10, 16, high=9, low=-1),
    )
    assert rig.row()["high_band"] == 13
    assert rig.halts.ignored["unknown_indicator"] == 1
    rig.tell({**luld("AAA", NOON + 10, high=20, low=5), "i": None})
    assert rig.row()["high_band"] == 20
    assert rig.row()["band_timestamp"] == NOON + 10
    rig.tell(luld("BBB", NOON, 21))
    row = rig.row("BBB")
    assert (row["last_price"], row["distance_to_high_pct"], row["distance_to_low_pct"]) == (None, None, None)
    assert rig.told() == []


def test_indicators_come_together_and_as_floats(rig: HaltRig) -> None:
    """A list may hold several; numbers keep the form of the wire."""
    rig.tell(luld("AAA", NOON, 21, 17.0))
    assert rig.told() == [("halted", "AAA")]
    assert rig.row()["high_band"] == 11


def test_bars_prove_that_a_symbol_trades(rig: HaltRig) -> None:
    """Where the resumption was lost. Three bars, none in the halt's first minute: one may be a stray."""
    rig.tell(luld("AAA", NOON, 17))
    for second in (1, 30, 59, 61, 61, 70):
        rig.trade("AAA", NOON + second * SECOND, 10)
        assert rig.status() == "halted", second
    rig.second()
    rig.trade("AAA", NOON + 80 * SECOND, 10)
    assert rig.status() == "trading"
    assert rig.row()["resume_source"] == "trades"
    assert rig.told() == [("halted", "AAA"), ("resumed", "AAA")]
    rig.tell(luld("AAA", NOON + 81 * SECOND, 18))
    assert rig.told() == []
    rig.tell(luld("AAA", NOON + 300 * SECOND, 17))
    rig.trade("AAA", NOON + 370 * SECOND, 10)
    rig.trade("AAA", NOON + 380 * SECOND, 10)
    assert rig.status() == "halted", "counted anew for each halt"


def test_a_halt_from_the_future_waits_until_the_market_is_there(rig: HaltRig) -> None:
    """A stray time would halt a symbol that no resumption could free; after a quiet time it is right."""
    rig.send(luld("AAA", NOON + 10 * MINUTE, 17), luld("BBB", NOON + 10 * 60 * MINUTE, 17))
    assert rig.told() == []
    assert rig.get("halt:AAA") is None
    rig.tick(NOON + 10 * MINUTE)
    rig.second()
    assert rig.told() == [("halted", "AAA")]
    rig.send(luld("CCC", NOON + 10 * MINUTE, 17))
    assert rig.active() == ["AAA", "CCC"]
    assert rig.get("halt:BBB") is None


def test_messages_that_wait_are_bounded(rig: HaltRig) -> None:
    """The oldest fall out, counted."""
    rig.send(*[luld("AAA", NOON + 10 * MINUTE + i, 21, high=10 + i) for i in range(1_010)])
    assert rig.halts.ignored["ahead"] == 10
    rig.tick(NOON + 10 * MINUTE)
    rig.second()
    assert rig.row()["high_band"] == 1_019


def test_messages_older_than_a_day_count_for_nothing(rig: HaltRig) -> None:
    """What they say has been said since."""
    rig.tell(luld("AAA", NOON - 25 * 60 * MINUTE, 17))
    assert rig.get("halt:AAA") is None
    assert rig.halts.ignored["too_old"] == 1


def test_a_halt_of_the_day_before_is_shown_and_not_news(rig: HaltRig) -> None:
    """It comes late: the symbol is halted, and the count is today's."""
    rig.tell(luld("AAA", at(3, 59), 17))
    assert (rig.status(), rig.row()["halts_today"]) == ("halted", 0)
    assert rig.told() == []


def test_symbols_are_checked_and_bounded() -> None:
    """A name that could be no feed's, and one more than the bound."""
    rig = HaltRig(max_symbols=2)
    rig.tell(*[luld(symbol, NOON, 17) for symbol in ("A", "not a symbol", "B", "C", "A")])
    assert rig.active() == ["A", "B"]
    assert (rig.halts.ignored["not_a_symbol"], rig.halts.ignored["too_many_symbols"]) == (1, 1)
    assert rig.get("halt:C") is None


def test_without_a_market_time_nothing_is_halted() -> None:
    """A time that no market can have starts no clock."""
    rig = HaltRig(now=None)
    rig.send(luld("AAA", -5, 17))
    assert rig.halts.ignored["no_time"] == 1
    assert rig.get("halts:active") == []


def test_the_active_ones_are_listed_newest_first_and_published_on_change(rig: HaltRig) -> None:
    """A state feed: one value per batch that changed it."""
    rig.subscribe("halts:active")
    rig.tell(luld("AAA", NOON, 17), luld("BBB", NOON + 1, 17), luld("CCC", NOON + 1, 17))
    rig.tell(luld("DDD", NOON, 21))
    rig.tell(luld("BBB", NOON + 2, 18))
    values = [[row["symbol"] for row in value] for _, value in rig.taken()]
    assert values == [["BBB", "CCC", "AAA"], ["CCC", "AAA"]]


def test_the_active_list_is_bounded(rig: HaltRig) -> None:
    """A market-wide halt halts ten thousand; the newest thousand are listed, all are known."""
    rig.tell(*[luld(f"S{i}", NOON + i, 17) for i in range(1_005)])
    assert len(rig.active()) == 1_000
    assert rig.active()[0] == "S1004"
    assert rig.status("S0") == "halted"


def test_a_symbols_row_is_published_when_it_changes_and_once_a_second_with_its_price(rig: HaltRig) -> None:
    """To those who name it; who wants all symbols is told of prices only near a band."""
    rig.subscribe("halt:AAA")
    rig.send(luld("AAA", NOON, 21), luld("BBB", NOON, 21), bar("AAA", NOON, 10), bar("BBB", NOON, 10))
    rig.tell(luld("AAA", NOON + 1, 22))  # the same bands
    assert [(feed, value["last_price"]) for feed, value in rig.taken()] == [("halt:AAA", None)]
    rig.second()
    rig.second()
    assert [(feed, value["last_price"]) for feed, value in rig.taken()] == [("halt:AAA", 10)]
    other = HaltRig()
    other.subscribe("halt:*")
    other.send(luld("AAA", NOON, 21), luld("BBB", NOON, 21), bar("AAA", NOON, 10), bar("BBB", NOON, 10.95))
    other.taken()
    other.second()
    assert [feed for feed, _ in other.taken()] == ["halt:BBB"]


def test_a_change_is_journaled_before_it_leaves(rig: HaltRig) -> None:
    """State and announcement are in the journal when the first client hears of it; bands are not."""
    rig.tell(luld("BBB", NOON, 21))
    heard: list[list[Any]] = []
    rig.bus.subscribe("halts", lambda _message: heard.append([r[:2] for r in rig.journal.records]))
    rig.journal.records.clear()
    rig.tell(luld("AAA", NOON, 17))
    assert heard == [[["e", "halts"], ["s", "halts"]]]
    rig.journal.records.clear()
    rig.tell(luld("AAA", NOON + 1, 16))
    assert rig.journal.records == []


def test_what_bars_prove_is_journaled_before_it_leaves(rig: HaltRig) -> None:
    """The look at prices works in steps; no step lets out what only a later one writes."""
    rig.tell(luld("AAA", NOON, 17), *[luld(f"S{i}", NOON, 21) for i in range(2_500)])
    rig.tick(NOON + 61 * SECOND)
    for second in (61, 62):
        rig.trade("AAA", NOON + second * SECOND, 10)
    heard: list[list[Any]] = []
    rig.bus.subscribe("halts", lambda _message: heard.append([r[:2] for r in rig.journal.records]))
    rig.journal.records.clear()
    rig.trade("AAA", NOON + 63 * SECOND, 10)
    assert heard == [[["e", "halts"], ["s", "halts"]]]


@pytest.mark.parametrize(("snapshot", "journal"), [(True, False), (False, True), (True, True)])
def test_a_restart_keeps_halts_and_announces_nothing_twice(
    rig: HaltRig, *, snapshot: bool, journal: bool
) -> None:
    """From the snapshot, from the journal alone (killed before there was one), or from both."""
    rig.tell(luld("AAA", NOON, 17), luld("BBB", NOON, 17), luld("BBB", NOON + MINUTE, 18))
    other = rig.restarted(snapshot=snapshot, journal=journal, now=NOON + MINUTE)
    other.tell(luld("AAA", NOON, 17), luld("BBB", NOON, 17), luld("BBB", NOON + MINUTE, 18))
    assert other.told() == []
    assert other.active() == ["AAA"]
    assert other.row("BBB")["halted_ms"] == MINUTE
    assert other.row("BBB")["halts_today"] == 1
    other.tell(luld("AAA", NOON + 5 * MINUTE, 18))
    other.tell(luld("BBB", NOON + 5 * MINUTE, 17))
    assert other.told() == [("resumed", "AAA"), ("halted", "BBB")]
    assert other.row("BBB")["halts_today"] == 2


def test_after_a_kill_on_the_new_day_the_halts_of_the_night_are_in_its_journal(rig: HaltRig) -> None:
    """What was written the day before is not taken back then."""
    rig.tell(luld("AAA", NOON, 17), luld("BBB", NOON, 17), luld("BBB", NOON + 1, 18))
    rig.journal.records.clear()
    rig.tick(at(4, 1, day=TOMORROW))
    assert rig.journal.records[0][0] == "d"
    other = rig.restarted(snapshot=False, journal=True, now=at(4, 1, day=TOMORROW))
    assert other.active() == ["AAA"]
    other.tell(luld("AAA", at(4, 2, day=TOMORROW), 18))
    assert other.told() == [("resumed", "AAA")]
    assert other.row("BBB")["resume_timestamp"] == NOON + 1


def test_a_day_without_the_process_resets_counts(rig: HaltRig) -> None:
    """Down over 04:00: the first event of the new day does it, from the old day's snapshot."""
    rig.tell(luld("AAA", NOON, 17))
    other = rig.restarted(snapshot=True, journal=True, now=NOON)
    other.tick(at(9, 30, day=TOMORROW))
    assert (other.status(), other.row()["halts_today"]) == ("halted", 0)


def test_a_record_of_an_older_version_is_taken_back(rig: HaltRig) -> None:
    """One that ends before fields which were added since."""
    rig.tell(luld("AAA", NOON, 17))
    (records,) = rig.halts.dump()
    other = HaltRig()
    other.halts.replay([record[:9] for record in records])
    assert other.active() == ["AAA"]
    assert other.row()["reason_code"] is None


def test_when_the_markets_time_goes_back_what_has_not_happened_is_forgotten(rig: HaltRig) -> None:
    """A simulator that began again: the halt is of a day that is not any more."""
    rig.tell(luld("AAA", NOON, 17), luld("BBB", at(9, 31), 17))
    rig.engine.rewind(at(10))
    rig.results.commit()
    assert rig.active() == ["BBB"]
    assert rig.row("BBB")["halts_today"] == 1
    rig.tell(luld("AAA", at(10), 17))
    assert rig.told()[-1] == ("halted", "AAA")


def test_the_dump_is_in_steps_and_whole(rig: HaltRig) -> None:
    """A snapshot of the whole market holds no step for long."""
    rig.tell(*[luld(f"S{i}", NOON, 21) for i in range(2_500)])
    steps = list(rig.halts.dump())
    assert [len(step) for step in steps] == [1_000, 1_000, 500]
    other = HaltRig()
    other.halts.hydrate(steps)
    assert other.row("S2499")["high_band"] == 11


STORY = st.lists(st.tuples(st.integers(3, 600), st.integers(3, 600)), min_size=1, max_size=6)


@settings(max_examples=150, deadline=None)
@given(STORY, st.data())
def test_duplicates_and_disorder_change_neither_the_end_nor_the_count(
    story: list[tuple[int, int]], data: st.DataObject
) -> None:
    """Messages of any number of halts, repeated, each late by up to a few others.

    The status at the end is the newest message's; halts are announced and resumed in turns.
    """
    messages: list[tuple[int, int]] = []
    t = NOON
    for trades_s, halted_s in story:
        messages.append((t := t + (120 + trades_s) * SECOND, 17))
        messages.append((t := t + (120 + halted_s) * SECOND, 18))
    if data.draw(st.booleans(), label="still halted"):
        messages.pop()
    sent = messages + data.draw(st.lists(st.sampled_from(messages), max_size=6), label="repeated")
    delays = data.draw(st.lists(st.integers(0, 2), min_size=len(sent), max_size=len(sent)), label="delays")
    order = sorted(range(len(sent)), key=lambda i: (messages.index(sent[i]) + delays[i], i))
    rig = HaltRig()
    rig.tick(t)  # so that none is ahead of the clock

    for i in order:
        rig.tell(luld("AAA", sent[i][0], sent[i][1]))

    newest = max(messages)
    row = rig.row()
    assert row["status"] == ("halted" if newest[1] == 17 else "trading")
    assert row["halts_today"] <= len(story)
    told = [event for event, _ in rig.told()]
    assert all(one != other for one, other in pairwise(told))
    assert told[:1] in ([], ["halted"])
    if newest[1] == 17:
        assert row["halt_timestamp"] == newest[0]
        assert told[-1] == "halted"
    assert msgspec.msgpack.encode(list(rig.halts.dump()))


def test_a_day_is_what_the_market_says() -> None:
    """The count of a halt at 04:00 belongs to the day that starts there."""
    day = TradingDay.containing(NOON)
    rig = HaltRig()
    rig.tell(luld("AAA", day.start_ms, 17), luld("BBB", day.start_ms - 1, 17))
    assert (rig.row("AAA")["halts_today"], rig.row("BBB")["halts_today"]) == (1, 0)
    assert rig.told() == [("halted", "AAA")]
