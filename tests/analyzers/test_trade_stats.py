"""The day's trades by the SIP's rules: against a naive model, over sessions, restarts and bad input."""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdp.analyzers.trade_ledger import TradeLedger
from mdp.trade_rules import SHIPPED_TABLE, Rule, completed

from .rig import Rig, at, trade

NOON = at(12)
OPEN, CLOSE, POST = at(9, 30), at(16), at(20)
Wire = dict[str, Any]

NO_VOLUME = {15, 16, 38}
NOTHING_SET = {2, 7, 12, 13, 15, 16, 20, 21, 29, 37, 52, 53}
NO_LAST = NOTHING_SET | {5, 10, 22, 32, 33}


class Model:
    """A symbol's day, worked out from a list of all its trades each time."""

    def __init__(self) -> None:
        self.counted: list[Wire] = []  # each once, in order of arrival
        self.keys: set[tuple[Any, ...]] = set()
        self.duplicates = 0

    def take(self, wire: Wire) -> None:
        key = (wire.get("x"), wire.get("i"), wire.get("z"), wire.get("trfi"))
        if wire.get("i") is not None:
            if key in self.keys:
                self.duplicates += 1
                return
            self.keys.add(key)
        self.counted.append(wire)

    def _allowed(self, forbidden: set[int], wire: Wire, *, scoped: bool) -> bool:
        listed = set(wire.get("c") or ())
        if scoped and not OPEN <= wire["t"] < CLOSE:
            listed -= {12, 13}
        return not listed & forbidden

    def volume(self) -> list[Wire]:
        return [w for w in self.counted if not set(w.get("c") or ()) & NO_VOLUME]

    def last(self) -> list[Wire]:
        return [w for w in self.counted if self._allowed(NO_LAST, w, scoped=True)]

    def span(self, begin: int, end: int, *, scoped: bool = True) -> tuple[float | None, float | None]:
        prices = [
            w["p"]
            for w in self.counted
            if begin <= w["t"] < end and self._allowed(NOTHING_SET, w, scoped=scoped)
        ]
        return (max(prices), min(prices)) if prices else (None, None)

    def stats(self) -> Wire:
        counted, last = self.volume(), self.last()
        sizes, times = [w["s"] for w in counted], [w["t"] for w in counted]
        newest = max(enumerate(last), key=lambda item: (item[1]["t"], item[0]))[1] if last else {}
        odd = [w["s"] for w in counted if 37 in (w.get("c") or ())]
        dollars = sum(w["p"] * w["s"] for w in counted)
        return {
            "total_volume": sum(sizes),
            "trade_count": len(sizes),
            "avg_size": pytest.approx(sum(sizes) / len(sizes), abs=0.0051) if sizes else 0,
            "max_size": max(sizes, default=0),
            "time_span_ms": max(times) - min(times) if times else 0,
            "first_timestamp": min(times, default=0),
            "newest_timestamp": max(times, default=0),
            "latest_price": newest.get("p", 0),
            "latest_timestamp": newest.get("t", 0),
            "latest_exchange": newest.get("x", ""),
            "dollar_volume": pytest.approx(dollars, rel=1e-9),
            "vwap": pytest.approx(dollars / sum(sizes), rel=1e-9) if sum(sizes) else 0,
            "odd_lot_count": len(odd),
            "odd_lot_volume": sum(odd),
            "duplicates": self.duplicates,
            **dict(zip(("high", "low"), self.span(0, 1 << 60, scoped=False), strict=True)),
            **dict(zip(("pre_market_high", "pre_market_low"), self.span(0, OPEN), strict=True)),
            **dict(zip(("regular_session_high", "regular_session_low"), self.span(OPEN, CLOSE), strict=True)),
            **dict(zip(("after_hours_high", "after_hours_low"), self.span(CLOSE, POST), strict=True)),
        }

    def window(self) -> Wire:
        """Of the last 1,000 in order of arrival; the latest is the one that arrived last."""
        counted, last = deque(self.volume(), 1_000), self.last()
        sizes, times = [w["s"] for w in counted], [w["t"] for w in counted]
        return {
            "total_volume": sum(sizes),
            "trade_count": len(sizes),
            "max_size": max(sizes),
            "time_span_ms": max(times) - min(times),
            "latest_price": last[-1]["p"] if last else 0,
            "latest_timestamp": last[-1]["t"] if last else 0,
        }


def day_rig() -> Rig:
    """A rig whose clock is at the end of the after-hours, so that every trade of the day is in the past."""
    rig = Rig()
    rig.tick(POST - 1)
    return rig


#: Just at, before and behind the boundaries of the sessions, and anywhere.
moments = st.one_of(
    st.sampled_from([OPEN - 1, OPEN, CLOSE - 1, CLOSE, NOON, NOON + 1]), st.integers(at(4), POST - 1)
)
lists = st.one_of(
    st.none(),
    st.lists(st.sampled_from([0, 2, 5, 10, 12, 13, 14, 15, 16, 37, 38, 41, 53]), max_size=3),
)
wires = st.builds(
    lambda t, s, p, c, i, x, z: trade("AAA", t, s, p, x=x, z=z, **({"c": c} if c is not None else {}), **i),
    moments,
    st.integers(0, 5_000),
    st.integers(1, 40_000).map(lambda cents: cents / 100),
    lists,
    st.one_of(st.just({}), st.integers(1, 12).map(lambda n: {"i": str(n)})),
    st.sampled_from([4, 11, 12]),
    st.sampled_from([1, 3]),
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.lists(wires, min_size=1, max_size=12), min_size=1, max_size=8), st.integers(1, 40))
def test_any_day_equals_the_naive_model(frames: list[list[Wire]], copies: int) -> None:
    """Trades of any time and conditions, with repeats, in any order; read after each frame."""
    rig, model = day_rig(), Model()
    for number, frame in enumerate(frames):
        if number == 1:  # enough to wrap the window around
            frame = [{key: value for key, value in wire.items() if key != "i"} for wire in frame] * copies
        rig.send(*frame)
        for wire in frame:
            model.take(wire)
        if number % 2 == 0:
            continue  # read later, in one go
        assert_equal(rig, model)
    assert_equal(rig, model)


def assert_equal(rig: Rig, model: Model) -> None:
    """The feed shows the model's numbers."""
    assert rig.get("trade_stats:AAA") == {"symbol": "AAA", **model.stats()}
    rig.flush(rig.trades)
    if model.volume() and max(w["t"] for w in deque(model.volume(), 1_000)) >= POST - 300_001:
        shown = rig.get("tta:AAA:widget")
        assert {name: shown[name] for name in model.window()} == model.window()


def test_a_long_day_wraps_its_window_and_loses_nothing() -> None:
    """4,321 trades, some of them late, read seldom: the day's numbers are of all of them."""
    rig, model = day_rig(), Model()
    for begin in range(0, 4_321, 97):
        frame = [
            trade("AAA", POST - 250_000 + n * 37 % 200_000, 1 + n % 450, 10 + n % 77 / 7, x=n % 9,
                  i=str(n // 2), c=[[], [37], [14, 41], [12], [12, 37], [38]][n % 6])
            for n in range(begin, min(begin + 97, 4_321))
        ]  # fmt: skip
        rig.send(*frame)
        for wire in frame:
            model.take(wire)
        if begin % 970 == 0:
            assert_equal(rig, model)
    assert_equal(rig, model)
    assert TradeLedger.of(rig.market).trade_count("AAA") == len(model.volume())
    assert TradeLedger.of(rig.market).trade_count("BBB") == 0


def test_a_restart_goes_on_with_the_days_numbers() -> None:
    """What `dump` gives, through msgpack, is what `hydrate` takes; windows begin anew."""
    rig, model = day_rig(), Model()
    frame = [
        trade("AAA", POST - 9_000 + n, n, 10.5 + n, i=str(n), x=4, c=[12] if n % 2 else [37])
        for n in range(50)
    ]
    late = trade("AAA", POST - 90_000, 5, 3, i="late", x=11, c=[12])
    rig.send(*frame, late)
    for wire in (*frame, late):
        model.take(wire)
    records = msgspec.msgpack.decode(msgspec.msgpack.encode(list(rig.stats.dump())))
    again = day_rig()
    again.stats.hydrate(records)
    assert again.get("trade_stats:AAA") == rig.get("trade_stats:AAA")
    assert again.get("tta:AAA:widget") is None
    more = trade("AAA", POST - 1_000, 7, 99, i="more", x=11, c=[12])
    again.send(more)
    model.take(more)
    assert again.get("trade_stats:AAA") == {"symbol": "AAA", **model.stats()}


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.lists(wires, min_size=1, max_size=12), min_size=2, max_size=6), st.sampled_from([0, 1, 7, 32])
)
def test_any_day_survives_any_restart(frames: list[list[Wire]], loose: int) -> None:
    """However many trades are written as they are, the day's numbers are the model's, and so they go on."""
    rig, model = day_rig(), Model()
    for number, frame in enumerate(frames):
        rig.send(*frame)
        for wire in frame:
            model.take(wire)
        if number % 2 == 0:
            continue  # several frames' trades may be written together
        TradeLedger.of(rig.market).loose_trades = loose
        records = msgspec.msgpack.decode(msgspec.msgpack.encode(list(rig.stats.dump())))
        seen = TradeLedger.of(rig.market).seen
        rig = day_rig()
        rig.stats.hydrate(records)
        TradeLedger.of(rig.market).seen = seen  # kept elsewhere, over a restart
        assert TradeLedger.of(rig.market).trade_count("AAA") == len(model.volume())
    assert rig.get("trade_stats:AAA") == {"symbol": "AAA", **model.stats()}


def test_few_trades_are_written_as_they_are_and_many_summed_up() -> None:
    """32 cost no look at the day's numbers; with the next one they are summed up."""
    rig = day_rig()
    ledger = TradeLedger.of(rig.market)
    for number, summed in ((32, False), (33, True), (40, False)):
        held = ledger.trade_count("AAA")
        rig.send(*[trade("AAA", POST - 9_000, 1, 10.5, i=str(n)) for n in range(held, number)])
        ((name, records, *_),) = list(rig.stats.dump())[-1][1]
        assert name == "AAA"
        assert (ledger.symbols["AAA"].count == number) is summed
        assert bool(records) is not summed


def test_records_that_are_none_are_refused() -> None:
    """A damaged snapshot is told, not read as trades."""
    records = list(day_rig().stats.dump())
    with pytest.raises(ValueError, match="no whole number of trades"):
        day_rig().stats.hydrate([*records, ["trades", [["AAA", b"12345", *[0] * 11, None, [], 0, 0]]]])


def test_a_snapshot_of_version_three_is_read() -> None:
    """Trades were always summed up there."""
    rig = day_rig()
    TradeLedger.of(rig.market).loose_trades = 0
    rig.send(trade("AAA", POST - 9_000, 100, 10.5, i="1"), trade("AAA", POST - 8_000, 50, 11, i="2"))
    rules, (_, symbols) = list(rig.stats.dump())
    again = day_rig()
    again.stats.hydrate([rules, ["day", [[name, *values] for name, _, *values in symbols]]])
    assert again.get("trade_stats:AAA") == rig.get("trade_stats:AAA")
    assert again.get("trade_stats:AAA")["total_volume"] == 150


def test_the_providers_rules_survive_a_restart() -> None:
    """No question is needed on the second start; the shipped ones are the program's own to bring."""
    rig, again = day_rig(), day_rig()
    ledger = TradeLedger.of(rig.market)
    ledger.use(completed([Rule(14, "Intermarket Sweep", high_low=False)], "2030-01-02T03:04:05+00:00"))
    again.stats.hydrate(msgspec.msgpack.decode(msgspec.msgpack.encode(list(rig.stats.dump()))))
    assert TradeLedger.of(again.market).rules == ledger.rules
    third = day_rig()
    third.stats.hydrate(list(Rig().stats.dump()))
    assert TradeLedger.of(third.market).rules is SHIPPED_TABLE


def test_new_rules_count_from_the_next_trade() -> None:
    """What was remembered of lists of conditions is forgotten with the old rules."""
    rig = day_rig()
    rig.send(trade("AAA", POST - 10, 1, 10, c=[14]))
    ledger = TradeLedger.of(rig.market)
    ledger.use(completed([Rule(14, "Intermarket Sweep", high_low=False, last=False)], "2030"))
    rig.send(trade("AAA", POST - 9, 1, 20, c=[14]))
    stats = rig.get("trade_stats:AAA")
    assert (stats["latest_price"], stats["after_hours_high"], stats["total_volume"]) == (10, 10, 2)
    assert ledger.excluded() == {"high_low": 1, "last": 1, "volume": 0, "unknown_condition": 0}


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (trade("AAA", POST - 1, 100, -5), "implausible_price"),
        (trade("AAA", POST - 1, 100, 0), "implausible_price"),
        (trade("AAA", POST - 1, 100, 1e12), "implausible_price"),
        (trade("AAA", POST - 1, -100, 5), "implausible_size"),
        (trade("AAA", POST - 1, 1e15, 5), "implausible_size"),
        (trade("AAA", 1, 100, 5), "other_day"),
        (trade("AAA", -5, 100, 5), "other_day"),
        (trade("AAA", at(3, 59), 100, 5), "other_day"),
        (trade("AAA", POST - 1, 100, 5, correction=8), "corrected"),
        (trade("A B", POST - 1, 100, 5), "not_a_symbol"),
    ],
)
def test_what_cannot_be_counts_for_nothing(wire: Wire, reason: str) -> None:
    """Counted with its reason; and the right print with the same id still counts."""
    rig = day_rig()
    rig.send({**wire, "i": "1"})
    ledger = TradeLedger.of(rig.market)
    assert {name: n for name, n in ledger.ignored.items() if n} == {reason: 1}
    assert rig.get("trade_stats:AAA") is None
    rig.send(trade("AAA", POST - 1, 3, 5, i="1"))
    assert rig.get("trade_stats:AAA")["total_volume"] == 3


@pytest.mark.parametrize("correction", [0, 12, None])
def test_other_corrections_stand(correction: int | None) -> None:
    """Only those that take a print back drop it."""
    rig = day_rig()
    rig.send(trade("AAA", POST - 1, 100, 5, correction=correction))
    assert rig.get("trade_stats:AAA")["trade_count"] == 1


@pytest.mark.parametrize("odd", [7.5, -1, 61, [61], [1e18], list(range(60, 400)), [12.0], 37])
def test_odd_conditions_harm_nobody(odd: Any) -> None:
    """A number alone, unknown ones, absurdly many: read by the same rules."""
    rig = day_rig()
    rig.send(trade("AAA", POST - 1, 100, 5, c=odd))
    stats = rig.get("trade_stats:AAA")
    assert stats["trade_count"] == 1
    assert stats["latest_price"] == (0 if odd == 37 else 5)


def test_an_unknown_condition_is_said_once_and_counted_each_time() -> None:
    """By number, however many lists it is in."""
    rig = day_rig()
    told: list[Any] = []
    ledger = TradeLedger.of(rig.market)
    ledger.on_unknown = told.append
    rig.send(*[trade("AAA", POST - 1, 1, 5, c=c) for c in ([61], [61], [61, 62], [14])])
    assert told == [61, 62]
    assert ledger.excluded()["unknown_condition"] == 3


def test_exchanges_that_are_none_are_shown_as_none() -> None:
    """Absent, -1, a fraction, absurdly large; a whole float is that number."""
    rig = day_rig()
    shown = []
    for n, exchange in enumerate([None, -1, 4.5, 1e18, 12.0, 4]):
        rig.send(trade("AAA", POST - 100 + n, 1, 5, x=exchange))
        shown.append(rig.get("trade_stats:AAA")["latest_exchange"])
    assert shown == ["", "", "", "", 12, 4]


def test_a_trade_from_the_future_waits_for_the_clock() -> None:
    """One stray counts for nothing; once the clock gets there, it counts once and in its place."""
    rig = Rig()
    rig.tick(NOON)
    rig.send(trade("AAA", NOON, 1, 10, i="1"), trade("AAA", NOON + 3_600_000, 5, 20, i="2"))
    assert rig.get("trade_stats:AAA")["latest_price"] == 10
    rig.tick(NOON + 3_600_000)
    rig.send(trade("BBB", NOON + 3_600_000, 1, 10))
    stats = rig.get("trade_stats:AAA")
    assert (stats["latest_price"], stats["total_volume"], stats["duplicates"]) == (20, 6, 0)


def test_the_first_trades_of_a_day_count_in_it() -> None:
    """They come before three symbols have moved the clock; yesterday's numbers are gone."""
    rig, morning = day_rig(), at(4, day=(2024, 3, 6))
    rig.send(trade("AAA", POST - 1, 100, 10, i="1"))
    for symbol in ("AAA", "BBB", "CCC"):
        rig.send(trade(symbol, morning + 5, 7, 20, i="1", c=[12]))
    rig.send(trade("DDD", morning + 6, 1, 1))
    assert rig.market.clock.day is not None
    assert rig.market.clock.day.day.isoformat() == "2024-03-06"
    stats = rig.get("trade_stats:AAA")
    assert (stats["total_volume"], stats["pre_market_high"], stats["high"]) == (7, 20, None)
    assert rig.get("trade_stats:BBB")["total_volume"] == 7


def test_published_when_wanted_and_only_what_changed() -> None:
    """A subscriber by name gets that symbol, once for each change; nobody: nothing."""
    rig = day_rig()
    rig.send(trade("AAA", POST - 1, 1), trade("BBB", POST - 1, 1))
    rig.flush(rig.stats)
    assert rig.results.published == 0
    rig.subscribe("trade_stats:BBB")
    rig.flush(rig.stats)
    rig.send(trade("AAA", POST - 1, 1))
    rig.flush(rig.stats)
    assert [feed for feed, _ in rig.taken()] == ["trade_stats:BBB"]
    rig.send(trade("BBB", POST - 1, 1, 10, i="7"), trade("BBB", POST - 1, 1, 10, i="7"))
    rig.flush(rig.stats)
    ((feed, value),) = rig.taken()
    assert (feed, value["trade_count"], value["duplicates"]) == ("trade_stats:BBB", 2, 1)
    rig.subscribe("trade_stats:*")
    rig.flush(rig.stats)
    assert ("trade_stats:AAA") in [feed for feed, _ in rig.taken()]


def test_many_symbols_are_published_in_steps() -> None:
    """The loop is given back; a new day in between ends it."""
    rig = day_rig()
    for begin in range(0, 1_200, 100):
        rig.send(*[trade(f"S{n:04}", POST - 1, 1) for n in range(begin, begin + 100)])
    rig.subscribe("trade_stats:*")
    (guard,) = [guard for guard in rig.engine.guards if guard.analyzer is rig.stats]
    assert len(list(guard.flush())) >= 2
    rig.results.commit()
    assert len(rig.taken()) == 1_200
    assert len(list(rig.stats.dump())) == 1 + 1_200 / 16  # the rules, and 16 symbols a step


def test_a_symbol_is_forgotten_bit_by_bit_after_the_day() -> None:
    """A new day frees yesterday's symbols over the batches that follow."""
    rig = day_rig()
    rig.send(*[trade(f"S{n:04}", POST - 1, 1) for n in range(100)])
    ledger = TradeLedger.of(rig.market)
    rig.tick(at(4, day=(2024, 3, 6)))
    assert ledger.symbols == {}
    for n in range(5):
        rig.send(trade("AAA", at(4, day=(2024, 3, 6)) + n, 1))
    assert ledger._retired == []


def test_a_symbol_of_odd_lots_has_volume_and_no_price() -> None:
    """What may set no price sets none: 0, as whatever is not known."""
    rig = day_rig()
    rig.send(trade("AAA", POST - 1, 5, 700, x=4, c=[37]))
    rig.flush(rig.trades)
    shown = rig.get("tta:AAA:widget")
    assert (shown["total_volume"], shown["latest_price"], shown["latest_timestamp"]) == (5, 0, 0)
    assert shown["latest_exchange"] == ""
