"""Version 2 at the hub: a snapshot, then what changes, with no hole and no repeat, however one joins."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdp import feeds
from mdp.cache.base import Entry
from mdp.cache.memory import MemoryBus, MemoryCache
from mdp.feeds import Family
from mdp.wds import pace
from mdp.wds.client import Client, Limits, framed_together
from mdp.wds.counters import WdsCounters
from mdp.wds.hub import Hub
from mdp.wds.views import Options, apply_delta
from tests.wds.doubles import FakeTransport

BOARD, EVENTS = feeds.TOP_GAINERS, feeds.HOD_ALERT


class Reader:
    """A client, and what somebody who follows the protocol knows from what was written to it."""

    def __init__(self, rig: Rig, limit: int) -> None:
        self.transport = FakeTransport()
        loop = asyncio.get_running_loop()
        limits = Limits(limit)
        self.client = Client(1, self.transport.as_transport(), limits, rig.counters, loop, framed_together)
        self.state: dict[str, Any] = {}
        self.base: dict[str, int] = {}
        self.events: dict[str, list[Any]] = {}  # in order
        self.seq: dict[str, int] = {}  # of the last event

    def read(self) -> list[dict[str, Any]]:
        """Everything written since the last call, applied."""
        data, found = self.transport.written, []
        self.transport.writes.clear()
        self.transport.take()
        for frame in frames(data):
            decoded = msgspec.json.decode(frame)
            assert isinstance(decoded, list)
            assert decoded
            found += decoded
        for message in found:
            self._apply(message)
        return found

    def _apply(self, message: dict[str, Any]) -> None:
        feed, kind, seq, data = message["feed"], message["kind"], message["seq"], message["data"]
        if feed == EVENTS.name:
            if kind == "snapshot":
                self.events[feed] = data[::-1]
            else:
                assert kind == "event"
                assert feed not in self.seq or seq == self.seq[feed] + 1, "a hole or a repeat"
                self.events.setdefault(feed, []).append(data)
            self.seq[feed] = seq
        else:
            if kind == "delta":
                assert message["base"] == self.base[feed], "a delta to something else"
                self.state[feed] = apply_delta(self.state[feed], data)
            else:
                self.state[feed] = data
            self.base[feed] = seq

    def forget(self, feed: str) -> None:
        """It has unsubscribed."""
        for table in (self.state, self.base, self.events, self.seq):
            table.pop(feed, None)


def frames(data: bytes) -> list[bytes]:
    """Payloads of whole text frames."""
    found = []
    while data:
        assert data[0] == 0x81
        size, at = data[1], 2
        if size == 126:
            size, at = int.from_bytes(data[2:4], "big"), 4
        elif size == 127:
            size, at = int.from_bytes(data[2:10], "big"), 10
        found.append(data[at : at + size])
        data = data[at + size :]
    return found


class Rig:
    """A hub with a bus and a cache that analyzers would fill."""

    def __init__(self) -> None:
        self.meanwhile: list[Callable[[], None]] = []  # done in the middle of ticks, one in each turn
        self.bus = MemoryBus(epoch=5)
        self.cache = MemoryCache(self.bus)
        self.counters = WdsCounters()
        self.hub = Hub(self.bus, self.cache, self.counters, tick_seconds=0.0, clock=self._clock)
        self.published: dict[str, Any] = {}

    def _clock(self) -> float:
        """Asked by the hub between its steps: what happens meanwhile happens here."""
        if self.meanwhile:
            self.meanwhile.pop(0)()
        return 0.0

    def publish(self, family: Family, symbol: str, value: Any) -> None:
        """As an analyzer does: cache, then bus."""
        if family.max_items:
            self.cache.push(family, symbol, value)
        else:
            self.cache.set(family, symbol, value)
            self.published[family.feed(symbol)] = value
        self.bus.publish(family, symbol, value)

    def board(self, *closes: int) -> None:
        """A board of some rows."""
        self.publish(
            BOARD, "", [{"symbol": f"S{n}", "close": close, "rank": n + 1} for n, close in enumerate(closes)]
        )


async def test_a_snapshot_first_then_what_changed() -> None:
    """The newcomer is told what is in the cache, and from the next tick on deltas to that."""
    rig = Rig()
    rig.board(1, 2)
    reader = Reader(rig, 10**6)
    assert await rig.hub.look(reader.client, BOARD.name, Options())
    await rig.hub.flush()
    (snapshot,) = reader.read()
    assert (snapshot["kind"], snapshot["epoch"], snapshot["seq"]) == ("snapshot", 5, 1)
    rig.board(1, 3)
    await rig.hub.flush()
    (delta,) = reader.read()
    assert (delta["kind"], delta["base"], delta["data"]) == ("delta", 1, {"set": {"S1": {"close": 3}}})


async def test_who_joins_in_a_tick_with_news_hears_of_it_once() -> None:
    """The others get a delta, the newcomer the whole board with it."""
    rig = Rig()
    old, new = Reader(rig, 10**6), Reader(rig, 10**6)
    await rig.hub.look(old.client, BOARD.name, Options())
    await rig.hub.flush()
    rig.board(1)
    await rig.hub.look(new.client, BOARD.name, Options())
    rig.board(1, 2)
    await rig.hub.flush()
    assert [message["kind"] for message in new.read()] == ["snapshot"]
    old.read()
    rig.board(1, 2, 3)
    await rig.hub.flush()
    assert [message["kind"] for message in new.read()] == ["delta"]
    old.read()
    assert old.state == new.state
    assert rig.counters.framed == 2, "each message is worked out once for both"


async def test_what_is_due_together_is_one_frame() -> None:
    """Whatever the number of feeds."""
    rig = Rig()
    reader = Reader(rig, 10**6)
    for symbol in "ABC":
        await rig.hub.look(reader.client, f"quote:{symbol}", Options())
    await rig.hub.flush()
    reader.read()
    for symbol in "ABC":
        rig.publish(feeds.QUOTE, symbol, {"close": 1})
    await rig.hub.flush()
    assert len(reader.transport.writes) == 1
    assert len(reader.read()) == 3


async def test_a_wildcard_gets_what_its_view_knows_then_each_feed_whole_once() -> None:
    """Whoever names one of the feeds besides gets that one as they named it, once."""
    rig = Rig()
    first, second = Reader(rig, 10**6), Reader(rig, 10**6)
    await rig.hub.look(first.client, "quote:*", Options())
    await rig.hub.flush()
    rig.publish(feeds.QUOTE, "A", {"close": 1, "open": 1})
    await rig.hub.flush()
    await rig.hub.look(second.client, "quote:*", Options())
    await rig.hub.look(second.client, "quote:A", Options(fields=("close",)))
    await rig.hub.flush()
    second.read()
    rig.publish(feeds.QUOTE, "A", {"close": 2, "open": 1})
    rig.publish(feeds.QUOTE, "B", {"close": 3, "open": 1})
    await rig.hub.flush()
    told = {message["feed"]: message for message in second.read()}
    assert told["quote:A"]["data"] == {"close": 2}
    assert told["quote:B"]["kind"] == "state"
    first.read()
    assert first.state == {"quote:A": {"close": 2, "open": 1}, "quote:B": {"close": 3, "open": 1}}


async def test_a_wildcard_begins_with_all_there_is() -> None:
    """Every symbol that has a value, as there is room for it; then what changes, on top of it."""
    rig = Rig()
    quotes = {f"S{n}": {"symbol": f"S{n}", "close": n} for n in range(50)}
    rig.cache.provide(feeds.QUOTE, quotes.get, lambda: list(quotes))
    reader = Reader(rig, 1_000)
    await rig.hub.look(reader.client, "quote:*", Options())
    await rig.hub.look(reader.client, "quote:S1", Options(fields=("close",)))
    for _ in range(60):
        await rig.hub.flush()
        assert reader.transport.waiting <= 1_000
        reader.read()
    assert reader.state == {f"quote:{symbol}": quote for symbol, quote in quotes.items()}
    quotes["S2"] = {"symbol": "S2", "close": 7}
    rig.bus.publish(feeds.QUOTE, "S2", quotes["S2"])
    await rig.hub.flush()
    (delta,) = reader.read()
    assert (delta["kind"], delta["data"]) == ("delta", {"close": 7})


async def test_events_go_on_where_a_client_was() -> None:
    """With its last place it gets what it missed; from one that is forgotten, what there is."""
    rig = Rig()
    for number in range(5):
        rig.publish(EVENTS, "", {"n": number})
    reader = Reader(rig, 10**6)
    assert await rig.hub.look(reader.client, EVENTS.name, Options(), (5, 2))
    await rig.hub.flush()
    assert [(message["seq"], message["data"]["n"]) for message in reader.read()] == [(3, 2), (4, 3), (5, 4)]
    for epoch, seq in ((4, 2), (5, 6)):
        late = Reader(rig, 10**6)
        assert not await rig.hub.look(late.client, EVENTS.name, Options(), (epoch, seq))
        await rig.hub.flush()
        (snapshot,) = late.read()
        assert (snapshot["kind"], snapshot["seq"], [item["n"] for item in snapshot["data"]]) == (
            "snapshot", 5, [4, 3, 2, 1, 0],
        )  # fmt: skip


async def test_a_history_that_is_too_short_is_no_history() -> None:
    """More was missed than is kept: said, not skipped."""
    rig = Rig()
    for number in range(EVENTS.max_items + 2):
        rig.publish(EVENTS, "", number)
    assert rig.bus.since(EVENTS.name, 5, 1) is None
    kept = rig.bus.since(EVENTS.name, 5, 2)
    assert kept is not None
    assert len(kept) == EVENTS.max_items


async def test_a_slow_reader_is_caught_up_with_the_whole_value() -> None:
    """It cannot use a delta to what it was never told."""
    rig = Rig()
    reader = Reader(rig, 400)
    await rig.hub.look(reader.client, BOARD.name, Options())
    await rig.hub.flush()
    reader.read()
    reader.transport.write(b"x" * 300)
    for close in range(5):
        rig.board(close, close + 1)
        await rig.hub.flush()
    reader.transport.writes.clear()
    reader.transport.take()
    await rig.hub.flush()
    (message,) = reader.read()
    assert message["kind"] == "snapshot"
    assert reader.state[BOARD.name] == rig.published[BOARD.name]
    rig.board(9, 9)
    await rig.hub.flush()
    assert reader.read()[0]["kind"] == "delta"
    assert reader.state[BOARD.name] == rig.published[BOARD.name]


async def test_other_options_replace_a_subscription() -> None:
    """A new snapshot, as it is wanted now; nothing more of the old."""
    rig = Rig()
    rig.board(1, 2)
    reader = Reader(rig, 10**6)
    await rig.hub.look(reader.client, BOARD.name, Options())
    await rig.hub.look(reader.client, BOARD.name, Options(limit=1))
    await rig.hub.flush()
    (snapshot,) = reader.read()
    assert len(snapshot["data"]) == 1
    assert rig.counters.subscriptions == 1
    rig.hub.remove(reader.client)
    assert rig.counters.subscriptions == 0
    assert not rig.bus.interest(BOARD)


async def test_nothing_comes_before_the_snapshot() -> None:
    """Also where the client's other subscriptions change in the same tick, and others are told a delta."""
    rig = Rig()
    old, new = Reader(rig, 10**6), Reader(rig, 10**6)
    await rig.hub.look(old.client, BOARD.name, Options())
    for feed in ("quote:A", "quote:B"):
        await rig.hub.look(new.client, feed, Options())
    rig.board(1)
    await rig.hub.flush()
    new.read()
    rig.hub.look_away(new.client, "quote:A")
    await rig.hub.look(new.client, BOARD.name, Options())
    rig.board(2)
    await rig.hub.flush()
    assert [message["kind"] for message in new.read()] == ["snapshot"]


async def test_who_asks_twice_in_a_tick_is_told_once() -> None:
    """The second time counts, also where others see the feed the same way."""
    rig = Rig()
    other, reader = Reader(rig, 10**6), Reader(rig, 10**6)
    await rig.hub.look(other.client, EVENTS.name, Options())
    rig.publish(EVENTS, "", 1)
    for _ in range(2):
        await rig.hub.look(reader.client, EVENTS.name, Options(), (5, 0))
    await rig.hub.flush()
    assert [message["seq"] for message in reader.read()] == [1]


async def test_a_cache_that_fails_leaves_no_subscription(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client is told and may ask again."""
    rig = Rig()
    reader = Reader(rig, 10**6)

    async def fail(key: str, limit: int = 0) -> Entry | None:
        raise ConnectionError("the cache is gone")

    monkeypatch.setattr(rig.cache, "get", fail)
    with pytest.raises(ConnectionError):
        await rig.hub.look(reader.client, BOARD.name, Options())
    assert reader.client.views == {}
    assert rig.counters.subscriptions == 0
    await rig.hub.flush()
    assert reader.read() == []


SEEN = (BOARD.name, "quote:A", EVENTS.name)
happenings = st.one_of(
    st.tuples(st.just("board"), st.lists(st.integers(0, 3), max_size=4)),
    st.tuples(st.just("quote"), st.integers(0, 3)),
    st.tuples(st.just("event"), st.integers(0, 3)),
)
STEPS = st.lists(
    st.one_of(
        happenings,
        st.tuples(st.just("tick"), st.lists(st.one_of(happenings, st.none()), max_size=6)),
        st.tuples(st.just("look"), st.tuples(st.integers(0, 2), st.sampled_from(SEEN), st.booleans())),
        st.tuples(st.just("leave"), st.tuples(st.integers(0, 2), st.sampled_from(SEEN))),
        st.tuples(st.just("return"), st.integers(0, 2)),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=300)
@given(STEPS)
def test_any_sequence_of_joins_is_without_hole_or_repeat(steps: list[tuple[str, Any]]) -> None:
    """After every tick whoever follows the protocol knows what was published; each event once, in order."""
    every = pace.CHECK_EVERY
    pace.CHECK_EVERY = 1  # every message and client is a step of its own
    try:
        asyncio.run(_run(steps))
    finally:
        pace.CHECK_EVERY = every


async def _run(steps: list[tuple[str, Any]]) -> None:
    rig = Rig()
    readers = [Reader(rig, 10**6) for _ in range(3)]
    events: list[int] = []

    def happen(what: str, value: Any) -> None:
        if what == "board":
            rig.board(*value)
        elif what == "quote":
            rig.publish(feeds.QUOTE, "A", {"symbol": "A", "close": value})
        else:
            events.append(value)
            rig.publish(EVENTS, "", value)

    for what, value in [*steps, ("tick", [])]:
        if what in ("board", "quote", "event"):
            happen(what, value)
        elif what == "look":
            number, feed, full = value
            readers[number].forget(feed)
            await rig.hub.look(readers[number].client, feed, Options(full=full))
        elif what == "leave":
            number, feed = value
            rig.hub.look_away(readers[number].client, feed)
            readers[number].forget(feed)
        elif what == "return":
            # The connection breaks and comes back: it goes on from the last event it has.
            reader = readers[value]
            if EVENTS.name in reader.client.views and EVENTS.name in reader.seq:
                rig.hub.look_away(reader.client, EVENTS.name)
                place = (5, reader.seq[EVENTS.name])
                assert await rig.hub.look(reader.client, EVENTS.name, Options(), place)
        else:
            rig.meanwhile = [
                (lambda: None) if happening is None else functools.partial(happen, *happening)
                for happening in value
            ]
            await rig.hub.flush()
            for reader in readers:
                reader.read()
            rig.meanwhile.clear()
            await rig.hub.flush()  # what happened in the middle of the tick is in the next one
            for reader in readers:
                reader.read()
                for feed in reader.client.views:
                    if feed == EVENTS.name:
                        assert reader.events.get(feed, []) == events
                    else:
                        assert reader.state[feed] == rig.published.get(feed)
