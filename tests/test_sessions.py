"""Sessions, trading days and the market clock, by New York time and event time alone."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdp.sessions import AFTER_HOURS, CLOSED, PRE_MARKET, REGULAR, MarketClock, TradingDay

NY = ZoneInfo("America/New_York")
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
NOON = int(datetime(2024, 3, 5, 12, tzinfo=NY).timestamp() * 1000)


def ny(day: date, hour: int, minute: int = 0) -> int:
    """A New York wall time in ms."""
    return int(datetime(day.year, day.month, day.day, hour, minute, tzinfo=NY).timestamp()) * 1000


def nth_sunday(year: int, month: int, n: int) -> date:
    """The rule of US clock changes since 2007: second Sunday of March, first of November."""
    first = date(year, month, 1)
    return first + timedelta(days=(6 - first.weekday()) % 7 + 7 * (n - 1))


CHANGES = [change for y in range(2007, 2031) for change in (nth_sunday(y, 3, 2), nth_sunday(y, 11, 1))]
LEAP_DAYS = [date(year, 2, 29) for year in range(2008, 2031, 4)]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_days_around_a_clock_change(change: date) -> None:
    """Boundaries are wall times; the day of the Saturday before holds the change: 23 or 25 hours."""
    spring = change.month == 3
    for offset, hours in ((-2, 24), (-1, 23 if spring else 25), (0, 24), (1, 24)):
        day = change + timedelta(days=offset)
        trading = TradingDay.of(day)
        assert trading.end_ms - trading.start_ms == hours * HOUR
        utc = datetime.fromtimestamp(trading.open_ms / 1000, UTC)
        summer = (offset >= 0) == spring
        assert (utc.hour, utc.minute) == ((13, 30) if summer else (14, 30))
        assert trading.open_ms - trading.start_ms == 5 * HOUR + 30 * MINUTE
        assert trading.end_ms == TradingDay.of(day + timedelta(days=1)).start_ms
        for ms in (trading.start_ms, trading.open_ms, trading.close_ms, trading.post_ms, trading.end_ms - 1):
            assert TradingDay.containing(ms) == trading


@pytest.mark.parametrize("day", LEAP_DAYS, ids=str)
def test_leap_days_are_days(day: date) -> None:
    """28 February, 29 February and 1 March follow each other."""
    before, after = TradingDay.of(day - timedelta(days=1)), TradingDay.of(day + timedelta(days=1))
    assert before.day == date(day.year, 2, 28)
    assert after.day == date(day.year, 3, 1)
    assert before.end_ms == TradingDay.of(day).start_ms
    assert TradingDay.of(day).end_ms == after.start_ms
    assert TradingDay.containing(ny(after.day, 3, 59)).day == day


@pytest.mark.parametrize(
    ("hour", "minute", "session", "early"),
    [
        (4, 0, PRE_MARKET, PRE_MARKET), (9, 29, PRE_MARKET, PRE_MARKET), (9, 30, REGULAR, REGULAR),
        (12, 59, REGULAR, REGULAR), (13, 0, REGULAR, AFTER_HOURS), (15, 59, REGULAR, AFTER_HOURS),
        (16, 0, AFTER_HOURS, AFTER_HOURS), (16, 59, AFTER_HOURS, AFTER_HOURS), (17, 0, AFTER_HOURS, CLOSED),
        (19, 59, AFTER_HOURS, CLOSED), (20, 0, CLOSED, CLOSED), (23, 59, CLOSED, CLOSED),
    ],
)  # fmt: skip
def test_sessions_of_a_full_and_a_half_day(hour: int, minute: int, session: str, early: str) -> None:
    """A start belongs to its session, to the millisecond; a half day ends at 13:00 and 17:00."""
    for day in (date(2024, 7, 3), date(2024, 11, 29), date(2024, 12, 24)):
        ms = ny(day, hour, minute)
        assert TradingDay.of(day).session(ms) == session
        assert TradingDay.of(day, early_close=True).session(ms) == early


def test_a_millisecond_before_a_boundary_is_the_session_before() -> None:
    """All four boundaries."""
    day = TradingDay.of(date(2024, 3, 5))
    assert [day.session(ms - 1) for ms in (day.start_ms, day.open_ms, day.close_ms, day.post_ms)] == [
        CLOSED, PRE_MARKET, REGULAR, AFTER_HOURS,
    ]  # fmt: skip
    assert day.session(day.end_ms) == CLOSED


@settings(max_examples=300, deadline=None)
@given(st.integers(ny(date(2007, 1, 1), 0), ny(date(2030, 12, 31), 23)))
def test_every_millisecond_belongs_to_exactly_one_day(ms: int) -> None:
    """It is within its day, and not within the neighbours; the wall clock agrees."""
    day = TradingDay.containing(ms)
    assert day.start_ms <= ms < day.end_ms
    others = [TradingDay.of(day.day + timedelta(days=n)) for n in (-1, 1)]
    assert not any(other.start_ms <= ms < other.end_ms for other in others)
    local = datetime.fromtimestamp(ms / 1000, NY)
    assert day.day == (local.date() if local.hour >= 4 else local.date() - timedelta(days=1))
    assert TradingDay.of(day.day) == day


def see(clock: MarketClock, *events: tuple[str, float]) -> bool:
    """One batch."""
    return clock.observe(max(ms for _, ms in events), iter(events))


def started(now: int = NOON) -> MarketClock:
    """A clock that two events confirmed."""
    clock = MarketClock()
    assert see(clock, ("AAA", now))
    see(clock, ("BBB", now))
    assert clock.now_ms == now
    return clock


def test_the_clock_is_the_newest_event() -> None:
    """It goes with newer events, and older ones do not take it back."""
    clock = started()
    for ms in (NOON + 1, NOON + 60_001, NOON + 50_000, NOON - 80_000_000, NOON + 60_001.5):
        assert not see(clock, ("AAA", ms))
    assert clock.now_ms == NOON + 60_001.5


def test_one_stray_event_resets_nothing() -> None:
    """More than 60 s ahead: one symbol may insist as often as it likes, two are not enough."""
    clock = started()
    for ms in (NOON + 60_001, NOON + DAY, NOON + DAY + 1, NOON + 3 * DAY):
        assert not see(clock, ("AAA", ms))
        assert not see(clock, ("BBB", ms))
        assert not see(clock, ("AAA", ms))
    assert clock.now_ms == NOON
    assert clock.day == TradingDay.containing(NOON)


def test_a_minute_ahead_needs_no_agreement() -> None:
    """60 s is not more than 60 s."""
    clock = started()
    see(clock, ("AAA", NOON + MINUTE))
    assert clock.now_ms == NOON + MINUTE


def test_three_symbols_move_it() -> None:
    """In one batch or in three, also into another day; then it is the newest of them."""
    for split in (True, False):
        clock = started()
        events = [("AAA", NOON + DAY), ("BBB", NOON + DAY + 5_000), ("CCC", NOON + DAY + 2_000)]
        moved = [see(clock, event) for event in events][-1] if split else see(clock, *events)
        assert moved
        assert clock.now_ms == NOON + DAY + 5_000
        assert clock.day is not None
        assert clock.day.day == date(2024, 3, 6)


def test_three_symbols_that_disagree_do_not_move_it() -> None:
    """Each of another time."""
    clock = started()
    assert not see(clock, ("AAA", NOON + DAY), ("BBB", NOON + 2 * DAY), ("CCC", NOON + 3 * DAY))
    assert clock.now_ms == NOON


def test_the_good_events_of_a_batch_with_a_stray_one_count() -> None:
    """The stray one is left out."""
    clock = started()
    see(clock, ("AAA", NOON + DAY), ("BBB", NOON + 7), ("CCC", NOON + 3))
    assert clock.now_ms == NOON + 7


def test_the_clock_moving_on_forgets_who_argued() -> None:
    """Strays of different hours never add up to three."""
    clock = started()
    for minute, symbol in enumerate(("AAA", "BBB", "CCC", "DDD")):
        see(clock, (symbol, NOON + DAY))
        see(clock, ("GOOD", NOON + minute * 1_000 + 1))
    assert clock.now_ms == NOON + 3_001


@pytest.mark.parametrize("stray", [NOON + DAY, NOON - 40 * DAY, 1, NOON + 2 * MINUTE])
def test_a_first_event_that_is_a_stray(stray: int) -> None:
    """The next ones bring the clock to the market's time."""
    clock = MarketClock()
    see(clock, ("STRAY", stray))
    see(clock, ("AAA", NOON))
    see(clock, ("BBB", NOON + 1))
    assert clock.now_ms == NOON + 1
    assert clock.day == TradingDay.containing(NOON)


def test_a_clock_led_astray_finds_back() -> None:
    """Three symbols more than a day behind: it is the clock that is wrong."""
    clock = started(NOON + 30 * DAY)
    assert see(clock, ("AAA", NOON), ("BBB", NOON), ("CCC", NOON))
    assert clock.now_ms == NOON


@pytest.mark.parametrize("gap", [1, MINUTE])
def test_the_day_begins_at_four_exactly(gap: int) -> None:
    """A millisecond before 04:00 is the old day; 04:00 and the first event past it the new one."""
    four = ny(date(2024, 3, 6), 4)
    clock = started(four - gap)
    assert clock.day is not None
    assert clock.day.day == date(2024, 3, 5)
    assert see(clock, ("AAA", four))
    assert clock.day.day == date(2024, 3, 6)
    assert not see(clock, ("AAA", four - 1))
    assert clock.day.day == date(2024, 3, 6)


def test_set_is_believed() -> None:
    """A snapshot's time: a single event far from it moves nothing."""
    clock = MarketClock()
    clock.set(NOON)
    assert not see(clock, ("AAA", NOON + DAY))
    assert (clock.now_ms, clock.day) == (NOON, TradingDay.containing(NOON))


any_time = st.one_of(
    st.integers(-(9 * 10**18), 9 * 10**18),
    st.floats(allow_nan=False, allow_infinity=False, min_value=-9e18, max_value=9e18),
    st.integers(NOON - 3 * DAY, NOON + 3 * DAY),
    st.sampled_from([0, -1, 1, 10**10, 10**13, 10**16, 32_503_680_000_000]),
)
batches = st.lists(
    st.lists(st.tuples(st.sampled_from("ABCD"), any_time), min_size=1, max_size=5), max_size=12
)


@settings(max_examples=300, deadline=None)
@given(batches)
def test_the_clock_never_raises_and_stays_in_its_day(stream: list[list[tuple[str, float]]]) -> None:
    """Whatever times come: it says so when the day changes, and only then."""
    clock = MarketClock()
    for batch in stream:
        before = clock.day
        changed = see(clock, *batch)
        assert changed == (clock.day != before)
        if clock.day is not None:
            assert clock.day.start_ms <= clock.now_ms < clock.day.end_ms


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("AB"), any_time), max_size=30))
def test_two_symbols_never_move_a_clock_more_than_a_minute_ahead(events: list[tuple[str, float]]) -> None:
    """However often they say it."""
    clock = started()
    for event in events:
        before = clock.now_ms
        see(clock, event)
        assert clock.now_ms <= before + MINUTE
        assert clock.now_ms >= before
