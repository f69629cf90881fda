"""Which dates are sessions: against dates that the exchange announced, and what a provider adds to them."""

from __future__ import annotations

import json
from datetime import date, time, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdp.exchange_calendar import US_STOCKS, ExchangeCalendar, SpecialDay, parse_upcoming
from mdp.simulator import calendar as simulated
from tests.exchange_dates import CLOSED, FIRST, HALF_DAYS, LAST, trades

DAY = timedelta(days=1)
ANY_DATE = st.dates(date(FIRST, 1, 1), date(LAST, 12, 31))
#: Far enough from the table's ends for ten sessions in either direction.
INNER_DATE = st.dates(date(FIRST, 2, 1), date(LAST, 11, 20))
FIELDS = ("date", "status", "exchange", "name", "close")
MOURNING = SpecialDay(date(2027, 3, 10), "National Day of Mourning", None)


@pytest.mark.parametrize("year", range(FIRST, LAST + 1))
def test_every_date_is_what_the_exchange_announced(year: int) -> None:
    """Sessions, closings and half days of a year, those that nobody had planned included."""
    day = date(year, 1, 1)
    while day.year == year:
        assert US_STOCKS.is_session(day) == trades(day), day
        assert US_STOCKS.close_of(day) == (time(13) if day in HALF_DAYS else time(16)), day
        special = US_STOCKS.special(day)
        assert (special is not None) == (day in CLOSED or day in HALF_DAYS), day
        if special is not None:
            assert special.day == day
            assert special.name
            assert "market" not in special.name  # the library's hint at the hour is no part of a name
            assert special.close == (time(13) if day in HALF_DAYS else None)
        day += DAY


@pytest.mark.parametrize("year", range(2004, 2061))
def test_the_simulators_own_calendar_agrees(year: int) -> None:
    """Two calendars that share no code, also for years that nobody has announced yet."""
    day = date(year, 1, 1)
    while day.year == year:
        assert US_STOCKS.is_session(day) == simulated.is_trading_day(day), day
        if US_STOCKS.is_session(day):
            assert US_STOCKS.close_of(day) == simulated.regular_close(day), day
        day += DAY


@pytest.mark.parametrize(
    ("day", "name"),
    [
        (date(2001, 9, 11), "Closed following Attacks on the World Trade Center"),
        (date(2001, 9, 14), "Closed following Attacks on the World Trade Center"),
        (date(2012, 10, 30), "Hurricane Sandy"),
        (date(2025, 1, 9), "National Day of Mourning for former President Jimmy Carter"),
        (date(2026, 4, 3), "Good Friday"),
        (date(2027, 12, 24), "Christmas Day (observed)"),
    ],
)
def test_closings_have_names(day: date, name: str) -> None:
    """What a trader reads on a day without prices."""
    special = US_STOCKS.special(day)
    assert special is not None
    assert (special.name, special.close) == (name, None)


@pytest.mark.parametrize(
    ("day", "why"),
    [
        (date(2010, 12, 31), "New Year on a Saturday is not kept on a Friday that ends a year: rule 7.2"),
        (date(2021, 12, 31), "the same"),
        (date(2021, 6, 18), "Juneteenth was no holiday of the exchange before 2022"),
        (date(2024, 11, 11), "bond markets rest on Veterans Day, stocks do not"),
        (date(2024, 10, 14), "nor on Columbus Day"),
    ],
)
def test_days_that_are_taken_for_holidays_and_are_none(day: date, why: str) -> None:
    """Sessions of ordinary hours."""
    assert US_STOCKS.is_session(day), why
    assert US_STOCKS.special(day) is None


@settings(max_examples=200, deadline=None)
@given(INNER_DATE)
def test_neighbours_are_the_nearest_sessions(day: date) -> None:
    """Nothing between a date and its previous or next session is one."""
    before, after = US_STOCKS.previous_session(day), US_STOCKS.next_session(day)
    assert before < day < after
    assert trades(before)
    assert trades(after)
    between = [before + n * DAY for n in range(1, (after - before).days) if before + n * DAY != day]
    assert not any(trades(other) for other in between)
    if trades(day):
        assert US_STOCKS.session_of(day) == day
        assert US_STOCKS.next_session(before) == day
        assert US_STOCKS.previous_session(after) == day
    else:
        assert US_STOCKS.session_of(day) == before


@settings(max_examples=50, deadline=None)
@given(st.dates(date(FIRST + 1, 1, 1), date(LAST, 12, 31)), st.integers(0, 45))
def test_sessions_before_are_counted_back_from_the_table(day: date, count: int) -> None:
    """Newest first, the date itself excluded."""
    expected: list[date] = []
    other = day
    while len(expected) < count:
        other -= DAY
        if trades(other):
            expected.append(other)
    assert US_STOCKS.sessions_before(day, count) == expected


@settings(max_examples=100, deadline=None)
@given(st.dates(date(FIRST, 1, 1), date(LAST, 11, 1)))
def test_the_next_special_day_is_the_first_of_the_table(day: date) -> None:
    """Closing or half day, whichever comes first, the date itself excluded."""
    ahead = US_STOCKS.next_special(day)
    assert ahead is not None
    assert ahead.day == min(other for other in CLOSED | HALF_DAYS if other > day)


@settings(max_examples=200, deadline=None)
@given(st.dates())
def test_any_date_has_an_answer(day: date) -> None:
    """From the year 1 to 9999, also those that no library knows: it ends, and raises nothing."""
    session = US_STOCKS.session_of(day)
    assert session <= day
    assert US_STOCKS.previous_session(day) <= day <= US_STOCKS.next_session(day) or day > date(9999, 11, 1)
    US_STOCKS.next_special(day)
    assert len(US_STOCKS.sessions_before(day, 3)) == 3


def test_a_market_that_never_closes() -> None:
    """Crypto trades at Christmas; nobody can tell it otherwise."""
    crypto = ExchangeCalendar(every_day=True)
    christmas = date(2026, 12, 25)
    assert not crypto.learn([SpecialDay(christmas, "Christmas", None)], date(2026, 12, 1))
    assert not crypto.learn_open(christmas)
    assert crypto.is_session(christmas)
    assert crypto.special(christmas) is None
    assert crypto.previous_session(christmas) == date(2026, 12, 24)
    assert crypto.next_special(christmas) is None


# --- what the provider says ---


def test_an_announced_closing_counts_from_then_on() -> None:
    """A day of mourning that no library can know; the shared calendar knows nothing of it."""
    calendar = ExchangeCalendar()
    assert calendar.is_session(MOURNING.day)
    assert calendar.learn([MOURNING], date(2027, 3, 4))
    assert calendar.revision == 1
    assert not calendar.is_session(MOURNING.day)
    assert calendar.special(MOURNING.day) == MOURNING
    assert calendar.next_session(date(2027, 3, 9)) == date(2027, 3, 11)
    assert calendar.previous_session(date(2027, 3, 11)) == date(2027, 3, 9)
    assert calendar.next_special(date(2027, 3, 9)) == MOURNING
    assert US_STOCKS.is_session(MOURNING.day)


def test_the_same_list_again_changes_nothing() -> None:
    """What follows from a change is worked out once."""
    calendar = ExchangeCalendar()
    calendar.learn([MOURNING], date(2027, 3, 4))
    assert not calendar.learn([MOURNING], date(2027, 3, 5))
    assert calendar.revision == 1


def test_an_announced_half_day_and_one_that_is_taken_back() -> None:
    """The newest list counts; without a word, the library's."""
    calendar = ExchangeCalendar()
    day, today = date(2027, 3, 12), date(2027, 3, 4)
    calendar.learn([SpecialDay(day, "Test", time(14))], today)
    assert calendar.is_session(day)
    assert calendar.close_of(day) == time(14)
    assert calendar.learn([], today)
    assert calendar.close_of(day) == time(16)


def test_what_the_list_does_not_name_keeps_what_the_library_says() -> None:
    """A list that is cut off is no reason to trade at Christmas."""
    calendar = ExchangeCalendar()
    calendar.learn([MOURNING], date(2027, 3, 4))
    assert not calendar.is_session(date(2027, 12, 24))
    assert calendar.close_of(date(2027, 11, 26)) == time(13)


def test_a_closing_stays_known_when_it_is_over() -> None:
    """The list names coming days only; the next day's previous session is still the one before."""
    calendar = ExchangeCalendar()
    calendar.learn([MOURNING], date(2027, 3, 9))
    for today in (MOURNING.day, date(2027, 3, 11), date(2027, 6, 1)):
        calendar.learn([], today)
        assert not calendar.is_session(MOURNING.day)


def test_the_past_is_not_rewritten_by_a_list() -> None:
    """A provider that names last week tells nothing about it."""
    calendar = ExchangeCalendar()
    assert not calendar.learn([MOURNING], date(2027, 3, 11))
    assert calendar.is_session(MOURNING.day)


def test_a_market_that_trades_is_open_whatever_the_lists_say() -> None:
    """Else a mistake of a list would cost a trading day."""
    calendar = ExchangeCalendar()
    calendar.learn([MOURNING], date(2027, 3, 9))
    assert not calendar.learn_open(MOURNING.day, regular=False)  # extended hours alone are no proof
    assert calendar.learn_open(MOURNING.day)
    assert calendar.is_session(MOURNING.day)
    assert not calendar.learn_open(MOURNING.day)
    assert not calendar.learn([MOURNING], MOURNING.day)  # still on the list: seen open is seen open
    assert calendar.is_session(MOURNING.day)


@pytest.mark.parametrize("day", [date(2026, 11, 26), date(2026, 11, 22)])
def test_extended_hours_contradict_the_library(day: date) -> None:
    """Pre-market on a Thanksgiving or Sunday of which the provider never spoke as closed."""
    calendar = ExchangeCalendar()
    assert calendar.learn_open(day, regular=False)
    assert calendar.is_session(day)
    assert calendar.close_of(day) == time(16)


def test_an_ordinary_session_that_is_open_is_nothing_new() -> None:
    """Nor is a half day: it stays one."""
    calendar = ExchangeCalendar()
    assert not calendar.learn_open(date(2026, 11, 25))
    assert not calendar.learn_open(date(2026, 11, 27))
    assert calendar.close_of(date(2026, 11, 27)) == time(13)
    assert calendar.revision == 0


def test_what_is_told_is_bounded() -> None:
    """A process that runs for years on absurd lists forgets the oldest."""
    calendar = ExchangeCalendar()
    first = date(2027, 1, 4)
    calendar.learn([SpecialDay(first + n * DAY, "X", None) for n in range(3_000)], date(2026, 1, 1))
    assert calendar.is_session(first)
    assert not calendar.is_session(first + 2_999 * DAY)


# --- the provider's answer ---


def row(day: str, status: str = "closed", exchange: str = "NYSE", **more: Any) -> dict[str, Any]:
    """One row as the provider sends it."""
    return {"date": day, "exchange": exchange, "name": "Thanksgiving", "status": status, **more}


def parse(*rows: Any) -> tuple[list[SpecialDay], dict[str, int]]:
    """Of a whole answer."""
    return parse_upcoming(json.dumps(rows).encode())


def test_the_providers_published_sample() -> None:
    """Three exchanges' rows of a closing, two of a half day whose hours are in UTC: two days."""
    hours = {"open": "2020-11-27T14:30:00.000Z", "close": "2020-11-27T18:00:00.000Z"}
    rows = [row("2020-11-26", exchange=name) for name in ("NYSE", "NASDAQ", "OTC")]
    rows += [row("2020-11-27", "early-close", name, **hours) for name in ("NASDAQ", "NYSE")]
    assert parse(*rows) == (
        [
            SpecialDay(date(2020, 11, 26), "Thanksgiving", None),
            SpecialDay(date(2020, 11, 27), "Thanksgiving", time(13)),
        ],
        {},
    )


def test_summer_time_counts_in_the_hours() -> None:
    """13:00 is 17:00 UTC in July, and an offset is as good as Z."""
    for close in ("2025-07-03T17:00:00.000Z", "2025-07-03T13:00:00-04:00"):
        days, _ = parse(row("2025-07-03", "early-close", close=close))
        assert days[0].close == time(13)


def test_where_exchanges_differ_there_is_trading() -> None:
    """Closed at one, a half day at the other; the later of two closes."""
    one = row("2025-07-03", "early-close", "NASDAQ", close="2025-07-03T17:00:00Z")
    two = row("2025-07-03", "early-close", "NYSE", close="2025-07-03T18:00:00Z")
    for rows in ([row("2025-07-03"), one], [one, row("2025-07-03")]):
        assert parse(*rows)[0][0].close == time(13)
    assert parse(two, one)[0][0].close == parse(one, two)[0][0].close == time(14)


def test_other_exchanges_close_nothing() -> None:
    """OTC, currencies, bonds: not our hours, and no mistake either."""
    assert parse(row("2026-10-12", exchange="OTC"), row("2026-10-12", exchange="SIFMA")) == ([], {})


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (row("2026-13-40"), "malformed"),
        (row("soon"), "malformed"),
        ({"exchange": "NYSE", "status": "closed"}, "malformed"),
        (row("2026-11-27", None), "malformed"),  # type: ignore[arg-type]
        ("2026-11-26", "malformed"),
        (None, "malformed"),
        (row("2026-11-27", "delayed-open"), "status"),
        (row("2026-11-27", "early-close", close="13:00"), "close"),
        (row("2026-11-27", "early-close", close="2026-11-27T18:00:00"), "close"),
        (row("2026-11-27", "early-close", close="2026-11-28T18:00:00Z"), "close"),
        (row("2026-11-27", "early-close", close="2026-11-27T21:00:00Z"), "close"),  # 16:00: not early
        (row("2026-11-27", "early-close", close="2026-11-27T14:30:00Z"), "close"),  # 09:30: no session
        (row("2026-11-27", "early-close", close="9999-12-31T23:59:59-23:00"), "close"),
    ],
)
def test_a_bad_row_is_refused_alone_with_its_reason(bad: Any, reason: str) -> None:
    """The others count."""
    days, refused = parse(bad, row("2026-12-25"))
    assert [special.day for special in days] == [date(2026, 12, 25)]
    assert refused == {reason: 1}


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"null", b"[", b'{"status":"ERROR"}', b"<html>", b'[1, 2, "three"]', b"\xff\xfe[]"]
)
def test_no_list_at_all_is_an_error(body: bytes) -> None:
    """An error page is not a year without holidays."""
    with pytest.raises(ValueError):  # noqa: PT011  msgspec's words, or ours
        parse_upcoming(body)


def test_an_empty_list_is_an_answer() -> None:
    """Nothing announced: the library's calendar it is."""
    assert parse() == ([], {})


def test_an_early_close_without_an_hour_is_at_one() -> None:
    """As every one since 1993."""
    assert parse(row("2026-11-27", "early-close"))[0][0].close == time(13)


def test_names_are_bounded() -> None:
    """They go to clients."""
    days, _ = parse({**row("2026-11-26"), "name": "x" * 10_000}, {**row("2026-12-25"), "name": ""})
    assert len(days[0].name) == 80
    assert days[1].name == "Holiday"


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.dates().map(str),
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=5)
        ),
        max_leaves=20,
    )
)
def test_any_json_is_a_list_of_days_or_a_value_error(value: Any) -> None:
    """Nothing else is raised, and what comes out can be learned."""
    try:
        days, _ = parse_upcoming(json.dumps(value).encode())
    except ValueError:
        return
    ExchangeCalendar().learn(days, date(2026, 1, 1))
