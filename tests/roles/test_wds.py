"""The data service behind Redis: the protocol as it is, and replicas that clients cannot tell apart."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from typing import Any

import aiohttp
import pytest
from redis.asyncio import Redis

from mdp import feeds
from mdp.cache.redis_link import connect
from mdp.client import WdsClient
from mdp.roles.wds import WdsRole
from tests.cache.redis_publisher import Publisher, now_ms
from tests.cache.relays import eventually
from tests.redis_server import RedisServer
from tests.wds import test_commands, test_server, test_version2
from tests.wds.doubles import Running, ask, receive

from .support import process, serving

BOARD = "scanners:top_gainers"


@pytest.fixture
def behind_redis(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data service's own tests run with a real Redis between publisher and service."""
    for module in (test_commands, test_server, test_version2):
        monkeypatch.setattr(module, "running", functools.partial(serving, redis_server))


# --- the protocol: tests of the service, over the relay ---


@pytest.mark.usefixtures("behind_redis")
@pytest.mark.parametrize("version", [1, 2])
async def test_the_documented_conversation_happens(version: int) -> None:
    """Word for word."""
    await test_version2.test_the_documented_conversation_happens(version)


@pytest.mark.usefixtures("behind_redis")
@pytest.mark.parametrize(
    "test",
    [
        test_commands.test_a_subscription_brings_payloads_as_they_are,
        test_commands.test_wildcards_deliver_and_overlaps_do_not_repeat,
        test_commands.test_unsubscribing_stops_and_is_always_answered,
        test_commands.test_subscribing_twice_is_answered_twice_and_delivers_once,
        test_commands.test_subscriptions_are_limited,
        test_server.test_leaving_ends_demand,
        test_version2.test_both_versions_side_by_side,
        test_version2.test_clients_who_ask_for_it_get_compressed_messages,
        test_version2.test_limits_count_views,
    ],
)
async def test_the_service_behaves_as_in_one_process(test: Any) -> None:
    """What clients rely on does not depend on where the publisher is."""
    await test()


# --- version 2 ---


async def view(service: Running, *names: str, **options: Any) -> aiohttp.ClientWebSocketResponse:
    """A client of version 2 that subscribed, and heard so."""
    client = await service.connect(protocols=("mdp.v2",))
    answer = await ask(client, action="subscribe", feeds=list(names), **options)
    assert answer["status"] == "subscribed", answer
    return client


async def messages(client: aiohttp.ClientWebSocketResponse, count: int) -> list[dict[str, Any]]:
    """The next so many messages; answers are passed over."""
    found: list[dict[str, Any]] = []
    while len(found) < count:
        got = await receive(client)
        if isinstance(got, list):
            found += got
    return found


async def test_a_board_goes_on_from_its_snapshot(redis_server: RedisServer, publisher: Publisher) -> None:
    """The snapshot is the publisher's, place and all; what changes since is a delta on it."""
    await publisher.publish(BOARD, [{"symbol": "A", "rank": 1, "close": 1}], seq=41)
    async with serving(redis_server) as service:
        client = await view(service, BOARD)
        (snapshot,) = await messages(client, 1)
        assert (snapshot["kind"], snapshot["epoch"], snapshot["seq"]) == ("snapshot", 1_000, 41)
        await publisher.publish(BOARD, [{"symbol": "A", "rank": 1, "close": 2}])
        (delta,) = await messages(client, 1)
        assert (delta["kind"], delta["base"], delta["seq"]) == ("delta", 41, 42)
        assert delta["data"] == {"set": {"A": {"close": 2}}}


async def test_a_symbol_goes_on_from_its_value(redis_server: RedisServer, publisher: Publisher) -> None:
    """Its value in Redis has no place: the first message is whole, then deltas follow."""
    await publisher.keep("quote:A", {"symbol": "A", "close": 1})
    async with serving(redis_server) as service:
        client = await view(service, "quote:A")
        (snapshot,) = await messages(client, 1)
        assert (snapshot["kind"], snapshot["seq"], snapshot["data"]["close"]) == ("snapshot", 0, 1)
        for close in (2, 3):
            await publisher.publish("quote:A", {"symbol": "A", "close": close})
            (message,) = await messages(client, 1)
            kind = "state" if close == 2 else "delta"
            assert (message["kind"], message["data"]["close"]) == (kind, close)


async def test_a_wildcard_begins_with_all_there_is(redis_server: RedisServer, publisher: Publisher) -> None:
    """Values that nobody publishes any more included."""
    for n in range(300):
        await publisher.keep(f"quote:S{n}", {"symbol": f"S{n}", "close": n})
    async with serving(redis_server) as service:
        client = await view(service, "quote:*")
        found = await messages(client, 300)
        assert {message["data"]["close"] for message in found} == set(range(300))
        await publisher.publish("quote:S7", {"symbol": "S7", "close": "new"})
        (news,) = await messages(client, 1)
        assert (news["feed"], news["data"]["close"]) == ("quote:S7", "new")


async def test_who_loses_a_replica_goes_on_at_another(
    redis_server: RedisServer, publisher: Publisher
) -> None:
    """Both have the same places: what was missed comes, and nothing twice."""
    alerts = feeds.HOD_ALERT.name
    for n in range(1, 4):
        await publisher.emit(alerts, {"n": n})
    async with serving(redis_server, owner="wds-2") as second:
        async with serving(redis_server, owner="wds-1") as first:
            client = await view(first, alerts)
            (snapshot,) = await messages(client, 1)
            assert [item["n"] for item in snapshot["data"]] == [3, 2, 1]
            await publisher.emit(alerts, {"n": 4})
            (event,) = await messages(client, 1)
        for n in (5, 6):
            await publisher.emit(alerts, {"n": n})
        place = {"epoch": event["epoch"], "seq": event["seq"]}
        client = await view(second, alerts, resume=place)
        missed = await messages(client, 2)
        assert [message["data"]["n"] for message in missed] == [5, 6]
        await publisher.emit(alerts, {"n": 7})
        (event,) = await messages(client, 1)
        assert (event["data"]["n"], event["seq"]) == (7, 7)


async def test_a_resync_is_said_where_the_place_is_of_another_life(
    redis_server: RedisServer, publisher: Publisher
) -> None:
    """Redis began anew meanwhile: what there is follows."""
    await publisher.emit(feeds.HOD_ALERT.name, {"n": 1})
    async with serving(redis_server) as service:
        client = await service.connect(protocols=("mdp.v2",))
        resume = {"epoch": 999, "seq": 1}
        await client.send_json({"action": "subscribe", "feed": feeds.HOD_ALERT.name, "resume": resume})
        assert (await receive(client))["status"] == "subscribed"
        assert (await receive(client))["status"] == "resync"
        (snapshot,) = await messages(client, 1)
        assert [item["n"] for item in snapshot["data"]] == [1]


async def test_who_is_connected_is_told_of_what_was_trimmed_unread(
    redis_server: RedisServer, publisher: Publisher
) -> None:
    """As after an outage of which Redis did not keep all: `resync`, what there is, then what happens."""
    alerts = feeds.HOD_ALERT.name
    await publisher.emit(alerts, {"n": 1})
    async with serving(redis_server) as service:
        client = await view(service, alerts)
        await messages(client, 1)
        pipeline = publisher.client.pipeline(transaction=True)  # nobody can read in between
        for n in range(2, 6):
            fields: Any = {"e": publisher.epoch, "s": n, "t": now_ms(), "d": f'{{"n":{n}}}'}
            pipeline.xadd(publisher.keys.events(alerts), fields, maxlen=2, approximate=False)
        await pipeline.execute()
        assert await receive(client) == {"status": "resync", "feed": alerts}
        (snapshot,) = await messages(client, 1)
        assert (snapshot["kind"], [item["n"] for item in snapshot["data"]]) == ("snapshot", [5, 4])
        publisher.seqs[alerts] = 5
        await publisher.emit(alerts, {"n": 6})
        (event,) = await messages(client, 1)
        assert (event["kind"], event["seq"], event["data"]) == ("event", 6, {"n": 6})
    async with process(redis_server, "wds") as replica:  # the role has them wired as this test has
        role = replica.shared.roles["wds"]
        assert isinstance(role, WdsRole)
        assert role.relay.events.on_missed == [role.service.missed]


async def test_the_first_list_of_a_followed_feed_has_its_place(
    redis_server: RedisServer, publisher: Publisher
) -> None:
    """Nobody knew the feed before: the snapshot carries the publisher's epoch, to be resumed from."""
    feed = "news:ticker:AAPL"
    await publisher.emit(feed, {"n": 1})
    async with serving(redis_server) as service:
        client = await view(service, feed)
        (snapshot,) = await messages(client, 1)
        assert (snapshot["epoch"], snapshot["seq"]) == (publisher.epoch, 1)
        await publisher.emit(feed, {"n": 2})
        (event,) = await messages(client, 1)
        assert (event["epoch"], event["seq"]) == (publisher.epoch, 2)


async def test_clients_stay_connected_while_redis_is_gone(redis_server: RedisServer) -> None:
    """Our own client, with a board and alerts: the last values stand, then what is new comes."""
    async with process(redis_server, "wds") as replica:
        writing = connect(redis_server.config())
        before = Publisher(writing)
        await before.publish(BOARD, [{"symbol": "A", "rank": 1}])
        url = f"ws://127.0.0.1:{replica.ports()['wds']}/ws"
        async with WdsClient(url) as client, contextlib.aclosing(client.subscribe(BOARD)) as board:
            first = await anext(board)
            assert [row["symbol"] for row in first.value] == ["A"]
            await writing.aclose()
            redis_server.restart()
            writing = connect(redis_server.config())
            await eventually(lambda: all(health.ok for _, health in replica.ready()))
            after = Publisher(writing, epoch=2_000)
            with redis_server.client() as plain:
                await eventually(lambda: plain.pubsub_channels("mdp:bus:*") != [])
            await after.publish(BOARD, [{"symbol": "B", "rank": 1}])
            async with asyncio.timeout(60):
                second = await anext(board)
            assert [row["symbol"] for row in second.value] == ["B"]
        await writing.aclose()


async def test_what_clients_see_never_goes_back_whatever_becomes_of_the_connection(
    redis_server: RedisServer, publisher: Publisher, client: Redis
) -> None:
    """A board and a symbol under load, while the replica loses its subscriptions again and again."""
    stop = asyncio.Event()
    count = 0

    async def publish() -> None:
        nonlocal count
        while not stop.is_set():
            count += 1
            await publisher.publish(BOARD, [{"symbol": "A", "rank": 1, "n": count}])
            await publisher.publish("quote:A", {"symbol": "A", "n": count})
            await publisher.emit(feeds.HOD_ALERT.name, {"n": count})

    async def read(reader: aiohttp.ClientWebSocketResponse) -> None:
        async for frame in reader:
            for message in frame.json():
                seen.setdefault(message["feed"], []).append(message)

    seen: dict[str, list[dict[str, Any]]] = {}
    busy = asyncio.create_task(publish())
    try:
        async with serving(redis_server) as service:
            reader = await view(service, BOARD, "quote:A", feeds.HOD_ALERT.name, full=True)
            reading = asyncio.create_task(read(reader))
            for line in range(2, 5):
                await asyncio.sleep(0.15)
                with redis_server.client() as plain:
                    plain.client_kill_filter(_type="pubsub")
                relay = service.bus._relay  # type: ignore[attr-defined]
                await eventually(lambda line=line, relay=relay: relay.channels.line >= line)  # type: ignore[misc]
            await asyncio.sleep(0.3)
            stop.set()
            await busy
            await eventually(lambda: _last(seen[BOARD]) == _last(seen["quote:A"]) == count)
            await eventually(lambda: seen[feeds.HOD_ALERT.name][-1]["data"]["n"] == count)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
    finally:
        stop.set()
        await asyncio.gather(busy, return_exceptions=True)
    for feed in (BOARD, "quote:A"):
        numbers = [_last([message]) for message in seen[feed] if message["data"] is not None]
        assert numbers == sorted(numbers), feed
        places = [message["seq"] for message in seen[feed]]
        assert places == sorted(set(places)), "each once"
    snapshot, *events = seen[feeds.HOD_ALERT.name]
    assert snapshot["kind"] == "snapshot"
    first = snapshot["seq"] + 1
    assert [message["seq"] for message in events] == list(range(first, first + len(events))), "no hole"


def _last(messages: list[dict[str, Any]]) -> int:
    """The number in the last of some messages about a board or a quote."""
    data = messages[-1]["data"]
    number: int = (data[0] if isinstance(data, list) else data)["n"]
    return number
