"""The engine: time, resets, the order of analyzers, and that nothing stops it."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdp.analyzers.base import Analyzer, EventBatch
from mdp.analyzers.state import Market
from mdp.cache.memory import MemoryBus, MemoryCache
from mdp.events import AGGREGATES, HALTS, QUEUES, QUOTES, TRADES, UNKNOWN, FrameDecoder, Quote, Trade, Unknown
from mdp.feeds import HOD_ALERT
from mdp.processor.engine import Engine
from mdp.processor.results import Results
from mdp.queues.base import Batch
from mdp.sessions import AFTER_HOURS, CLOSED, PRE_MARKET, REGULAR, TradingDay
from tests.analyzers.rig import Rig, at, bar

NOON = at(12)


class Spy(Analyzer):
    """Notes what is called, in one list for all; raises when told to."""

    name: ClassVar[str] = "spy"
    queues: ClassVar[tuple[str, ...]] = (TRADES, UNKNOWN)

    def __init__(self, market: Market, out: Results, log: list[tuple[Any, ...]], label: str = "a") -> None:
        super().__init__(market, out)
        self.log, self.label = log, label
        self.fails = False

    def note(self, *what: Any) -> None:
        self.log.append((self.label, *what))
        if self.fails:
            raise ValueError("told to")

    def process(self, batch: EventBatch) -> None:
        self.out.emit(HOD_ALERT, "", self.label)
        self.note("process", len(batch.events), self.market.clock.now_ms)

    def on_day(self, day: TradingDay) -> None:
        self.note("day", day.day.isoformat())

    def on_session(self, session: str) -> None:
        self.note("session", session)


class Setting:
    """An engine with two spies, and what they noted."""

    def __init__(self, *, max_failures: int = 3) -> None:
        self.log: list[tuple[Any, ...]] = []
        self.market = Market()
        self.bus = MemoryBus(epoch=1)
        self.written: list[Any] = []
        self.results = Results(self.bus, MemoryCache(self.bus), self)
        self.first = Spy(self.market, self.results, self.log)
        self.second = Spy(self.market, self.results, self.log, "b")
        self.engine = Engine(self.market, self.results, [self.first, self.second], max_failures=max_failures)

    def write(self, records: list[Any]) -> None:
        self.written.extend(records)

    def trades(self, *times: int) -> list[tuple[Any, ...]]:
        """Three symbols trade at each time, one batch a time; returns what the spies noted."""
        self.log.clear()
        for ms in times:
            self.engine.process(TRADES, Batch([Trade(s, 1, 1, ms) for s in ("AAA", "BBB", "CCC")], 0))
        return list(self.log)


def test_each_analyzer_sees_its_queues_in_order() -> None:
    """First the clock moves, then day and session are announced, then the batch comes."""
    s = Setting()
    assert s.trades(NOON) == [
        ("a", "day", "2024-03-05"),
        ("b", "day", "2024-03-05"),
        ("a", "session", REGULAR),
        ("b", "session", REGULAR),
        ("a", "process", 3, NOON),
        ("b", "process", 3, NOON),
    ]
    s.log.clear()
    s.engine.process(QUOTES, Batch([Quote("AAA", NOON + 1)], 0))
    assert s.log == []
    assert s.market.clock.now_ms == NOON + 1


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (at(9, 29, 59, ms=999), at(9, 30), [("session", REGULAR)]),
        (at(15, 59, 59, ms=999), at(16), [("session", AFTER_HOURS)]),
        (at(19, 59, 59, ms=999), at(20), [("session", CLOSED)]),
        (at(20), at(23, 59), []),
        (at(20), at(3, 59, 59, day=(2024, 3, 6)), []),
        (at(3, 59, 59, ms=999), at(4), [("day", "2024-03-05"), ("session", PRE_MARKET)]),
        (at(16), at(16, day=(2024, 3, 6)), [("day", "2024-03-06"), ("session", AFTER_HOURS)]),
        (at(9, 0), at(10, day=(2024, 3, 8)), [("day", "2024-03-08"), ("session", REGULAR)]),
        # The clocks change on a Sunday, which belongs to Friday's trading day.
        (at(20, day=(2024, 3, 8)), at(4, day=(2024, 3, 10)), []),
        (
            at(3, 59, day=(2024, 3, 11)),
            at(4, day=(2024, 3, 11)),
            [("day", "2024-03-11"), ("session", PRE_MARKET)],
        ),
        (
            at(3, 59, day=(2024, 11, 4)),
            at(4, day=(2024, 11, 4)),
            [("day", "2024-11-04"), ("session", PRE_MARKET)],
        ),
        # Thanksgiving is closed and belongs to Wednesday; the day after is a half day.
        (at(20, day=(2024, 11, 27)), at(9, 30, day=(2024, 11, 28)), []),
        (at(12, 59, 59, day=(2024, 11, 29)), at(13, day=(2024, 11, 29)), [("session", AFTER_HOURS)]),
        (at(16, 59, 59, day=(2024, 11, 29)), at(17, day=(2024, 11, 29)), [("session", CLOSED)]),
    ],
)
def test_the_first_event_past_a_boundary_resets(
    before: int, after: int, expected: list[tuple[str, str]]
) -> None:
    """To the millisecond, once, over days without an event, weekends, clock changes and half days."""
    s = Setting()
    s.trades(before)
    told = [entry[1:] for entry in s.trades(after, after) if entry[0] == "a" and entry[1] != "process"]
    assert told == expected


def test_a_new_day_is_journaled() -> None:
    """So that a restart knows that what is older is of no use."""
    s = Setting()
    s.trades(NOON)
    assert [record for record in s.written if record[0] == "d"] == [["d", "2024-03-05", NOON]]


def test_one_that_raises_loses_its_part_and_nothing_else() -> None:
    """The other one is called, results leave, and the engine does not raise; disabled after the limit."""
    s = Setting(max_failures=4)
    s.trades(NOON)
    s.first.fails = True
    for _ in range(3):
        s.trades(NOON + 1)
    guard = s.engine.guards[0]
    assert (guard.failures, guard.lost_events, guard.disabled) == (3, 9, False)
    s.trades(at(17))
    assert guard.disabled
    assert [entry for entry in s.trades(NOON) if entry[0] == "a"] == []
    assert [entry[1] for entry in s.log if entry[0] == "b"] == ["process"]
    assert s.bus.place("daily_range_hod_alert")[1] == 2 + 6 + 1 + 1


def test_what_was_not_understood_moves_no_clock() -> None:
    """It has no time of a market."""
    s = Setting()
    s.engine.process(UNKNOWN, Batch([Unknown("x", "y", NOON)], 0))
    assert s.market.clock.day is None
    assert s.log == [("a", "process", 1, 0), ("b", "process", 1, 0)]


@pytest.mark.parametrize("factor", [1_000, 1_000_000])
def test_times_in_other_units_are_understood(factor: int) -> None:
    """Micro- and nanoseconds become milliseconds before anybody sees them, on every queue."""
    rig = Rig()
    rig.tick(NOON * factor)
    assert rig.market.clock.now_ms == NOON
    sent = bar("AAA", NOON, 10)
    rig.send(sent | {"s": sent["s"] * factor, "e": sent["e"] * factor})
    row = rig.get("quote:AAA")
    assert (row["start_timestamp"], row["end_timestamp"]) == (NOON, NOON + 1_000)
    rig.subscribe("stocks:luld:AAA")
    rig.send({"ev": "LULD", "T": "AAA", "t": (NOON + 5) * factor})
    assert rig.taken()[0][1]["timestamp"] == NOON + 5


@pytest.mark.parametrize("factor", [1, 1_000, 1_000_000])
def test_many_quotes_tell_the_time_as_few_do(factor: int) -> None:
    """Not each is looked at; the last one is, whatever their number, and in any unit."""
    rig = Rig()
    for count in range(1, 200):
        newest = NOON + count * 1_000
        quotes = [{"ev": "Q", "sym": f"Q{n:03}", "t": (newest - 1) * factor} for n in range(count)]
        rig.send(*quotes, *[{"ev": "Q", "sym": "LAST", "t": newest * factor} for _ in range(3)])
        assert rig.market.clock.now_ms == newest


def test_among_many_quotes_a_time_in_another_unit_reaches_clients_in_ms() -> None:
    """Whichever of them it is; and the clock goes on by the others."""
    rig = Rig()
    rig.tick(NOON)
    rig.subscribe("stocks:quotes:ODD")
    for place in range(100):
        quotes = [{"ev": "Q", "sym": f"Q{n:03}", "t": NOON + place} for n in range(100)]
        quotes[place] = {"ev": "Q", "sym": "ODD", "t": (NOON + place) * 1_000_000}
        rig.send(*quotes)
        assert [payload["timestamp"] for _, payload in rig.taken()] == [NOON + place]
        assert rig.market.clock.now_ms == NOON + place


def test_a_rewind_begins_the_day_afresh() -> None:
    """The provider's clock says so: everything of the later time is forgotten."""
    rig = Rig()
    rig.tick(NOON)
    rig.send(bar("AAA", NOON, 10, av=5))
    rig.engine.rewind(at(9))
    assert (rig.market.clock.now_ms, rig.get("quote:AAA"), rig.get("scanners:top_volume")) == (
        at(9),
        None,
        [],
    )
    rig.send(bar("AAA", at(9), 11, av=1))
    assert rig.get("quote:AAA")["accumulated_volume"] == 1


def test_first_prints_of_a_day_wait_for_the_clock_to_enter_it() -> None:
    """The clock waits for three symbols to agree; whose bars came before that has them all the same: its
    open, its range, its volume, for who reads and for who subscribed to everything."""
    rig = Rig()
    rig.tick(at(19, 59))
    for symbol in ("AAA", "BBB", "CCC"):
        rig.send(bar(symbol, at(19, 59), 10, av=5_000))
    rig.subscribe("quote:*")
    stray, early = bar("DDD", at(9, 30, day=(2024, 3, 6)), 99, av=9), at(4, day=(2024, 3, 6))
    rig.send(stray)
    for index, symbol in enumerate(("AAA", "BBB", "CCC")):
        rig.send(bar(symbol, early + index * 1_000, 20 + index, av=100 + index))
    told = {feed: value["open"] for feed, value in rig.taken()}
    assert told == {"quote:AAA": 20, "quote:BBB": 21, "quote:CCC": 22}
    for index, symbol in enumerate(("AAA", "BBB", "CCC")):
        row = rig.get(f"quote:{symbol}")
        assert (row["open"], row["accumulated_volume"]) == (20 + index, 100 + index)
    assert rig.get("quote:DDD") is None
    rig.send(bar("AAA", early + 3_000, 25, av=110))
    ranged = rig.get("daily_range:AAA")
    assert (ranged["pre_market_high"], ranged["pre_market_low"]) == (25, 20)


decoder = FrameDecoder()
number = st.one_of(
    st.integers(-(9 * 10**18), 9 * 10**18),
    st.floats(min_value=-9e18, max_value=9e18, allow_nan=False),
    st.sampled_from([0, -0.0, 5e-324, 1e300 / 1e290, NOON, NOON + 1, NOON * 1_000_000]),
)
symbol = st.sampled_from(["AAA", "BBB", "X:Y", "*", " ", "\x00", "é"])


@st.composite
def wild(draw: st.DrawFn, queue: str) -> Any:
    """An event that decoding lets through, with numbers nobody expects."""
    if queue == UNKNOWN:
        return Unknown("r", "x", 0)
    name = draw(symbol)
    if queue == TRADES:
        return Trade(name, draw(number), draw(number), draw(number))
    if queue == QUOTES:
        return Quote(name, draw(number))
    if queue == HALTS:
        text = f'{{"ev":"LULD","T":"AAA","t":{draw(st.integers(-9 * 10**18, 9 * 10**18))}}}'
        return decoder.decode(f"[{text}]")[0]
    kind = draw(st.sampled_from(["A", "AM"]))
    event: Any = decoder.decode(f'[{{"ev":"{kind}","sym":"AAA","c":1,"h":1,"l":1,"s":1}}]')[0]
    event.symbol, event.start_timestamp = name, draw(number)
    for field in ("close", "high", "low", "open", "volume", "accumulated_volume", "official_open_price"):
        setattr(event, field, draw(number))
    return event


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_no_numbers_stop_it(data: st.DataObject) -> None:
    """Whatever passed decoding: no analyzer raises, and every answer is JSON."""
    rig = Rig()
    for pattern in ("quote:*", "daily_range:*", "stocks:*:*", "scanners:*", "tta:*:widget", "unknown"):
        rig.subscribe(pattern)
    for _ in range(data.draw(st.integers(1, 5))):
        queue = data.draw(st.sampled_from(QUEUES))
        events = data.draw(st.lists(wild(queue), min_size=1, max_size=4))
        rig.engine.process(queue, Batch(events, rig.clock()))
        rig.check()
        for analyzer in (rig.quote, rig.range, rig.boards, rig.boards, rig.boards, rig.trades):
            rig.flush(analyzer)
        rig.taken()
    for key in ("quote:AAA", "daily_range:AAA", "scanners:top_volume", "tta:all_symbols:widget"):
        rig.get(key)
    assert AGGREGATES in QUEUES
