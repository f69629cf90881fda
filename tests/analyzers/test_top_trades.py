"""Top trades: windows, statistics, who is in and who drops out."""

from __future__ import annotations

import json
from collections import deque
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .rig import Rig, at, trade

NOON = at(12)
FIELDS = {
    "total_volume",
    "trade_count",
    "avg_size",
    "max_size",
    "time_span_ms",
    "latest_price",
    "latest_timestamp",
    "latest_exchange",
}
Wire = dict[str, Any]


def rig_at_noon() -> Rig:
    """A rig whose market clock shows 12:00."""
    rig = Rig()
    rig.tick(NOON)
    return rig


def naive(trades: list[Wire]) -> Wire:
    """The statistics of a symbol's last 1,000 trades in order of arrival."""
    last = deque(trades, 1_000)
    sizes, times = [t["s"] for t in last], [t["t"] for t in last]
    return {
        "total_volume": sum(sizes),
        "trade_count": len(last),
        "avg_size": sum(sizes) / len(last),
        "max_size": max(sizes),
        "time_span_ms": max(times) - min(times),
        "latest_price": last[-1]["p"],
        "latest_timestamp": last[-1]["t"],
    }


def agree(got: Wire, expected: Wire) -> None:
    """The average is given to the cent of a share."""
    for name, value in expected.items():
        assert got[name] == pytest.approx(value, rel=1e-9, abs=0.0051 if name == "avg_size" else 1e-9), name


def test_one_trade() -> None:
    """Payloads as the contract has them."""
    rig = rig_at_noon()
    rig.send(trade("AAA", NOON, 100, 10.5, x=4))
    rig.flush(rig.trades)
    stats = {
        "total_volume": 100,
        "trade_count": 1,
        "avg_size": 100,
        "max_size": 100,
        "time_span_ms": 0,
        "latest_price": 10.5,
        "latest_timestamp": NOON,
        "latest_exchange": 4,
    }
    everything = rig.get("tta:all_symbols:widget")
    assert everything["symbols"] == {"AAA": stats}
    assert everything["symbol_count"] == 1
    assert set(everything) == {"timestamp", "symbols", "symbol_count"}
    assert rig.get("tta:AAA:widget") == {"timestamp": everything["timestamp"], "symbol": "AAA", **stats}
    assert rig.get("tta:BBB:widget") is None


@pytest.mark.parametrize("extra", [0, 1, 999, 1_000, 1_001, 2_345])
def test_the_window_is_the_last_thousand_by_arrival(extra: int) -> None:
    """Whatever left it no longer counts: not its size, not its time, not when it was the largest."""
    rig, sent = rig_at_noon(), []
    rig.send(*[trade("AAA", NOON - 250_000, 9_999), trade("AAA", NOON + 50_000, 1)])
    sent += [trade("AAA", NOON - 250_000, 9_999), trade("AAA", NOON + 50_000, 1)]
    for n in range(998 + extra):
        sent.append(trade("AAA", NOON + n % 977, 1 + n % 300, 10 + n % 7))
    for begin in range(2, len(sent), 400):
        rig.send(*sent[begin : begin + 400])
    rig.flush(rig.trades)
    agree(rig.get("tta:AAA:widget"), naive(sent))


sizes = st.one_of(st.integers(1, 10_000), st.sampled_from([0.5, 0.1, 2.25, 1e-3, 100.0, 0]))
arrivals = st.tuples(st.sampled_from(["AAA", "BBB"]), sizes, st.integers(-5_000, 5_000), st.integers(1, 400))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.one_of(arrivals, st.just("flush")), min_size=1, max_size=25))
def test_statistics_of_any_stream(stream: list[Any]) -> None:
    """Runs of trades, out of order, with fractions of shares, measured now and then."""
    rig = rig_at_noon()
    sent: dict[str, list[Wire]] = {"AAA": [], "BBB": []}
    for item in [*stream, "flush"]:
        if item == "flush":
            rig.flush(rig.trades)
            for symbol, trades in sent.items():
                if trades:
                    agree(rig.get(f"tta:{symbol}:widget"), naive(trades))
                    agree(rig.get("tta:all_symbols:widget")["symbols"][symbol], naive(trades))
            continue
        symbol, size, offset, count = item
        run = [
            trade(symbol, NOON + offset + n * (-1) ** n, size if n % 3 else n + 1, 10 + n % 5, x=n % 9)
            for n in range(count)
        ]
        sent[symbol] += run
        rig.send(*run)


@pytest.mark.parametrize(
    ("sizes_", "total", "largest"),
    [((100, 200), "300", "200"), ((100.0, 50), "150", "100"), ((0.25, 1), "1.25", "1")],
)
def test_shares_are_whole_unless_they_are_not(sizes_: tuple[float, ...], total: str, largest: str) -> None:
    """300, not 300.0; fractions stay."""
    rig = rig_at_noon()
    rig.send(*[trade("AAA", NOON, size) for size in sizes_])
    rig.flush(rig.trades)
    stats = rig.get("tta:AAA:widget")
    assert json.dumps(stats["total_volume"]) == total
    assert json.dumps(stats["max_size"]) == largest


@pytest.mark.parametrize(("price", "shown"), [(10, "10"), (10.0, "10.0"), (10.25, "10.25")])
def test_a_price_keeps_its_form(price: float, shown: str) -> None:
    """As on the wire."""
    rig = rig_at_noon()
    rig.send(trade("AAA", NOON, 1, price))
    rig.flush(rig.trades)
    stats = rig.get("tta:AAA:widget")
    assert json.dumps(stats["latest_price"]) == shown
    assert json.dumps(stats["latest_timestamp"]) == str(NOON)


def test_a_symbol_silent_for_five_minutes_drops_out() -> None:
    """By the market clock, not yet at five minutes exactly. It comes back with its new trades only."""
    rig = rig_at_noon()
    rig.send(trade("AAA", NOON, 1), trade("BBB", NOON + 1_000, 2))
    rig.tick(NOON + 300_000)
    rig.flush(rig.trades)
    assert set(rig.get("tta:all_symbols:widget")["symbols"]) == {"AAA", "BBB"}
    rig.tick(NOON + 300_001)
    rig.flush(rig.trades)
    everything = rig.get("tta:all_symbols:widget")
    assert (set(everything["symbols"]), everything["symbol_count"]) == ({"BBB"}, 1)
    assert rig.get("tta:AAA:widget") is None
    rig.send(trade("AAA", NOON + 300_002, 7))
    rig.flush(rig.trades)
    assert rig.get("tta:AAA:widget")["trade_count"] == 1


def test_a_trade_reported_late_silences_nobody() -> None:
    """Its own time is long ago, but the symbol traded a moment before."""
    rig = rig_at_noon()
    rig.send(trade("AAA", NOON, 1), trade("AAA", NOON - 900_000, 2))
    rig.flush(rig.trades)
    stats = rig.get("tta:AAA:widget")
    assert stats is not None
    assert (stats["trade_count"], stats["latest_timestamp"]) == (2, NOON - 900_000)


def test_a_hundred_symbols_have_a_feed_of_their_own() -> None:
    """Those with the most volume, ties by symbol; all are in the table of all."""
    rig = rig_at_noon()
    names = [f"S{n:03}" for n in range(130)]
    rig.send(*[trade(name, NOON, 1_000 if n < 60 else 50) for n, name in enumerate(reversed(names))])
    rig.flush(rig.trades)
    shown = [name for name in names if rig.get(f"tta:{name}:widget")]
    assert shown == [*names[:40], *names[70:]]
    assert rig.get("tta:all_symbols:widget")["symbol_count"] == 130


def test_published_when_wanted_and_readable_always() -> None:
    """Nobody subscribed: nothing is published, `get` answers; one symbol wanted: that one."""
    rig = rig_at_noon()
    rig.send(trade("AAA", NOON, 1), trade("BBB", NOON, 1))
    rig.flush(rig.trades)
    assert rig.results.published == 0
    assert rig.get("tta:AAA:widget") is not None
    rig.subscribe("tta:BBB:widget")
    rig.flush(rig.trades)
    assert [feed for feed, _ in rig.taken()] == ["tta:BBB:widget"]
    rig.subscribe("tta:*:widget")
    rig.flush(rig.trades)
    assert sorted(feed for feed, _ in rig.taken() if feed != "tta:BBB:widget") == [
        "tta:AAA:widget",
        "tta:all_symbols:widget",
    ]


def test_before_the_first_trade_there_is_nothing() -> None:
    """Null, not an empty table with a time of 1970."""
    rig = Rig()
    rig.subscribe("tta:*:widget")
    rig.flush(rig.trades)
    assert rig.taken() == []
    assert rig.get("tta:all_symbols:widget") is None


def test_a_new_day_begins_empty() -> None:
    """04:00 clears windows and tables, also in the middle of a flush."""
    rig = rig_at_noon()
    rig.subscribe("tta:*:widget")
    for n in range(0, 600, 100):
        rig.send(*[trade(f"S{m:03}", NOON, 5) for m in range(n, n + 100)])
    (guard,) = [guard for guard in rig.engine.guards if guard.analyzer is rig.trades]
    steps = guard.flush()
    next(steps)
    rig.tick(at(4, day=(2024, 3, 6)))
    for _ in steps:
        rig.results.commit()
    rig.results.commit()
    rig.check()
    assert rig.get("tta:S000:widget") is None
    everything = rig.get("tta:all_symbols:widget")
    assert everything is None or everything["symbols"] == {}
    rig.send(trade("S000", at(4, day=(2024, 3, 6)), 7))
    rig.flush(rig.trades)
    assert rig.get("tta:S000:widget")["total_volume"] == 7


def test_symbols_are_bounded() -> None:
    """What cannot be a symbol, and what is too many, is counted and left out."""
    rig = Rig(max_symbols=2)
    rig.tick(NOON)
    rig.send(*[trade(symbol, NOON, 1) for symbol in ("BAD SYMBOL", "AAA", "BBB", "CCC", "AAA")])
    rig.flush(rig.trades)
    assert set(rig.get("tta:all_symbols:widget")["symbols"]) == {"AAA", "BBB"}
    assert rig.get("tta:AAA:widget")["trade_count"] == 2
