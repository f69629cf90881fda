"""What the service itself missed of an event feed: who is connected is told, and what there is instead."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from mdp import feeds
from mdp.cache.base import Entry
from mdp.cache.memory import MemoryBus, MemoryCache
from mdp.feeds import ALERTS, HOD_ALERT
from mdp.wds.client import Client, Limits, deflated_together, framed_together
from mdp.wds.counters import WdsCounters
from mdp.wds.hub import Hub
from mdp.wds.views import Options
from tests.wds.doubles import FakeTransport, Running, ask, receive, running


async def viewer(service: Running, *names: str) -> Any:
    """A client of version 2 that has been told what there is."""
    client = await service.connect(protocols=("mdp.v2",))
    assert (await ask(client, action="subscribe", feeds=names))["status"] == "subscribed"
    return client


def happen(service: Running, *numbers: int) -> None:
    """Alerts, in the list and on the bus."""
    for number in numbers:
        service.cache.push(HOD_ALERT, "", {"n": number})
        service.bus.publish(HOD_ALERT, "", {"n": number})


async def test_who_names_the_feed_is_told_and_gets_what_there_is() -> None:
    """`resync`, the list, then what happens, each event once; also for the second hole."""
    async with running() as service:
        happen(service, 1)
        client = await viewer(service, HOD_ALERT.name)
        ((snapshot,)) = await receive(client)
        assert snapshot["kind"] == "snapshot"
        for first in (10, 20):
            service.service.missed(HOD_ALERT.name, HOD_ALERT)
            happen(service, first, first + 1)
            assert await receive(client) == {"status": "resync", "feed": HOD_ALERT.name}
            (snapshot,) = await receive(client)
            assert (snapshot["kind"], snapshot["data"][0]) == ("snapshot", {"n": first + 1})
            happen(service, first + 2)
            (event,) = await receive(client)
            assert (event["kind"], event["data"], event["seq"]) == (
                "event", {"n": first + 2}, snapshot["seq"] + 1,
            )  # fmt: skip


async def test_others_notice_nothing() -> None:
    """Neither who has another feed, nor a client of version 1, nor state feeds of the same client."""
    async with running() as service:
        old = await service.subscriber(HOD_ALERT.name)
        other = await viewer(service, ALERTS.name)
        await receive(other)
        both = await viewer(service, HOD_ALERT.name, "quote:A")
        told = 0
        while told < 2:
            told += len(await receive(both))
        service.service.missed(HOD_ALERT.name, HOD_ALERT)
        happen(service, 1)
        assert (await receive(both))["status"] == "resync"
        (snapshot,) = await receive(both)
        assert snapshot["data"] == [{"n": 1}]
        service.bus.publish(feeds.QUOTE, "A", {"close": 1})
        (quote,) = await receive(both)
        assert (quote["feed"], quote["kind"]) == ("quote:A", "state")
        assert await receive(old) == {"n": 1}
        service.bus.publish(ALERTS, "", "x")
        (alert,) = await receive(other)
        assert alert["data"] == "x"


async def test_a_wildcard_is_told_alone() -> None:
    """The feed is named, and the next event comes: wildcards of event feeds have no snapshots."""
    async with running() as service:
        client = await viewer(service, "news:ticker:*")
        family, symbol = feeds.resolve("news:ticker:AAPL") or pytest.fail("no such feed")
        service.service.missed("news:ticker:AAPL", family)
        assert await receive(client) == {"status": "resync", "feed": "news:ticker:AAPL"}
        service.bus.publish(family, symbol, {"title": "x"})
        (event,) = await receive(client)
        assert (event["kind"], event["feed"]) == ("event", "news:ticker:AAPL")


async def test_options_stay() -> None:
    """What follows is seen as the client asked for it."""
    async with running() as service:
        client = await service.connect(protocols=("mdp.v2",))
        await ask(client, action="subscribe", feed=HOD_ALERT.name, where=[["n", ">", 5]], limit=1)
        await receive(client)
        service.service.missed(HOD_ALERT.name, HOD_ALERT)
        happen(service, 7, 8, 3)
        assert (await receive(client))["status"] == "resync"
        (snapshot,) = await receive(client)
        assert all(item["n"] > 5 for item in snapshot["data"])
        happen(service, 4, 9)
        (event,) = await receive(client)
        assert event["data"] == {"n": 9}


async def test_a_stream_over_http_is_told_in_its_own_form() -> None:
    """The event `resync`, then the snapshot."""
    async with running() as service:
        url = service.url.removesuffix("/ws") + f"/api/v1/stream?feeds={HOD_ALERT.name}"
        async with service.session.get(url) as answer:
            assert answer.status == 200
            while b"snapshot" not in await answer.content.readuntil(b"\n\n"):
                pass
            service.service.missed(HOD_ALERT.name, HOD_ALERT)
            happen(service, 1)
            told = await answer.content.readuntil(b"\n\n")
            assert b"event: resync\n" in told
            assert b"event: snapshot\n" in await answer.content.readuntil(b"\n\n")


class Broken(MemoryCache):
    """A cache that cannot be read."""

    async def get(self, key: str, limit: int = 0) -> Entry | None:
        raise OSError("gone")


@pytest.mark.parametrize("join", [framed_together, deflated_together])
async def test_where_the_list_cannot_be_read_what_happens_comes_all_the_same(join: Any) -> None:
    """No list, no repeat, no end of the subscription."""
    bus, counters = MemoryBus(epoch=1), WdsCounters()
    cache = MemoryCache(bus)
    hub = Hub(bus, cache, counters, tick_seconds=1.0)
    transport = FakeTransport()
    client = Client(
        1, transport.as_transport(), Limits(1 << 20), counters, asyncio.get_running_loop(), join=join
    )
    await hub.look(client, HOD_ALERT.name, Options())
    await hub.flush()
    hub._newcomers._cache = Broken(bus)
    hub.missed(HOD_ALERT.name, HOD_ALERT)
    bus.publish(HOD_ALERT, "", {"n": 1})
    await hub.flush()
    bus.publish(HOD_ALERT, "", {"n": 2})
    transport.take()
    await hub.flush()
    texts = transport.written
    assert texts.count(b"resync") == 1
    if join is framed_together:
        assert texts.count(b'"kind":"event"') == 1
        assert msgspec.json.encode({"n": 2}) in texts


async def test_who_is_about_to_begin_gets_what_fits() -> None:
    """A list that was read before the hole is read again: nothing is told twice or left out."""
    async with running() as service:
        happen(service, 1)
        client = await service.connect(protocols=("mdp.v2",))
        await client.send_json({"action": "subscribe", "feed": HOD_ALERT.name})
        assert (await receive(client))["status"] == "subscribed"
        service.service.missed(HOD_ALERT.name, HOD_ALERT)
        happen(service, 2)
        numbers: list[int] = []
        while numbers[-1:] != [2]:
            got = await receive(client)
            for message in got if isinstance(got, list) else ():
                data = message["data"]
                if isinstance(data, list):
                    numbers = [item["n"] for item in reversed(data)]
                else:
                    numbers.append(data["n"])
        assert numbers == [1, 2]
