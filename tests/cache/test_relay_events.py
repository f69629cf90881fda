"""Event feeds over a real Redis: each item once, in order, and the history that clients resume from."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from mdp.feeds import ALERTS, HALTS, HOD_ALERT
from tests.redis_server import RedisServer

from .redis_publisher import Publisher, now_ms
from .relays import Heard, eventually, relay_to

ALERT = HOD_ALERT.name


async def test_a_history_is_there_before_anybody_subscribes(
    redis_server: RedisServer, publisher: Publisher
) -> None:
    """A client may come with a place at any time, also right after the start."""
    for n in range(1, 6):
        await publisher.emit(ALERT, n)
    async with relay_to(redis_server) as relay:
        assert relay.bus.place(ALERT) == (1_000, 5)
        missed = relay.bus.since(ALERT, 1_000, 3)
        assert missed is not None
        assert [(one.seq, one.value) for one in missed] == [(4, 4), (5, 5)]
        assert relay.bus.since(ALERT, 1_000, 5) == []
        assert relay.bus.since(ALERT, 1_000, 6) is None, "of the future"
        assert relay.bus.since(ALERT, 999, 3) is None, "of another life"
        assert relay.bus.since(ALERTS.name, 1_000, 0) is None
        entry = await relay.cache.get(ALERT, 2)
        assert entry is not None
        assert (entry.value, entry.epoch, entry.seq) == ([5, 4], 1_000, 5)


async def test_who_subscribes_hears_what_happens_from_then_on(
    redis_server: RedisServer, publisher: Publisher
) -> None:
    """What happened before is in the list."""
    heard = Heard()
    await publisher.emit(ALERT, "before")
    async with relay_to(redis_server) as relay:
        relay.bus.subscribe(ALERT, heard.append)
        relay.bus.subscribe("halts", heard.append)
        for n in range(300):
            await publisher.emit(ALERT, n)
        await publisher.emit("halts", "halted")
        await eventually(lambda: len(heard) == 301)
        assert [one.value for one in heard if one.feed == ALERT] == list(range(300))
        assert heard.places(ALERT) == [(1_000, n) for n in range(2, 302)]
        assert relay.events.counters.items == 302


async def test_a_list_is_cut_and_forgets_what_is_old(redis_server: RedisServer, publisher: Publisher) -> None:
    """As the family says: so many items, so many seconds; a feed that never was is an empty list."""
    old = now_ms() - int(HALTS.ttl_seconds * 1_000) - 5_000
    await publisher.emit("halts", "old", ts=old)
    for n in range(HALTS.max_items + 10):
        await publisher.emit("halts", n)
    async with relay_to(redis_server) as relay:
        entry = await relay.cache.get("halts")
        assert entry is not None
        assert len(entry.value) == HALTS.max_items
        assert entry.value[0] == HALTS.max_items + 9
        assert relay.bus.since("halts", 1_000, 1) is not None, "the history goes further back than the list"
        await publisher.emit(ALERT, "old", ts=now_ms() - int(HOD_ALERT.ttl_seconds * 1_000) - 5_000)
        await eventually(lambda: relay.bus.place(ALERT)[1] == 1)
        alerts, none = await relay.cache.get(ALERT), await relay.cache.get("scanners:x:events")
        assert alerts is not None
        assert none is not None
        assert (alerts.value, none.value) == ([], [])


async def test_what_was_trimmed_unread_is_counted_and_nobody_goes_on_over_it(
    redis_server: RedisServer, publisher: Publisher
) -> None:
    """A hole is known to be one."""
    heard = Heard()
    async with relay_to(redis_server) as relay:
        relay.bus.subscribe(ALERT, heard.append)
        await publisher.emit(ALERT, 1)
        await eventually(lambda: len(heard) == 1)
        with redis_server.client() as plain:
            pipeline = plain.pipeline()
            for n in range(2, 6):  # in one transaction: nobody can read in between
                fields: Any = {"e": 1_000, "s": n, "t": now_ms(), "d": str(n)}
                pipeline.xadd(publisher.keys.events(ALERT), fields, maxlen=2, approximate=False)
            pipeline.execute()
        await eventually(lambda: len(heard) == 3)
        assert heard.values() == [1, 4, 5]
        assert relay.events.counters.missed == 2
        assert relay.bus.since(ALERT, 1_000, 1) is None
        assert relay.bus.since(ALERT, 1_000, 4) is not None


async def test_what_is_not_ours_in_a_stream_is_passed_over(
    redis_server: RedisServer, publisher: Publisher, client: Redis
) -> None:
    """Malformed items and lower places are counted."""
    heard = Heard()
    async with relay_to(redis_server) as relay:
        relay.bus.subscribe(ALERT, heard.append)
        key = publisher.keys.events(ALERT)
        await publisher.emit(ALERT, "good")
        await client.xadd(key, {"x": "y"})
        await client.xadd(key, {"e": "one", "s": 1, "t": 1, "d": "1"})
        await client.xadd(key, {"e": 1_000, "s": 1, "t": 1, "d": "1"})
        await client.xadd(key, {"e": 999, "s": 9, "t": 1, "d": "1"})
        await publisher.emit(ALERT, "again")
        await eventually(lambda: len(heard) == 2)
        assert heard.values() == ["good", "again"]
        assert (relay.events.counters.malformed, relay.events.counters.repeated) == (2, 2)


async def test_a_feed_with_a_name_is_followed_while_somebody_wants_it(
    redis_server: RedisServer, publisher: Publisher
) -> None:
    """From its list on; afterwards nothing of it is kept."""
    feed = "news:ticker:AAPL"
    await publisher.emit(feed, "before")
    heard = Heard()
    async with relay_to(redis_server) as relay:
        first = relay.bus.subscribe(feed, heard.append)
        second = relay.bus.subscribe(feed, Heard().append)
        entry = await relay.cache.get(feed)
        assert entry is not None
        assert (entry.value, entry.seq) == (["before"], 1)
        await publisher.emit(feed, "news")
        await eventually(lambda: heard.values() == ["news"])
        first.close()
        assert relay.bus.place(feed) == (1_000, 2)
        second.close()
        assert relay.bus.place(feed) == (0, 0)
        again = await relay.cache.get(feed, 1)
        assert again is not None
        assert again.value == ["news"], "a list can be read without following it"


async def test_a_wildcard_of_event_feeds_hears_those_that_begin_later(
    redis_server: RedisServer, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is there when it is subscribed was before; a stream that appears later is all news."""
    monkeypatch.setattr("mdp.cache.relay_events._SEARCH_SECONDS", 0.05)
    await publisher.emit("news:ticker:A", "before")
    heard = Heard()
    async with relay_to(redis_server) as relay:
        wild = relay.bus.subscribe("news:ticker:*", heard.append)
        await eventually(lambda: relay.bus.place("news:ticker:A") == (1_000, 1))
        await publisher.emit("news:ticker:A", "a")
        await publisher.emit("news:ticker:X:BTC", "b")
        await eventually(lambda: len(heard) == 2)
        assert sorted(heard.values()) == ["a", "b"]
        wild.close()
        assert relay.bus.place("news:ticker:A") == (0, 0)


async def test_reading_goes_on_after_redis_forgot_the_stream(
    redis_server: RedisServer, publisher: Publisher, client: Redis
) -> None:
    """Under lower ids, as of a server whose clock is behind: they are another stream's."""
    heard = Heard()
    async with relay_to(redis_server) as relay:
        relay.bus.subscribe(ALERT, heard.append)
        await publisher.emit(ALERT, 1)
        await eventually(lambda: len(heard) == 1)
        key = publisher.keys.events(ALERT)
        with redis_server.client() as plain:
            pipeline = plain.pipeline()
            pipeline.delete(key)
            fields: Any = {"e": 2_000, "s": 1, "t": now_ms(), "d": "2"}
            pipeline.xadd(key, fields, id="5-1")
            pipeline.execute()
            own = {str(await client.client_id()), str(plain.client_id())}
            for one in plain.client_list():
                if one["id"] not in own:
                    plain.client_kill_filter(_id=one["id"])
        await eventually(lambda: len(heard) == 2)
        assert heard.places() == [(1_000, 1), (2_000, 1)]


async def test_who_names_a_feed_keeps_it_when_another_leaves_all_of_its_kind(
    redis_server: RedisServer, publisher: Publisher
) -> None:
    """Whichever came first."""
    feed, heard = "news:ticker:AAPL", Heard()
    await publisher.emit(feed, "before")
    async with relay_to(redis_server) as relay:
        for order in ("named first", "wildcard first"):
            if order == "named first":
                named = relay.bus.subscribe(feed, heard.append)
            wild = relay.bus.subscribe("news:ticker:*", Heard().append)
            await eventually(lambda: relay.bus.place(feed)[1] > 0)
            await eventually(lambda: "news:ticker:{S}" in relay.events._found or bool(relay.events._found))
            if order == "wildcard first":
                named = relay.bus.subscribe(feed, heard.append)
            wild.close()
            heard.clear()
            await publisher.emit(feed, order)
            await eventually(lambda order=order: heard.values() == [order])  # type: ignore[misc]
            named.close()
            assert relay.bus.place(feed) == (0, 0), "nobody wants it any more"


@pytest.mark.parametrize("why", ["trimmed", "began anew"])
async def test_a_hole_is_told_before_the_item_behind_it(
    redis_server: RedisServer, publisher: Publisher, why: str
) -> None:
    """Once; the list is what there is. Reading a history over a hole is nobody's loss."""
    said: list[Any] = []
    key = publisher.keys.events(ALERT)
    for seq in (1, 3):
        await publisher.client.xadd(key, {"e": 1_000, "s": seq, "t": now_ms(), "d": str(seq)})
    async with relay_to(redis_server) as relay:
        relay.events.on_missed.append(lambda feed, family: said.append((feed, family.name)))
        relay.bus.subscribe(ALERT, lambda message: said.append(message.value))
        epoch, first = (1_000, 8) if why == "trimmed" else (2_000, 1)
        for seq in range(first, first + 3):
            await publisher.client.xadd(key, {"e": epoch, "s": seq, "t": now_ms(), "d": str(seq)})
        await eventually(lambda: len(said) == 4)
        assert said == [(ALERT, ALERT), first, first + 1, first + 2]
        assert relay.events.counters.missed == (4 if why == "trimmed" else 0)


async def test_a_defect_does_not_end_the_reading(
    redis_server: RedisServer, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is: the next round may be well."""
    heard = Heard()
    async with relay_to(redis_server) as relay:
        relay.bus.subscribe(ALERT, heard.append)
        whole, failed = relay.events._step, asyncio.Event()

        async def broken() -> None:
            if not failed.is_set():
                failed.set()
                raise RuntimeError("defect")
            await whole()

        monkeypatch.setattr(relay.events, "_step", broken)
        await failed.wait()
        await publisher.emit(ALERT, 1)
        await eventually(lambda: heard.values() == [1])
