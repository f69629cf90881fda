"""Sessions, trading days and the market clock, by New York time and event time alone."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdp.exchange_calendar import ExchangeCalendar, SpecialDay
from mdp.sessions import (
    AFTER_HOURS,
    CLOSED,
    PRE_MARKET,
    REGULAR,
    MarketClock,
    TradingDay,
    new_york_date,
    next_session,
    previous_session,
    sessions_before,
)
from tests.exchange_dates import FIRST, HALF_DAYS, LAST, trades

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


def is_summer_time(day: date) -> bool:
    """Whether New York is 4 hours behind UTC at 04:00: first Sunday of April to last of October until 2006.

    Uniform Time Act as amended in 1986, and by the Energy Policy Act of 2005.
    """
    if day.year >= 2007:
        return nth_sunday(day.year, 3, 2) <= day < nth_sunday(day.year, 11, 1)
    last = date(day.year, 10, 31)
    return nth_sunday(day.year, 4, 1) <= day < last - timedelta(days=(last.weekday() + 1) % 7)


CHANGES = [change for y in range(2007, 2029) for change in (nth_sunday(y, 3, 2), nth_sunday(y, 11, 1))]
LEAP_DAYS = [date(year, 2, 29) for year in range(2008, 2029, 4)]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_days_around_a_clock_change(change: date) -> None:
    """Boundaries are wall times; the Friday before lasts until Monday: 71 or 73 hours."""
    spring = change.month == 3
    friday, monday = (TradingDay.of(change + timedelta(days=n)) for n in (-2, 1))
    assert friday.end_ms - friday.start_ms == (71 if spring else 73) * HOUR
    assert friday.end_ms == monday.start_ms
    assert monday.end_ms - monday.start_ms == 24 * HOUR
    for trading, summer in ((friday, not spring), (monday, spring)):
        assert trading == TradingDay.of(trading.day)
        utc = datetime.fromtimestamp(trading.open_ms / 1000, UTC)
        assert (utc.hour, utc.minute) == ((13, 30) if summer else (14, 30))
        assert trading.open_ms - trading.start_ms == 5 * HOUR + 30 * MINUTE
        for ms in (trading.start_ms, trading.open_ms, trading.close_ms, trading.post_ms, trading.end_ms - 1):
            assert TradingDay.containing(ms) == trading
    for hour in range(24):  # also the hour that is missing, and the one that comes twice
        weekend = ny(change, hour)
        assert TradingDay.containing(weekend) == friday
        assert friday.session(weekend) == CLOSED
        assert friday.session_end(weekend) == monday.start_ms


@pytest.mark.parametrize("day", LEAP_DAYS, ids=str)
def test_leap_days_are_days(day: date) -> None:
    """The sessions around 28 February, 29 February and 1 March follow each other."""
    dates = [day + timedelta(days=n) for n in range(-1, 2)]
    assert [(one.month, one.day) for one in dates] == [(2, 28), (2, 29), (3, 1)]
    for one in dates:
        trading = TradingDay.of(one)
        assert TradingDay.containing(ny(one, 12)) == trading
        assert TradingDay.containing(ny(one + timedelta(days=1), 3, 59)) == trading
        assert (trading.day == one) == trades(one)


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
    for day in (date(2024, 7, 2), date(2024, 12, 2), date(2024, 12, 23)):
        assert TradingDay.of(day).session(ny(day, hour, minute)) == session
        assert not TradingDay.of(day).early_close
    for day in (date(2024, 7, 3), date(2024, 11, 29), date(2024, 12, 24)):
        assert TradingDay.of(day).session(ny(day, hour, minute)) == early
        assert TradingDay.of(day).early_close


def test_a_millisecond_before_a_boundary_is_the_session_before() -> None:
    """All boundaries, and where each session ends."""
    day = TradingDay.of(date(2024, 3, 5))
    assert [day.session(ms - 1) for ms in (day.start_ms, day.open_ms, day.close_ms, day.post_ms)] == [
        CLOSED, PRE_MARKET, REGULAR, AFTER_HOURS,
    ]  # fmt: skip
    assert day.session(day.end_ms) == CLOSED
    ends = [day.open_ms, day.close_ms, day.post_ms, day.end_ms]
    starts = [day.start_ms, day.open_ms, day.close_ms, day.post_ms]
    assert [day.session_end(ms) for ms in starts] == ends
    assert [day.session_end(ms - 1) for ms in ends] == ends


@settings(max_examples=300, deadline=None)
@given(st.dates(date(FIRST, 1, 1), date(LAST, 12, 20)))
def test_boundaries_are_new_york_wall_times_of_the_announced_hours(day: date) -> None:
    """Over 25 years, any date: hours by the exchange's table, the offset from UTC by the law of the year."""
    trading = TradingDay.of(day)
    assert TradingDay.containing(trading.start_ms) == trading
    assert TradingDay.of(trading.day) == trading
    assert trading.day == (day if trades(day) else trading.day)
    half = trading.day in HALF_DAYS
    walls = [(4, 0), (9, 30), (13, 0) if half else (16, 0), (17, 0) if half else (20, 0)]
    offset = timedelta(hours=-4 if is_summer_time(trading.day) else -5)
    bounds = (trading.start_ms, trading.open_ms, trading.close_ms, trading.post_ms)
    for ms, (hour, minute) in zip(bounds, walls, strict=True):
        wall = datetime(trading.day.year, trading.day.month, trading.day.day, hour, minute, tzinfo=UTC)
        assert datetime.fromtimestamp(ms / 1000, UTC) == wall - offset
    assert trading.early_close == half


@settings(max_examples=300, deadline=None)
@given(st.dates(date(FIRST, 1, 10), date(LAST, 12, 20)))
def test_trading_days_and_their_sessions_tile_time(day: date) -> None:
    """One begins where the one before ends; within one, sessions follow each other without a hole."""
    trading = TradingDay.of(day)
    following = TradingDay.of(next_session(trading.day))
    assert trades(trading.day)
    assert trades(following.day)
    assert trading.end_ms == following.start_ms
    assert TradingDay.of(previous_session(trading.day)).end_ms == trading.start_ms
    walk, met = float(trading.start_ms), []
    while walk < trading.end_ms:
        end = trading.session_end(walk)
        assert end > walk
        assert trading.session(walk) == trading.session(end - 1)
        met.append(trading.session(walk))
        walk = end
    assert walk == trading.end_ms
    # Dates without a session begin where the session's own date ends; there are some, or there are none.
    assert trading.post_ms < trading.idle_ms <= trading.end_ms
    idle = (following.day - trading.day).days > 1
    assert (trading.idle_ms < trading.end_ms) == idle
    assert met == [PRE_MARKET, REGULAR, AFTER_HOURS, CLOSED, *([CLOSED] if idle else [])]


@settings(max_examples=300, deadline=None)
@given(st.integers(ny(date(FIRST, 1, 5), 0), ny(date(LAST, 12, 20), 23)))
def test_every_millisecond_belongs_to_exactly_one_day(ms: int) -> None:
    """It is within its day, and not within the neighbours; the wall clock agrees."""
    day = TradingDay.containing(ms)
    assert day.start_ms <= ms < day.end_ms
    others = [TradingDay.of(other(day.day)) for other in (previous_session, next_session)]
    assert not any(other.start_ms <= ms < other.end_ms for other in others)
    local = datetime.fromtimestamp(ms / 1000, NY)
    date_of = local.date() if local.hour >= 4 else local.date() - timedelta(days=1)
    assert (day.day == date_of) == trades(date_of)
    assert TradingDay.of(day.day) == TradingDay.of(date_of) == day
    assert (ms >= day.idle_ms) == (not trades(date_of))


@pytest.mark.parametrize(
    ("day", "owner", "why"),
    [
        (date(2024, 3, 9), date(2024, 3, 8), "a Saturday belongs to Friday"),
        (date(2024, 3, 10), date(2024, 3, 8), "and so does Sunday, also where the clocks change"),
        (date(2024, 11, 28), date(2024, 11, 27), "Thanksgiving belongs to Wednesday"),
        (date(2024, 5, 27), date(2024, 5, 24), "Memorial Day to the Friday before the weekend"),
        (date(2023, 1, 2), date(2022, 12, 30), "a New Year kept on Monday to last year's last session"),
        (date(2012, 10, 30), date(2012, 10, 26), "hurricane Sandy: two days after a weekend"),
        (date(2001, 9, 16), date(2001, 9, 10), "six days without a session"),
    ],
)
def test_a_date_without_a_session_belongs_to_the_day_before(day: date, owner: date, why: str) -> None:
    """It is closed all day, and nothing is reset in it."""
    trading = TradingDay.of(day)
    assert trading.day == owner, why
    for hour, minute in ((4, 0), (9, 30), (12, 0), (16, 0), (23, 59)):
        assert TradingDay.containing(ny(day, hour, minute)) == trading
        assert trading.session(ny(day, hour, minute)) == CLOSED
        assert trading.idle_ms <= ny(day, hour, minute) < trading.end_ms
    assert previous_session(day) == owner
    assert next_session(owner) == TradingDay.containing(trading.end_ms).day > day


def test_session_dates_by_another_calendar() -> None:
    """Crypto has a trading day each date, of 24 hours but for clock changes."""
    always = ExchangeCalendar(every_day=True)
    saturday = TradingDay.of(date(2024, 3, 9), always)
    assert saturday.day == date(2024, 3, 9)
    assert saturday.end_ms - saturday.start_ms == 23 * HOUR
    assert saturday.idle_ms == saturday.end_ms
    assert TradingDay.containing(ny(date(2024, 3, 10), 3, 59), always) == saturday
    assert sessions_before(date(2024, 3, 11), 3, always) == [date(2024, 3, n) for n in (10, 9, 8)]
    assert sessions_before(date(2024, 3, 11), 3) == [date(2024, 3, n) for n in (8, 7, 6)]
    assert next_session(date(2024, 3, 8), always) == date(2024, 3, 9)
    assert previous_session(date(2024, 3, 11), always) == date(2024, 3, 10)


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


def test_a_feed_of_one_symbol_moves_it_by_going_on() -> None:
    """Five events in a row, each later: a pause of minutes, or a night, is not the end of a small feed."""
    for pause in (2 * MINUTE, DAY):
        clock = started()
        moved = [see(clock, ("AAA", NOON + pause + n * MINUTE)) for n in range(5)]
        assert clock.now_ms == NOON + pause + 4 * MINUTE
        assert moved[-1] is (pause == DAY)
        assert not any(moved[:-1])


def test_what_does_not_go_on_in_time_moves_nothing() -> None:
    """One batch, the same again, backwards, hours apart, or the clock's own time in between."""
    ahead = NOON + DAY
    for batches in (
        [[("AAA", ahead + n) for n in range(20)]],
        [[("AAA", ahead)]] * 20,
        [[("AAA", ahead - n * 1_000)] for n in range(20)],
        [[("AAA", ahead + n * 2 * 3_600_000)] for n in range(20)],
        [batch for n in range(20) for batch in ([("AAA", ahead + n)], [("BBB", NOON)])],
        [[("AAA", ahead + n), ("BBB", NOON)] for n in range(20)],
    ):
        clock = started()
        for batch in batches:
            assert not see(clock, *batch)
        assert clock.now_ms == NOON


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


def test_a_weekend_resets_nothing() -> None:
    """Neither a stray event nor many: Friday's day lasts until the first event from Monday 04:00 on."""
    friday = date(2024, 3, 8)
    clock = started(ny(friday, 19, 59))
    assert not see(clock, ("AAA", ny(date(2024, 3, 9), 10)))
    events = [(symbol, ny(date(2024, 3, 9), 11)) for symbol in ("AAA", "BBB", "CCC", "DDD")]
    assert not see(clock, *events)
    assert clock.now_ms == ny(date(2024, 3, 9), 11)
    assert clock.day == TradingDay.of(friday)
    assert clock.day.session(clock.now_ms) == CLOSED
    monday = ny(date(2024, 3, 11), 4)
    assert not see(clock, *[(symbol, monday - 1) for symbol in ("AAA", "BBB", "CCC")])
    assert see(clock, ("AAA", monday))
    assert clock.day == TradingDay.of(date(2024, 3, 11))


def test_a_closing_that_is_learned_moves_the_boundary_and_resets_nothing() -> None:
    """Announced on Tuesday for Wednesday: Tuesday's day lasts until Thursday."""
    calendar = ExchangeCalendar()
    clock = MarketClock(ny(date(2027, 3, 9), 12), calendar)
    mourning = date(2027, 3, 10)
    calendar.learn([SpecialDay(mourning, "National Day of Mourning", None)], date(2027, 3, 9))
    assert not see(clock, ("AAA", ny(date(2027, 3, 9), 12, 1)))
    assert clock.day is not None
    assert clock.day.end_ms == ny(date(2027, 3, 11), 4)
    events = [(symbol, ny(mourning, 12)) for symbol in ("AAA", "BBB", "CCC")]
    assert not see(clock, *events)
    assert see(clock, *[(symbol, ny(date(2027, 3, 11), 4)) for symbol in ("AAA", "BBB", "CCC")])


def test_a_half_day_that_is_learned_changes_the_hours_and_resets_nothing() -> None:
    """In the morning of that day, also by a batch that brings no news."""
    calendar = ExchangeCalendar()
    day = date(2027, 3, 9)
    clock = MarketClock(ny(day, 10), calendar)
    calendar.learn([SpecialDay(day, "Water", time(13))], date(2027, 3, 9))
    assert not see(clock, ("AAA", ny(day, 9)))
    assert clock.day is not None
    assert clock.day.close_ms == ny(day, 13)
    assert not see(clock, ("AAA", ny(day, 9)))


def test_a_day_that_turns_out_to_be_a_session_begins_then() -> None:
    """The calendar took it for closed and is told better: the next batch is the first of the day."""
    calendar = ExchangeCalendar()
    thanksgiving = date(2026, 11, 26)
    clock = MarketClock(ny(thanksgiving, 4, 1), calendar)
    assert clock.day == TradingDay.of(date(2026, 11, 25))
    assert calendar.learn_open(thanksgiving)
    assert see(clock, ("AAA", ny(thanksgiving, 4, 1)))
    assert clock.day is not None
    assert clock.day.day == thanksgiving
    assert not see(clock, ("AAA", ny(thanksgiving, 4, 1)))


def test_another_calendar_counts_from_the_next_batch_on() -> None:
    """Of a clock without an event, too."""
    always = ExchangeCalendar(every_day=True)
    clock = MarketClock()
    clock.use(always)
    see(clock, ("AAA", ny(date(2024, 3, 9), 12)))
    assert clock.day is not None
    assert clock.day.day == date(2024, 3, 9)
    clock.use(ExchangeCalendar())
    assert see(clock, ("AAA", ny(date(2024, 3, 9), 12)))
    assert clock.day.day == date(2024, 3, 8)
    clock.use(always)
    clock.set(ny(date(2024, 3, 10), 12))
    assert clock.day.day == date(2024, 3, 10)


def test_the_date_of_a_time_is_new_yorks() -> None:
    """Midnight there, not at 04:00 and not in London."""
    assert new_york_date(ny(date(2024, 3, 9), 0)) == date(2024, 3, 9)
    assert new_york_date(ny(date(2024, 3, 9), 0) - 1) == date(2024, 3, 8)


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
    """However often they say it, while the market goes on beside them."""
    clock = started()
    for event in events:
        before = clock.now_ms
        see(clock, ("ZZZ", before))
        see(clock, event)
        assert clock.now_ms <= before + MINUTE
        assert clock.now_ms >= before
