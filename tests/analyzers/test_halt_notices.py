"""The exchange's list beside the tape: halts of all listings, reasons, and no halt announced twice."""

from __future__ import annotations

import csv
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdp.analyzers.halt_state import GRACE_MS, MERGE_MS, REASONS, reason_of
from mdp.events import HaltNotice
from mdp.sessions import NEW_YORK
from tests.data import data_file

from .halt_rig import MINUTE, NOON, SECOND, HaltRig, luld, notice
from .rig import at

RESUME = NOON + 5 * MINUTE


@pytest.fixture
def rig() -> HaltRig:
    """A pipeline at noon."""
    return HaltRig()


def test_a_listing_the_tape_says_nothing_of_is_halted_and_resumed_by_the_list(rig: HaltRig) -> None:
    """With its reason and the announced times; the end is announced when it stood."""
    said = notice("GME", NOON - SECOND, resume=RESUME, quotes=RESUME - MINUTE, price=10.25)
    rig.list(said)
    rig.list(said)
    assert rig.told() == [("halted", "GME")]
    row = rig.row("GME")
    assert (row["status"], row["source"]) == ("halted", "nasdaq")
    assert (row["reason_code"], row["reason"]) == ("LUDP", "volatility trading pause")
    assert (row["resume_expected_timestamp"], row["quote_resume_expected_timestamp"]) == (
        RESUME,
        RESUME - MINUTE,
    )
    assert (row["listing_market"], row["pause_price"], row["halts_today"]) == ("NYSE", 10.25, 1)
    rig.tick(RESUME + 29 * SECOND)
    rig.list(said)
    assert rig.told() == [], "it may still be put off"
    rig.tick(RESUME + 30 * SECOND)
    assert rig.status("GME") == "halted", "only a poll says that it was not"
    rig.list(said)
    assert rig.told() == [("resumed", "GME")]
    row = rig.row("GME")
    assert (row["resume_timestamp"], row["resume_source"]) == (RESUME, "nasdaq")
    assert (row["halted_ms"], row["resume_expected_timestamp"]) == (5 * MINUTE + SECOND, None)
    rig.list(said)
    assert rig.told() == []


def test_the_first_announcement_holds_the_reason(rig: HaltRig) -> None:
    """A client that shows events alone needs no other feed for it."""
    rig.list(notice("GME", NOON, "T1"))
    (item,) = rig.announcements
    assert (item.reason_code, item.reason, item.halt_timestamp) == ("T1", "news pending", NOON)


@pytest.mark.parametrize("apart", [0, 5 * SECOND, -5 * SECOND, MERGE_MS])
def test_the_same_halt_from_both_is_announced_once(apart: int) -> None:
    """Whoever comes first, and though their clocks differ; the list's reason is added to the tape's halt."""
    rig = HaltRig(now=NOON + 10 * SECOND + max(0, apart))
    tape, listed = luld("AAA", NOON, 17), notice("AAA", NOON + apart, "LUDP", market="NASDAQ")
    rig.tell(tape)
    rig.list(listed)
    assert rig.told() == [("halted", "AAA")]
    assert (rig.row()["source"], rig.row()["reason_code"], rig.row()["halts_today"]) == ("luld", "LUDP", 1)
    rig.tell(luld("AAA", NOON + 5 * MINUTE, 18))
    rig.list(listed)
    assert rig.told() == [("resumed", "AAA")], "the list is behind: the tape's word stands"
    assert rig.row()["reason_code"] == "LUDP"

    other = HaltRig(now=NOON + 10 * SECOND + max(0, apart))
    other.list(listed)
    other.tell(tape)
    other.tell(luld("AAA", NOON + 5 * MINUTE, 18))
    listed.resume_timestamp = NOON + 5 * MINUTE
    other.tick(NOON + 10 * MINUTE)
    other.list(listed)
    assert other.told() == [("halted", "AAA"), ("resumed", "AAA")]
    assert (other.row()["source"], other.row()["resume_source"]) == ("nasdaq", "luld")
    assert other.row()["halts_today"] == 1


def test_halts_further_apart_are_different_ones(rig: HaltRig) -> None:
    """Each counts; the second may come seconds after the first one's end, and in the same poll."""
    first = notice("GME", NOON - 10 * MINUTE, resume=NOON - 5 * MINUTE)
    second = notice("GME", NOON - 5 * MINUTE + 20 * SECOND, resume=NOON + MINUTE)
    rig.list(second, first)
    assert rig.told() == [("halted", "GME")]
    assert (rig.row("GME")["halts_today"], rig.row("GME")["halt_timestamp"]) == (2, second.halt_timestamp)
    rig.tick(NOON + 2 * MINUTE)
    rig.list(second, first)
    assert rig.told() == [("resumed", "GME")]
    assert rig.row("GME")["halts_today"] == 2


def test_the_first_ends_before_the_second_begins_though_one_poll_tells_both(rig: HaltRig) -> None:
    """A client that pairs halts and resumptions finds pairs."""
    first = notice("GME", NOON - MINUTE, resume=NOON + 4 * MINUTE)
    rig.list(first)
    rig.tick(NOON + 6 * MINUTE)
    rig.list(notice("GME", NOON + 5 * MINUTE), first)
    assert rig.told() == [("halted", "GME"), ("resumed", "GME"), ("halted", "GME")]


def test_a_pause_that_is_put_off_goes_on(rig: HaltRig) -> None:
    """Where no price was found the exchange adds five minutes, before or after we took it for over."""
    said = notice("GME", NOON, resume=RESUME)
    rig.list(said)
    rig.tick(RESUME + SECOND)
    said.resume_timestamp = RESUME + 5 * MINUTE
    rig.list(said)
    rig.tick(RESUME + 2 * GRACE_MS)
    rig.list(said)
    assert rig.told() == [("halted", "GME")]
    assert rig.row("GME")["resume_expected_timestamp"] == RESUME + 5 * MINUTE
    rig.tick(RESUME + 5 * MINUTE + GRACE_MS)
    rig.list(said)
    said.resume_timestamp = RESUME + 10 * MINUTE
    rig.list(said)
    assert rig.told() == [("resumed", "GME"), ("halted", "GME")]
    row = rig.row("GME")
    assert (row["halt_timestamp"], row["halts_today"]) == (NOON, 1), "it is the same halt"
    assert rig.active() == ["GME"]


def test_what_the_tape_said_after_the_announced_end_is_the_next_halt(rig: HaltRig) -> None:
    """The list's end is the first one's; the symbol stays halted."""
    said = notice("AAA", NOON, resume=RESUME)
    rig.tell(luld("AAA", NOON, 17))
    rig.tell(luld("AAA", RESUME + SECOND, 17))
    rig.tick(RESUME + GRACE_MS)
    rig.list(said)
    assert rig.told() == [("halted", "AAA"), ("resumed", "AAA"), ("halted", "AAA")]
    assert (rig.status(), rig.row()["halt_timestamp"]) == ("halted", RESUME + SECOND)
    rig.list(said)
    rig.tell(luld("AAA", RESUME + 5 * MINUTE, 18))
    assert rig.told() == [("resumed", "AAA")]


def test_a_bar_from_the_announced_time_on_is_the_resumption(rig: HaltRig) -> None:
    """At once: what was announced happened. One before it is not."""
    rig.list(notice("GME", NOON, resume=RESUME))
    rig.tick(RESUME - SECOND)
    rig.trade("GME", RESUME - SECOND, 20)
    assert rig.status("GME") == "halted"
    rig.trade("GME", RESUME, 20)
    assert (rig.status("GME"), rig.row("GME")["resume_source"]) == ("trading", "trades")
    assert rig.row("GME")["resume_timestamp"] == RESUME
    rig.list(notice("GME", NOON, resume=RESUME))
    assert rig.told() == [("halted", "GME"), ("resumed", "GME")]


def test_a_resumption_lost_on_the_tape_is_found_in_the_list(rig: HaltRig) -> None:
    """Of the same halt, or by a later halt that is over already."""
    rig.tell(luld("AAA", NOON, 17), luld("BBB", NOON, 17))
    rig.tick(NOON + 30 * MINUTE)
    rig.list(notice("AAA", NOON, resume=RESUME))
    rig.list(notice("BBB", NOON + 10 * MINUTE, resume=NOON + 15 * MINUTE))
    assert rig.told()[2:] == [("resumed", "AAA"), ("resumed", "BBB")]
    assert rig.row("BBB")["resume_timestamp"] == NOON + 15 * MINUTE


def test_news_on_top_of_a_pause_changes_the_reason_alone(rig: HaltRig) -> None:
    """The symbol did not trade in between."""
    rig.tell(luld("AAA", NOON, 17))
    rig.tick(NOON + 4 * MINUTE)
    rig.list(notice("AAA", NOON + 3 * MINUTE, "T1"))
    assert rig.told() == [("halted", "AAA")]
    assert (rig.row()["reason"], rig.row()["halts_today"]) == ("news pending", 1)
    rig.list(notice("AAA", NOON - 10 * MINUTE, "LUDP", resume=NOON - 5 * MINUTE))
    assert rig.row()["reason"] == "news pending", "an older halt says nothing of this one"
    assert rig.status() == "halted"


def test_what_was_over_before_we_heard_of_it_counts_and_is_no_news(rig: HaltRig) -> None:
    """A process that starts at noon does not announce the morning; it knows it."""
    rig.list(notice("GME", NOON - 60 * MINUTE, resume=NOON - 55 * MINUTE))
    assert rig.told() == []
    row = rig.row("GME")
    assert (row["status"], row["halts_today"], row["halted_ms"]) == ("trading", 1, 5 * MINUTE)
    assert rig.active() == []
    assert rig.halts.announced == {}


def test_halts_of_other_days_are_shown_while_they_last(rig: HaltRig) -> None:
    """The list holds some for months. They are active, not news, and count for another day."""
    old = at(10, day=(2024, 2, 1))
    rig.list(notice("OLD", old, "T12"), notice("GONE", old, "T1", resume=old + MINUTE))
    assert rig.told() == []
    assert rig.active() == ["OLD"]
    assert (rig.row("OLD")["halts_today"], rig.row("OLD")["halt_timestamp"]) == (0, old)
    assert rig.row("OLD")["reason"] == "information requested by the exchange"
    assert rig.get("halt:GONE") is None
    rig.list(notice("OLD", old, "T12", resume=NOON - MINUTE))
    assert rig.told() == [("resumed", "OLD")]


def test_a_halt_of_the_night_is_the_same_in_the_morning(rig: HaltRig) -> None:
    """The list still holds it, and the day's reset changed nothing of it."""
    rig.list(notice("GME", NOON, "T1"))
    rig.tick(at(8, day=(2024, 3, 6)))
    rig.list(notice("GME", NOON, "T1"))
    assert rig.told() == [("halted", "GME")]
    assert rig.row("GME")["halts_today"] == 0


def test_a_halt_ahead_of_the_market_waits_for_the_next_poll(rig: HaltRig) -> None:
    """A replay of an old day beside today's list: nothing of it has happened yet."""
    said = notice("GME", NOON + 10 * MINUTE)
    rig.list(said)
    assert rig.get("halt:GME") is None
    rig.tick(NOON + 10 * MINUTE)
    rig.list(said)
    assert rig.told() == [("halted", "GME")]


def test_the_list_moves_no_clock(rig: HaltRig) -> None:
    """Three old halts, or three announced ones, are no proof of another time."""
    before = rig.market.clock.now_ms
    rig.list(*[notice(s, at(10, day=(2024, 1, 2)), "T12") for s in "ABCD"])
    rig.list(*[notice(s, NOON + 60 * MINUTE) for s in "EFGH"])
    assert rig.market.clock.now_ms == before
    assert rig.market.clock.day is not None
    assert rig.market.clock.day.day.isoformat() == "2024-03-05"


def test_notices_survive_a_restart_with_all_they_said(rig: HaltRig) -> None:
    """The next poll announces nothing again."""
    said = notice("GME", NOON, "T1+T3", resume=RESUME, market="NYSE", price=3)
    rig.list(said)
    other = rig.restarted(snapshot=False, journal=True, now=NOON)
    assert other.row("GME") == rig.row("GME")
    other.list(said)
    assert other.told() == []
    other.tick(RESUME + GRACE_MS)
    other.list(said)
    assert other.told() == [("resumed", "GME")]


def test_names_that_could_be_no_feed_are_refused(rig: HaltRig) -> None:
    """Preferred shares have names of their own on each tape; those with a space or a `$` are none of ours."""
    rig.list(notice("BAC$K", NOON), notice("BRK.A", NOON))
    assert rig.active() == ["BRK.A"]
    assert rig.halts.ignored["not_a_symbol"] == 1


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("", "volatility pause or halt"),
        ("LUDP", REASONS["LUDP"]),
        ("T1+T3", "news pending; news out, resumption times set"),
        ("ZZ9", "code ZZ9"),
        ("+", ""),
    ],
)
def test_reasons_have_words(code: str, text: str) -> None:
    """Also several codes, and one that came up since."""
    assert reason_of(code) == text


def test_a_real_day_of_the_exchange_comes_out_as_listed() -> None:
    """2023-08-15, polled every minute as the day went: each halt announced once, with its end; the counts
    are those of the table."""
    table = [
        row
        for row in csv.DictReader(data_file("halts/halts_2023-08.csv").open(encoding="utf-8"))
        if row["halt_date"] == "08/15/2023"
    ]

    def moment(date: str, time: str) -> int:
        if not time:
            return 0
        there = datetime.strptime(f"{date} {time}", "%m/%d/%Y %H:%M:%S").replace(tzinfo=NEW_YORK)
        return int(there.timestamp()) * 1000

    halts = [
        notice(
            row["symbol"],
            moment(row["halt_date"], row["halt_time_et"]),
            row["reason_codes"],
            resume=moment(row["resumption_date"], row["resumption_trade_time_et"]),
        )
        for row in table
    ]
    day = (2023, 8, 15)
    rig = HaltRig(now=at(4, day=day))
    for minute in range(4 * 60, 20 * 60):
        now = at(minute // 60, minute % 60, day=day)
        rig.tick(now)
        rig.list(*[halt for halt in halts if halt.halt_timestamp <= now])

    begun = [item.symbol for item in rig.announcements if item.event == "halted"]
    ended = [item.symbol for item in rig.announcements if item.event == "resumed"]
    assert sorted(begun) == sorted(halt.symbol for halt in halts)
    over = [halt for halt in halts if 0 < halt.resume_timestamp <= at(19, 59, day=day) - GRACE_MS]
    assert sorted(ended) == sorted(halt.symbol for halt in over)
    for symbol in set(begun):
        mine = [halt for halt in halts if halt.symbol == symbol]
        assert rig.row(symbol)["halts_today"] == len(mine)
        assert rig.row(symbol)["status"] == ("trading" if mine[0] in over else "halted")
    assert len(begun) > 40


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_with_a_tape_that_loses_messages_each_halt_is_told_once(data: st.DataObject) -> None:
    """Any number of halts of one symbol, a complete list polled each minute, a tape that says some of it.

    Halts and resumptions are announced in turns, each halt once, and in the end it trades again. Between two
    halts it trades for 15 s at least, as a limit state lasts before a pause: more than clocks are apart.
    """
    halts: list[tuple[int, int]] = []
    t = NOON
    for _ in range(data.draw(st.integers(1, 5), label="halts")):
        t += data.draw(st.integers(15, 900), label="trades for s") * SECOND
        end = t + data.draw(st.integers(300, 1_800), label="halted for s") * SECOND
        halts.append((t, end))
        t = end
    told_by_tape = [
        (at_ms, code)
        for begin, end in halts
        for at_ms, code in ((begin, 17), (end, 18))
        if data.draw(st.booleans(), label="on the tape")
    ]
    apart = data.draw(st.integers(-5, 5), label="clocks apart s") * SECOND
    rig = HaltRig()
    for now in range(NOON, t + 5 * MINUTE, 20 * SECOND):
        rig.tick(now)
        for message in [one for one in told_by_tape if now - 20 * SECOND < one[0] <= now]:
            rig.send(luld("AAA", *message))
        if (now - NOON) % MINUTE == 0:
            known = [(begin, end) for begin, end in halts if begin + apart <= now]
            # The end is known, to the second, once it came; of a pause it is announced before.
            rig.list(
                *[notice("AAA", b + apart, resume=e + apart if e + apart <= now else 0) for b, e in known]
            )

    assert [event for event, _ in rig.told()] == ["halted", "resumed"] * len(halts)
    assert (rig.status(), rig.row()["halts_today"]) == ("trading", len(halts))


def test_a_notice_needs_no_more_than_symbol_and_time(rig: HaltRig) -> None:
    """A source of one's own may know little."""
    rig.list(HaltNotice(symbol="GME", timestamp=0, halt_timestamp=NOON, source="mine"))
    row = rig.row("GME")
    assert (row["source"], row["reason_code"], row["listing_market"]) == ("mine", None, None)
