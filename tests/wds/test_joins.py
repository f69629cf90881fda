"""Version 2 at the hub: a snapshot, then what changes, with no hole and no repeat, however one joins."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any

import msgspec
import pytest

from mdp import feeds
from mdp.cache.base import Entry
from mdp.cache.memory import MemoryBus, MemoryCache
from mdp.feeds import Family
from mdp.wds import hub
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


def wildcard(family: Family) -> str:
    """The pattern that names all of a family."""
    return ":".join("*" if part.startswith("{") else part for part in family.name.split(":"))


STATES = [family for family in feeds.FAMILIES if family.kind == feeds.STATE]


@pytest.mark.parametrize("kept", ["set", "provided", "worked out", "unlisted"])
@pytest.mark.parametrize("family", STATES, ids=lambda family: family.name)
async def test_every_family_of_states_begins_with_what_there_is(family: Family, kept: str) -> None:
    """However its values are kept, and whether or not somebody says of which symbols there are some."""
    rig = Rig()
    symbols = ["A", "X:Y"] if family.hole == "symbol" else ["mine"] if family.hole else [""]
    values = {symbol: {"symbol": symbol, "close": n} for n, symbol in enumerate(symbols)}

    def work_out(symbol: str) -> Generator[None, None, Any]:
        yield
        return values.get(symbol)

    if kept == "set" or (kept == "unlisted" and family.hole != "symbol"):
        for symbol, value in values.items():
            rig.cache.set(family, symbol, value)
    elif kept == "unlisted":
        if family is not feeds.QUOTE:
            rig.cache.provide(feeds.QUOTE, values.get, lambda: [*values, "B"])
        rig.cache.provide(family, values.get, tuple if family is not feeds.QUOTE else lambda: list(values))
    else:
        rig.cache.provide(family, values.get if kept == "provided" else work_out, lambda: list(values))
    # A fixed name is found under a wildcard for its last segment.
    pattern = wildcard(family) if family.hole else ":".join([*family.name.split(":")[:-1], "*"])
    reader = Reader(rig, 10**6)
    await rig.hub.look(reader.client, pattern, Options())
    for _ in range(3):
        await rig.hub.flush()
    reader.read()
    wanted = {family.feed(symbol): value for symbol, value in values.items()}
    found = {feed: value for feed, value in reader.state.items() if feed in wanted}
    if family is feeds.QUOTES:
        assert found == {}, "documented: it begins with the next quote"
    else:
        assert found == wanted


async def test_a_wildcard_of_a_whole_market_is_learned_in_short_steps() -> None:
    """Where each value takes a millisecond, the loop is given back after every few of them."""
    rig = Rig()
    seconds, asked, most = 0.0, 0, 0

    def value(symbol: str) -> Any:
        nonlocal seconds, asked, most
        seconds += 0.001
        asked += 1
        most = max(most, asked)
        return {"symbol": symbol, "close": 1}

    async def others() -> None:
        nonlocal asked
        while True:
            asked = 0
            await asyncio.sleep(0)

    rig.cache.provide(feeds.QUOTE, value, lambda: [f"S{n}" for n in range(500)])
    hub = Hub(rig.bus, rig.cache, rig.counters, tick_seconds=0.0, clock=lambda: seconds)
    reader = Reader(rig, 10**6)
    other = asyncio.create_task(others())
    await asyncio.sleep(0)
    await hub.look(reader.client, "quote:*", Options())
    other.cancel()
    assert 2 <= most <= 6
    for _ in range(3):
        await hub.flush()
    reader.read()
    assert len(reader.state) == 500


async def test_a_snapshot_that_is_compressed_meanwhile_is_not_told_to_who_has_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A large one is made ready in a thread, and the client may say something then."""
    rig = Rig()
    rig.board(1, 2)
    reader = Reader(rig, 10**6)
    await rig.hub.look(reader.client, BOARD.name, Options())

    async def joined(join: Any, frames: list[bytes]) -> bytes:
        rig.hub.look_away(reader.client, BOARD.name)
        return bytes(join(frames))

    monkeypatch.setattr(hub, "_joined", joined)
    await rig.hub.flush()
    assert reader.read() == []


async def test_who_leaves_a_name_goes_on_with_the_wildcard_that_covers_it() -> None:
    """With all of it: what it knows was cut otherwise."""
    rig = Rig()
    reader = Reader(rig, 10**6)
    rig.publish(feeds.QUOTE, "A", {"symbol": "A", "close": 1, "open": 1})
    await rig.hub.look(reader.client, "quote:*", Options())
    await rig.hub.look(reader.client, "quote:A", Options(fields=("close",)))
    await rig.hub.flush()
    reader.read()
    assert reader.state == {"quote:A": {"symbol": "A", "close": 1}}
    assert rig.hub.look_away(reader.client, "quote:A")
    rig.publish(feeds.QUOTE, "A", {"symbol": "A", "close": 2, "open": 1})
    await rig.hub.flush()
    assert [message["kind"] for message in reader.read()] == ["snapshot", "delta"]
    assert reader.state == {"quote:A": {"symbol": "A", "close": 2, "open": 1}}


async def test_who_names_a_feed_loses_no_event_when_it_subscribes_a_wildcard_too() -> None:
    """Also one that is published while the tick is under way in which the wildcard joins."""
    rig = Rig()
    reader = Reader(rig, 10**6)
    await rig.hub.look(reader.client, EVENTS.name, Options())
    await rig.hub.flush()
    await rig.hub.look(reader.client, "*", Options())
    rig.meanwhile = [lambda: rig.publish(EVENTS, "", 1)]
    await rig.hub.flush()
    await rig.hub.flush()
    reader.read()
    assert reader.events == {EVENTS.name: [1]}


async def test_a_value_that_a_newcomer_finds_is_still_told_to_the_others() -> None:
    """Its message is under way when somebody else looks into the cache."""
    rig = Rig()
    first, second = Reader(rig, 10**6), Reader(rig, 10**6)
    await rig.hub.look(first.client, "quote:*", Options())
    await rig.hub.flush()
    rig.publish(feeds.QUOTE, "A", {"symbol": "A", "close": 1})
    await rig.hub.look(second.client, "quote:*", Options())
    for _ in range(2):
        await rig.hub.flush()
    for reader in (first, second):
        reader.read()
        assert reader.state == {"quote:A": {"symbol": "A", "close": 1}}
