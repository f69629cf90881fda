"""Bus and cache in memory: numbered messages, joins without hole or repeat, capped lists that expire."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdp.cache.base import Entry, Message, encode_json
from mdp.cache.memory import MemoryBus, MemoryCache
from mdp.feeds import (
    AGG,
    ALERTS,
    HALT,
    HALTS,
    HALTS_ACTIVE,
    HOD_ALERT,
    LULD,
    NEWS_TICKER,
    QUOTE,
    QUOTES,
    TOP_GAINERS,
    TRADES,
    Family,
)

S = 1_000_000_000


class Clock:
    """Monotonic nanoseconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 10**12

    def __call__(self) -> int:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += int(seconds * S)


class Inbox:
    """A subscriber that keeps what it gets."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def take(self, message: Message) -> None:
        self.messages.append(message)

    def places(self) -> list[tuple[str, int]]:
        return [(message.feed, message.seq) for message in self.messages]


def read(cache: MemoryCache, key: str) -> Entry | None:
    """`get` outside an event loop; it may step, but waits for nothing."""
    work = cache.get(key)
    while True:
        try:
            work.send(None)
        except StopIteration as stop:
            entry: Entry | None = stop.value
            return entry


# -- bus --------------------------------------------------------------------------------------


def test_each_feed_is_numbered_from_one_whether_or_not_anybody_listens() -> None:
    """A number is a place on a feed: symbols do not share them, and who comes late sees the true ones."""
    bus = MemoryBus(epoch=7)
    inbox = Inbox()
    bus.publish(QUOTE, "AAPL", 1)
    bus.subscribe("quote:*", inbox.take)
    for symbol in ("AAPL", "MSFT", "AAPL"):
        bus.publish(QUOTE, symbol, 1)

    assert inbox.places() == [("quote:AAPL", 2), ("quote:MSFT", 1), ("quote:AAPL", 3)]
    assert bus.place("quote:AAPL") == (7, 3)
    assert bus.place("quote:GOOG") == (7, 0)


def test_a_new_publisher_is_a_new_epoch() -> None:
    """After a restart numbers begin again, and clients can tell."""
    assert MemoryBus(epoch=1).publish(HALTS, "", 1).epoch == 1
    assert MemoryBus(epoch=2).publish(HALTS, "", 1).epoch == 2
    assert MemoryBus().epoch > 1_600_000_000_000, "milliseconds since the Unix epoch"


def test_a_message_says_what_it_is() -> None:
    """Feed, family and payload as published, and JSON that is made once for all."""
    bus = MemoryBus(epoch=7)
    message = bus.publish(QUOTE, "BRK.A", {"close": 1.5, "bad": float("nan")})

    assert (message.feed, message.family) == ("quote:BRK.A", QUOTE)
    assert json.loads(message.json()) == {"close": 1.5, "bad": None}
    assert message.json() is message.json()


@pytest.mark.parametrize(
    "patterns",
    [
        ["quote:*", "quote:*"],
        ["quote:AAPL", "quote:*"],
        ["*:AAPL", "quote:*", "quote:AAPL"],
    ],
)
def test_a_sink_gets_a_message_once_however_many_of_its_patterns_name_it(patterns: list[str]) -> None:
    """A client that follows the whole market and its favourites is not told twice."""
    bus = MemoryBus(epoch=1)
    inbox, other = Inbox(), Inbox()
    for pattern in patterns:
        bus.subscribe(pattern, inbox.take)
    bus.subscribe("quote:AAPL", other.take)

    bus.publish(QUOTE, "AAPL", 1)

    assert inbox.places() == other.places() == [("quote:AAPL", 1)]


def test_a_wildcard_stands_for_a_whole_segment() -> None:
    """`stocks:*:AAPL` is all of AAPL's raw feeds and nobody else's."""
    bus = MemoryBus(epoch=1)
    inbox = Inbox()
    bus.subscribe("stocks:*:AAPL", inbox.take)
    for family in (AGG, TRADES, QUOTES, LULD, QUOTE):
        bus.publish(family, "AAPL", 1)
        bus.publish(family, "MSFT", 1)

    assert [feed for feed, _ in inbox.places()] == [
        "stocks:agg:AAPL", "stocks:trades:AAPL", "stocks:quotes:AAPL", "stocks:luld:AAPL",
    ]  # fmt: skip


@pytest.mark.parametrize("pattern", ["", "no:such", "quote:AA*", "quote:", "internal", "quote:A B"])
def test_a_pattern_that_names_nothing_is_refused(pattern: str) -> None:
    """Only the feeds of the contract can be subscribed."""
    with pytest.raises(ValueError, match="no feed"):
        MemoryBus(epoch=1).subscribe(pattern, lambda _message: None)


def test_closing_one_subscription_leaves_the_others() -> None:
    """Also where the same sink holds the same pattern twice; closing twice changes nothing."""
    bus = MemoryBus(epoch=1)
    inbox = Inbox()
    first = bus.subscribe("quote:AAPL", inbox.take)
    second = bus.subscribe("quote:AAPL", inbox.take)
    first.close()
    first.close()
    bus.publish(QUOTE, "AAPL", 1)
    assert len(inbox.messages) == 1
    second.close()
    bus.publish(QUOTE, "AAPL", 2)

    assert len(inbox.messages) == 1


_PATTERNS = [
    "quote:*",
    "quote:A",
    "quote:B",
    "*:A",
    "stocks:*:A",
    "stocks:trades:*",
    "halts:active",
    "halt:*",
]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 99)), max_size=40))
def test_interest_is_what_open_subscriptions_want(actions: list[tuple[bool, int]]) -> None:
    """Whatever is opened and closed in whatever order: publishers see exactly what somebody still wants."""
    bus = MemoryBus(epoch=1)
    interest = {family.name: bus.interest(family) for family in (QUOTE, TRADES, AGG, HALT, HALTS_ACTIVE)}
    held: list[tuple[str, Any]] = []
    for opening, number in actions:
        if opening or not held:
            pattern = _PATTERNS[number % len(_PATTERNS)]
            held.append((pattern, bus.subscribe(pattern, lambda _message: None)))
        else:
            held.pop(number % len(held))[1].close()

        patterns = {pattern for pattern, _ in held}
        assert interest[QUOTE.name].all == ("quote:*" in patterns)
        assert interest[TRADES.name].all == ("stocks:trades:*" in patterns)
        names = ({"A"} if patterns & {"quote:A", "*:A"} else set()) | (
            {"B"} if "quote:B" in patterns else set()
        )
        assert interest[QUOTE.name].symbols == names
        assert interest[AGG.name].symbols == ({"A"} if "stocks:*:A" in patterns else set())
        assert bool(interest[HALTS_ACTIVE.name]) == ("halts:active" in patterns)
        assert interest[HALT.name].all == ("halt:*" in patterns)
        wanted = interest[QUOTE.name].wanted({"A", "C"})
        assert wanted == ({"A", "C"} if "quote:*" in patterns else names & {"A", "C"})
    assert bus.interest(QUOTE) is interest[QUOTE.name], "one object for the life of the bus"


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_join_has_neither_hole_nor_repeat(data: st.DataObject) -> None:
    """Subscribe, read, drop up to the entry's place: entry and messages together are all of the feed.

    Publications fall anywhere in between, as they do when a client joins over a network.
    """
    bus = MemoryBus(epoch=1)
    cache = MemoryCache(bus, Clock())
    state = {"count": 0}
    kind = data.draw(st.sampled_from(["provided", "kept", "list"]))
    family: Family = {"provided": HALTS_ACTIVE, "kept": HALT, "list": ALERTS}[kind]
    symbol = "A" if family.hole else ""
    if kind == "provided":
        cache.provide(family, lambda _symbol: state["count"] or None)

    def publish() -> None:
        state["count"] += 1
        if kind == "kept":
            cache.set(family, symbol, state["count"])
        elif kind == "list":
            cache.push(family, symbol, state["count"])
        bus.publish(family, symbol, state["count"])

    def some() -> None:
        for _ in range(data.draw(st.integers(0, 4))):
            publish()

    inbox = Inbox()
    some()
    bus.subscribe(family.feed(symbol), inbox.take)
    some()
    entry = read(cache, family.feed(symbol))
    some()

    after = [message.value for message in inbox.messages if entry is None or message.seq > entry.seq]
    total = list(range(1, state["count"] + 1))
    if entry is None:
        assert kind != "list"
        assert after == total
    elif kind == "list":
        assert [*reversed(entry.value), *after] == total
    else:
        assert entry.value == entry.seq, "the entry includes exactly the messages up to its place"
        assert after == total[entry.value :]


# -- cache ------------------------------------------------------------------------------------


def cached() -> tuple[MemoryCache, MemoryBus, Clock]:
    clock = Clock()
    bus = MemoryBus(epoch=5)
    return MemoryCache(bus, clock), bus, clock


async def test_a_value_is_kept_for_its_familys_time_to_live() -> None:
    """Five seconds for a trade; then there is nothing."""
    cache, _, clock = cached()
    cache.set(TRADES, "AAPL", {"price": 1})
    clock.advance(4.999)
    entry = await cache.get("stocks:trades:AAPL")
    assert entry is not None
    assert entry.value == {"price": 1}
    clock.advance(0.001)

    assert await cache.get("stocks:trades:AAPL") is None


async def test_setting_again_renews_value_and_time() -> None:
    """The newest value counts, with its own age."""
    cache, _, clock = cached()
    cache.set(TRADES, "AAPL", 1)
    clock.advance(4)
    cache.set(TRADES, "AAPL", 2)
    clock.advance(4)

    entry = await cache.get("stocks:trades:AAPL")
    assert entry is not None
    assert entry.value == 2


async def test_an_entry_carries_its_place() -> None:
    """Epoch and number of the last message that the value includes; 0 where there was none."""
    cache, bus, _ = cached()
    cache.set(HALT, "AAPL", 1)
    entry = await cache.get("halt:AAPL")
    assert entry is not None
    assert (entry.epoch, entry.seq) == (5, 0)
    bus.publish(HALT, "AAPL", 1)
    entry = await cache.get("halt:AAPL")
    assert entry is not None
    assert (entry.epoch, entry.seq) == (5, 1)
    assert entry.json() == b"1"


@pytest.mark.parametrize("key", ["", "nothing", "quote:*", "internal:secrets", "quote:", "quote:A B", "*"])
async def test_a_key_outside_the_contract_gives_nothing(key: str) -> None:
    """Internal keys are never read, and patterns are no keys."""
    cache, _, _ = cached()
    assert await cache.get(key) is None


async def test_lists_are_newest_first_and_limited_on_demand() -> None:
    """0 means all; an empty list where nothing happened yet."""
    cache, _, _ = cached()
    empty = await cache.get("daily_range_hod_alert")
    assert empty is not None
    assert empty.value == []
    for number in range(5):
        cache.push(HOD_ALERT, "", number)

    for limit, expected in ((0, [4, 3, 2, 1, 0]), (2, [4, 3]), (99, [4, 3, 2, 1, 0])):
        entry = await cache.get("daily_range_hod_alert", limit)
        assert entry is not None
        assert entry.value == expected


@pytest.mark.parametrize(("family", "symbol", "most"), [(HOD_ALERT, "", 1_000), (NEWS_TICKER, "AAPL", 100)])
async def test_a_list_is_capped_and_loses_its_oldest(family: Family, symbol: str, most: int) -> None:
    """Bounded everything: 1,000 alerts, 100 news of a ticker."""
    cache, _, _ = cached()
    for number in range(most + 7):
        cache.push(family, symbol, number)

    entry = await cache.get(family.feed(symbol))
    assert entry is not None
    assert entry.value == list(range(most + 6, 6, -1))


async def test_items_of_a_list_expire_one_by_one() -> None:
    """Eight hours for an alert, each from its own arrival."""
    cache, _, clock = cached()
    cache.push(HOD_ALERT, "", "first")
    clock.advance(4 * 3_600)
    cache.push(HOD_ALERT, "", "second")
    clock.advance(4 * 3_600)
    entry = await cache.get("daily_range_hod_alert")
    assert entry is not None
    assert entry.value == ["second"]
    clock.advance(4 * 3_600)

    entry = await cache.get("daily_range_hod_alert")
    assert entry is not None
    assert entry.value == []


async def test_a_provider_answers_for_its_family() -> None:
    """A provided value is made when somebody asks, for the symbol asked for; None is nothing."""
    cache, _, _ = cached()
    asked: list[str] = []

    def provide(symbol: str) -> Any:
        asked.append(symbol)
        return {"symbol": symbol} if symbol == "AAPL" else None

    cache.provide(QUOTE, provide)
    cache.provide(TOP_GAINERS, lambda symbol: [f"rows of {symbol!r}"])
    assert asked == []

    entry = await cache.get("quote:AAPL")
    assert entry is not None
    assert entry.value == {"symbol": "AAPL"}
    assert await cache.get("quote:MSFT") is None
    assert asked == ["AAPL", "MSFT"]
    board = await cache.get("scanners:top_gainers")
    assert board is not None
    assert board.value == ["rows of ''"]


async def test_a_list_handed_out_is_a_copy() -> None:
    """Who gets a list and changes it does not change the cache."""
    cache, _, _ = cached()
    cache.push(HALTS, "", 1)
    entry = await cache.get("halts")
    assert entry is not None
    entry.value.clear()

    again = await cache.get("halts")
    assert again is not None
    assert again.value == [1]


@settings(max_examples=60, deadline=None)
@given(
    ages=st.lists(st.floats(0, 3_600), max_size=8),
    down_seconds=st.floats(0, 40_000),
    journaled=st.integers(0, 3),
)
def test_lists_survive_a_restart_with_their_order_and_remaining_life(
    ages: list[float], down_seconds: float, journaled: int
) -> None:
    """What `lists` gave comes back but for what expired meanwhile, journaled items on top."""
    cache, _, clock = cached()
    for number, gap in enumerate(ages):
        clock.advance(gap)
        cache.push(HOD_ALERT, "", number)
    born = [sum(ages[: n + 1]) for n in range(len(ages))]
    now = sum(ages)
    saved = cache.lists()

    restarted, _, other_clock = cached()
    other_clock.now = 1  # another machine, another monotonic clock
    for key, items in saved.items():
        restarted.restore(key, items, int(down_seconds * 1_000))
    for number in range(journaled):
        restarted.restore_item("daily_range_hod_alert", f"journaled {number}")

    ttl = 8 * 3_600
    alive = [n for n in range(len(ages)) if now + down_seconds - born[n] < ttl]
    doubtful = {n for n in alive if now + down_seconds - born[n] > ttl - 0.01}
    entry = read(restarted, "daily_range_hod_alert")
    assert entry is not None
    got = [item for item in entry.value if item not in doubtful]
    expected = [f"journaled {n}" for n in reversed(range(journaled))]
    assert got == expected + [n for n in reversed(alive) if n not in doubtful]


def test_restore_ignores_keys_that_are_no_lists() -> None:
    """A snapshot of another version cannot put foreign keys into the cache."""
    cache, _, _ = cached()
    cache.restore("no:such:key", [(1_000, 1)], 0)
    cache.restore("quote:AAPL", [(1_000, 1)], 0)
    cache.restore_item("no:such:key", 1)

    assert cache.lists() == {}


def test_restore_keeps_to_the_cap() -> None:
    """More items than the family may hold: the newest stay."""
    cache, _, _ = cached()
    cache.restore("daily_range_hod_alert", [(1_000, n) for n in range(1_500)], 0)

    entry = read(cache, "daily_range_hod_alert")
    assert entry is not None
    assert entry.value == list(range(1_000))


class Row(msgspec.Struct):
    """A payload."""

    symbol: str
    close: float


def test_json_of_structs_lists_and_numbers_that_json_lacks() -> None:
    """NaN and infinities become null: a browser refuses everything else."""
    body = encode_json([Row("A", float("nan")), {"x": float("inf")}, 100, 12.0])

    assert json.loads(body) == [{"symbol": "A", "close": None}, {"x": None}, 100, 12.0]
