"""Relay and writer, each as it runs, with a real Redis between: what one promises is what the other needs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mdp.cache.keys import Keys
from mdp.cache.redis_interest import InterestWatch
from mdp.cache.redis_link import Link, connect
from mdp.cache.redis_output import RedisOutput
from mdp.cache.redis_writer import RedisWriter
from mdp.cache.tasks import end
from mdp.feeds import HOD_ALERT, QUOTE, TOP_GAINERS, TRADES
from tests.redis_server import RedisServer

from .relays import Heard, eventually, relay_to

EPOCH = 1_000


@asynccontextmanager
async def writer_to(server: RedisServer) -> AsyncIterator[RedisWriter]:
    """A started writer."""
    config = server.config(timeout_seconds=1.0)
    client, keys = connect(config), Keys()
    interest = InterestWatch(client, keys, Link("interest", config))
    writer = RedisWriter(
        client, client, keys, interest, link=Link("writer", config), parts_link=Link("parts", config)
    )
    await interest.start()
    await writer.start()
    try:
        yield writer
    finally:
        await writer.stop()
        await interest.stop()
        await client.aclose()


@pytest.fixture
async def writer(redis_server: RedisServer) -> AsyncIterator[RedisWriter]:
    """One for the empty server."""
    async with writer_to(redis_server) as made:
        yield made


def with_quotes(output: RedisOutput, quotes: dict[str, int]) -> RedisOutput:
    """Let an output know the present quotes."""
    output.provide(QUOTE, quotes.get, lambda: list(quotes))
    return output


async def test_the_present_value_comes_when_somebody_begins_to_want_it(
    redis_server: RedisServer, writer: RedisWriter
) -> None:
    """Nobody published it, as nobody wanted it; each replica that begins gets it."""
    quotes = {"A": 1, "B": 2}
    with_quotes(writer.open("partition:0", EPOCH), quotes)
    for owner in ("wds-1", "wds-2"):
        heard = Heard()
        async with relay_to(redis_server, owner) as relay:
            relay.bus.subscribe("quote:A", heard.append)
            await eventually(lambda heard=heard: heard.values() == [1])  # type: ignore[misc]
            assert heard[0].epoch == EPOCH
            relay.bus.subscribe("quote:*", heard.append)
            await eventually(lambda heard=heard: 2 in heard.values())  # type: ignore[misc]


async def test_the_present_value_comes_again_after_a_lost_connection(
    redis_server: RedisServer, writer: RedisWriter
) -> None:
    """What was published meanwhile is not lost to who only sees its last value; both ends lost theirs."""
    quotes = {"A": 1}
    output = with_quotes(writer.open("partition:0", EPOCH), quotes)
    heard = Heard()
    async with relay_to(redis_server) as relay:
        relay.bus.subscribe("quote:A", heard.append)
        await eventually(lambda: heard.values() == [1])
        with redis_server.client() as plain:
            plain.client_kill_filter(_type="pubsub")
        quotes["A"] = 2
        output.publish(QUOTE, "A", 2)
        await eventually(lambda: heard[-1].value == 2)
        assert [one.seq for one in heard] == sorted({one.seq for one in heard}), "in order, none twice"


async def test_boards_and_alerts_arrive_without_hole_or_repeat_while_clients_come_and_go(
    redis_server: RedisServer, writer: RedisWriter
) -> None:
    """Snapshot and messages of each subscriber fit; two outputs number one event feed together."""
    boards = writer.open("publisher", EPOCH)
    owners = [writer.open(f"partition:{n}", EPOCH + n, owns=lambda _symbol: True) for n in range(2)]
    stop = asyncio.Event()

    async def publish() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            boards.publish(TOP_GAINERS, "", [n])
            for owner in owners:
                owner.push(HOD_ALERT, "", {"n": n, "owner": owner.name})
            await asyncio.sleep(0.002)

    busy = asyncio.create_task(publish())
    alerts = Heard()
    try:
        async with relay_to(redis_server) as relay:
            relay.bus.subscribe(HOD_ALERT.name, alerts.append)
            await eventually(lambda: boards.counters.sent > 0)  # there is a board to be read
            for _ in range(8):
                heard = Heard()
                subscription = relay.bus.subscribe(TOP_GAINERS.name, heard.append)
                entry = await relay.cache.get(TOP_GAINERS.name)
                assert entry is not None
                await eventually(
                    lambda heard=heard, seq=entry.seq: bool(heard) and heard[-1].seq > seq + 3  # type: ignore[misc]
                )
                subscription.close()
                news = [one for one in heard if one.seq > entry.seq]
                assert [one.seq for one in news] == list(range(entry.seq + 1, entry.seq + 1 + len(news)))
                values = [entry.value[0], *(one.value[0] for one in news)]
                assert values == sorted(values), "never back"
            stop.set()
            await busy
            await eventually(lambda: len(alerts) > 20 and not owners[0].batches and not owners[1].batches)
            first = alerts[0].seq
            assert [one.seq for one in alerts] == list(range(first, first + len(alerts)))
            for owner in owners:
                told = [one.value["n"] for one in alerts if one.value["owner"] == owner.name]
                assert told == list(range(told[0], told[0] + len(told)))
    finally:
        stop.set()
        await busy


async def test_a_publisher_that_was_replaced_is_not_heard(
    redis_server: RedisServer, writer: RedisWriter
) -> None:
    """Redis refuses it before anybody has to ignore it."""
    heard = Heard()
    async with writer_to(redis_server) as other, relay_to(redis_server) as relay:
        old = writer.open("partition:0", EPOCH)
        relay.bus.subscribe("stocks:trades:A", heard.append)
        await eventually(lambda: old.wanted(TRADES, "A"))
        old.publish(TRADES, "A", "before")
        await eventually(lambda: heard.values() == ["before"])
        new = other.open("partition:0", EPOCH + 1)
        await eventually(lambda: new.wanted(TRADES, "A"))
        new.publish(TRADES, "A", "new")
        await eventually(lambda: heard.values() == ["before", "new"])
        old.publish(TRADES, "A", "late")
        await eventually(lambda: old.refused)
        new.publish(TRADES, "A", "newer")
        await eventually(lambda: len(heard) == 3)
        assert heard.values() == ["before", "new", "newer"]
        assert relay.counters.outdated == 0


async def test_nothing_is_published_after_the_last_replica_left(
    redis_server: RedisServer, writer: RedisWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Demand ends with who demanded, also with one that cannot say so: its interest expires."""
    monkeypatch.setattr("mdp.cache.relay_interest.LIFE_SECONDS", 1)
    monkeypatch.setattr("mdp.cache.relay_interest.RENEW_SECONDS", 0.2)
    monkeypatch.setattr("mdp.cache.redis_interest._HEARD_SECONDS", 0.2)
    monkeypatch.setattr("mdp.cache.redis_interest._LOOK_SECONDS", 0.05)
    output = writer.open("partition:0", EPOCH)
    async with relay_to(redis_server) as relay:
        relay.bus.subscribe("quote:A", Heard().append)
        await eventually(lambda: output.wanted(QUOTE, "A"))
        await asyncio.sleep(1.5)
        assert output.wanted(QUOTE, "A"), "it is renewed"
        # As after kill -9: nothing is said, nothing is renewed.
        await end(relay.interests._task)
        await eventually(lambda: not output.wanted(QUOTE, "A"))
