"""Raw feeds: each event as it came, the last ones for a time, and what was not understood."""

from __future__ import annotations

from typing import Any

import pytest

from mdp.events import UNKNOWN, Unknown
from mdp.queues.base import Batch

from .rig import Rig, at, bar, trade

NOON = at(12)


def quote(symbol: str, t: int, bid: float) -> dict[str, Any]:
    """A quote on the wire."""
    return {"ev": "Q", "sym": symbol, "bp": bid, "ap": bid + 1, "t": t}


def luld(symbol: str, t: int, *codes: int) -> dict[str, Any]:
    """A limit up / limit down message, its time in ms as behind the decode stage."""
    return {"ev": "LULD", "T": symbol, "h": 10, "l": 9, "i": list(codes), "t": t}


@pytest.fixture
def rig() -> Rig:
    """A pipeline at noon."""
    made = Rig()
    made.tick(NOON)
    return made


@pytest.mark.parametrize(
    ("key", "events", "field", "last"),
    [
        (
            "stocks:trades:AAA",
            [trade("AAA", NOON, 5), trade("AAA", NOON - 1, 6), trade("BBB", NOON, 7)],
            "size",
            6,
        ),
        (
            "stocks:quotes:AAA",
            [quote("AAA", NOON, 5), quote("AAA", NOON, 6), quote("BBB", NOON, 7)],
            "bid_price",
            6,
        ),
    ],
)
def test_the_last_of_a_symbol_lives_for_five_seconds(
    rig: Rig, key: str, events: list[dict[str, Any]], field: str, last: float
) -> None:
    """By arrival, not by its own time, and newer ones replace it; other symbols do not."""
    assert rig.get(key) is None
    rig.send(*events)
    assert rig.get(key)[field] == last
    assert rig.get(key)["symbol"] == "AAA"
    rig.clock.advance(4.9)
    assert rig.get(key)[field] == last
    rig.clock.advance(0.2)
    assert rig.get(key) is None
    rig.send(events[0])
    assert rig.get(key)[field] == 5
    rig.clock.advance(3)
    rig.send(events[1])
    rig.clock.advance(3)
    assert rig.get(key)[field] == 6


def test_looking_twice_and_in_between_finds_the_newest(rig: Rig) -> None:
    """Frames that came at the same instant as the one looked at before are not overlooked."""
    rig.send(trade("AAA", NOON, 1))
    assert rig.get("stocks:trades:AAA")["size"] == 1
    rig.send(trade("AAA", NOON, 2))
    assert rig.get("stocks:trades:AAA")["size"] == 2
    rig.send(trade("BBB", NOON, 3))
    assert rig.get("stocks:trades:AAA")["size"] == 2


def test_a_luld_message_is_kept_for_a_day(rig: Rig) -> None:
    """24 hours by arrival."""
    rig.send(luld("AAA", NOON, 17), luld("AAA", NOON + 1, 18))
    assert rig.get("stocks:luld:AAA")["indicators"] == [18]
    assert rig.get("stocks:luld:BBB") is None
    rig.clock.advance(86_390)
    assert rig.get("stocks:luld:AAA")["timestamp"] == NOON + 1
    rig.clock.advance(20)
    assert rig.get("stocks:luld:AAA") is None


def test_the_last_aggregate_of_either_kind(rig: Rig) -> None:
    """As it came: also a late one, and a minute where seconds count for the quote; five minutes."""
    rig.send(bar("AAA", NOON, 10, v=5, z=12.0))
    assert rig.get("stocks:agg:AAA") == {
        "event_type": "A",
        "symbol": "AAA",
        "volume": 5,
        "accumulated_volume": None,
        "official_open_price": None,
        "vwap": None,
        "open": 10,
        "close": 10,
        "high": 10,
        "low": 10,
        "aggregate_vwap": None,
        "average_size": 12.0,
        "start_timestamp": NOON,
        "end_timestamp": NOON + 1_000,
        "otc": None,
    }
    rig.send(bar("AAA", NOON - 60_000, 11, ev="AM"))
    assert (rig.get("stocks:agg:AAA")["event_type"], rig.get("stocks:agg:AAA")["close"]) == ("AM", 11)
    rig.send(bar("AAA", NOON - 5_000, 12))
    assert rig.get("stocks:agg:AAA")["close"] == 12
    assert rig.get("quote:AAA")["close"] == 10


def test_an_aggregate_older_than_five_minutes_is_gone(rig: Rig) -> None:
    """Both clocks go on."""
    rig.send(bar("AAA", NOON, 10))
    rig.clock.advance(299)
    rig.tick(NOON + 299_000)
    assert rig.get("stocks:agg:AAA") is not None
    rig.clock.advance(2)
    rig.tick(NOON + 301_000)
    assert rig.get("stocks:agg:AAA") is None


def test_the_age_of_an_aggregate_is_by_arrival(rig: Rig) -> None:
    """A replay's market runs an hour in a second, and what came a second ago is there all the same; a feed
    that stands still makes it go after five minutes."""
    rig.send(bar("AAA", NOON, 10))
    rig.clock.advance(1)
    rig.tick(NOON + 3_600_000)
    assert rig.get("stocks:agg:AAA") is not None
    rig.send(bar("BBB", NOON + 3_600_000, 10))
    for _ in range(100):
        rig.clock.advance(4)
        rig.flush(rig.quote)
    assert (rig.get("stocks:agg:AAA"), rig.get("stocks:agg:BBB")) == (None, None)


def test_event_feeds_carry_every_event_in_order(rig: Rig) -> None:
    """Trades and halts: none is skipped, repeated ones included."""
    rig.subscribe("stocks:trades:AAA")
    rig.subscribe("stocks:luld:*")
    rig.send(*[trade(symbol, NOON, n) for n, symbol in enumerate(("AAA", "BBB", "AAA", "AAA", "CCC"))])
    rig.send(luld("AAA", NOON, 17), luld("BBB", NOON, 17), luld("AAA", NOON, 18))
    taken = rig.taken()
    assert [(feed, p["size"]) for feed, p in taken if "trades" in feed] == [
        ("stocks:trades:AAA", 0),
        ("stocks:trades:AAA", 2),
        ("stocks:trades:AAA", 3),
    ]
    assert [(feed[12:], p["indicators"]) for feed, p in taken if "luld" in feed] == [
        ("AAA", [17]),
        ("BBB", [17]),
        ("AAA", [18]),
    ]


def test_state_feeds_carry_the_newest_of_a_batch(rig: Rig) -> None:
    """One message a symbol and batch, the last of it."""
    rig.subscribe("stocks:quotes:*")
    rig.subscribe("stocks:agg:AAA")
    rig.send(quote("AAA", NOON, 1), quote("BBB", NOON, 2), quote("AAA", NOON, 3))
    rig.send(bar("AAA", NOON, 10), bar("AAA", NOON + 1_000, 11), bar("BBB", NOON, 12))
    taken = rig.taken()
    assert [(feed, p.get("bid_price", p.get("close"))) for feed, p in taken] == [
        ("stocks:quotes:AAA", 3),
        ("stocks:quotes:BBB", 2),
        ("stocks:agg:AAA", 11),
    ]


def test_a_wildcard_over_the_kinds(rig: Rig) -> None:
    """`stocks:*:AAA` is each raw feed of one symbol."""
    rig.subscribe("stocks:*:AAA")
    for symbol in ("AAA", "BBB"):
        rig.send(trade(symbol, NOON, 1), quote(symbol, NOON, 1), bar(symbol, NOON, 1), luld(symbol, NOON, 17))
    assert sorted(feed for feed, _ in rig.taken()) == [
        "stocks:agg:AAA",
        "stocks:luld:AAA",
        "stocks:quotes:AAA",
        "stocks:trades:AAA",
    ]


def test_nobody_asks_nothing_is_published(rig: Rig) -> None:
    """And after the last subscriber left, nothing again."""
    subscription = rig.bus.subscribe("stocks:trades:AAA", rig.messages.append)
    subscription.close()
    rig.send(trade("AAA", NOON, 1), quote("AAA", NOON, 1), bar("AAA", NOON, 1))
    assert rig.results.published == 0
    assert rig.messages == []


def test_a_payload_is_the_events_own(rig: Rig) -> None:
    """Names of the contract, numbers as they came."""
    rig.subscribe("stocks:trades:X:BTCUSD")
    rig.send(trade("X:BTCUSD", NOON, 100, 5.0, x=4, i="7", z=3, c=[0, 12], q=9, trfi=201, trft=8, ds="1.5"))
    expected = {
        "event_type": "T",
        "symbol": "X:BTCUSD",
        "exchange": 4,
        "id": "7",
        "tape": 3,
        "price": 5.0,
        "size": 100,
        "conditions": [0, 12],
        "timestamp": NOON,
        "sequence_number": 9,
        "trf_id": 201,
        "trf_timestamp": 8,
    }
    assert rig.taken() == [("stocks:trades:X:BTCUSD", expected)]
    assert rig.get("stocks:trades:X:BTCUSD") == expected


def test_a_symbol_that_cannot_be_one_has_no_feed(rig: Rig) -> None:
    """Nothing is published under a name that nobody may ask for."""
    rig.subscribe("stocks:trades:*")
    rig.send(trade("A*", NOON, 1), trade("AAA", NOON, 2), trade("A B", NOON, 3))
    assert [feed for feed, _ in rig.taken()] == ["stocks:trades:AAA"]


def test_what_was_not_understood_is_listed(rig: Rig) -> None:
    """Newest first, with its reason, the last thousand, and published."""
    rig.subscribe("unknown")
    events = [Unknown(reason=f"reason {n}", raw="{}", arrival_ms=n) for n in range(1_005)]
    rig.engine.process(UNKNOWN, Batch(events, 0))
    rig.check()
    listed = rig.get("unknown")
    assert len(listed) == 1_000
    assert listed[0] == {"event_type": "unknown", "reason": "reason 1004", "raw": "{}", "timestamp": 1_004}
    assert listed[-1]["reason"] == "reason 5"
    assert [p["reason"] for _, p in rig.taken()] == [f"reason {n}" for n in range(1_005)]
    assert rig.market.clock.now_ms == NOON, "what is not understood moves no clock"
