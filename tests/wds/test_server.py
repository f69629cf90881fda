"""The service as a whole, with real sockets: its life, its end, its accounts."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import aiohttp
import pytest

from mdp import feeds
from mdp.cache.memory import MemoryBus, MemoryCache
from mdp.config import WdsConfig
from mdp.stage import Stage
from mdp.wds import protocol
from mdp.wds.server import WidgetDataService
from tests.wds.doubles import receive, running, until


async def test_leaving_ends_demand() -> None:
    """However a client leaves, the bus forgets its subscriptions."""
    async with running() as env:
        polite = await env.subscriber("quote:A", "quote:*")
        rude = await env.subscriber("quote:A")
        assert env.bus.interest(feeds.QUOTE).all
        await polite.close()
        assert rude._response.connection is not None
        transport = rude._response.connection.transport
        assert transport is not None
        transport.abort()
        await until(lambda: not env.service.counters.clients)
        assert not env.bus.interest(feeds.QUOTE)
        assert env.service.counters.subscriptions == 0


async def to_the_end(client: aiohttp.ClientWebSocketResponse) -> list[Any]:
    """What a client still gets, the code of its close last."""
    found: list[Any] = []
    while (message := await client.receive(timeout=20)).type is aiohttp.WSMsgType.TEXT:
        found.append(int(message.data))
    return [*found, message.data]


async def test_stop_delivers_what_is_due_and_says_goodbye_to_all() -> None:
    """Published just before the stop: delivered, then 1001; new connections are refused."""
    async with running(WdsConfig(tick_ms=5_000)) as env:
        clients = [await env.subscriber("alerts") for _ in range(20)]
        env.bus.publish(feeds.ALERTS, "", 1)
        assert [await receive(client) for client in clients] == [1] * 20
        env.bus.publish(feeds.ALERTS, "", 2)
        reading = [asyncio.create_task(to_the_end(client)) for client in clients]
        await env.service.stop()
        assert [await task for task in reading] == [[2, protocol.GOING_AWAY]] * 20
        with pytest.raises(aiohttp.ClientConnectorError):
            await env.connect()
        assert env.service.counters.clients == 0
        assert env.service.counters.aborted == 0


async def test_stop_is_safe_before_start_and_twice() -> None:
    """A role that fails half-way stops what it never started."""
    bus = MemoryBus(epoch=1)
    service: Stage = (wds := WidgetDataService(WdsConfig(port=0), bus, MemoryCache(bus)))
    assert service.name == "wds"
    assert not service.health().ok
    await service.stop()
    await service.start()
    assert service.health().ok
    assert str(wds.port) in service.health().detail
    await service.stop()
    await service.stop()
    assert not service.health().ok


async def test_a_taken_port_is_an_error_at_once() -> None:
    """And leaves nothing running."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bus = MemoryBus(epoch=1)
        service = WidgetDataService(WdsConfig(port=taken.getsockname()[1]), bus, MemoryCache(bus))
        with pytest.raises(OSError, match="address already in use"):
            await service.start()
        assert not service.health().ok
        await service.stop()


async def test_counters_account_for_every_delivery() -> None:
    """What clients received is what was counted as delivered and answered."""
    async with running() as env:
        clients = [await env.subscriber("alerts") for _ in range(3)]
        for number in range(40):
            env.bus.publish(feeds.ALERTS, "", number)
            await asyncio.sleep(0)
        got = [[await receive(client) for _ in range(40)] for client in clients]
        assert got == [list(range(40))] * 3
        counters = env.service.counters
        assert (counters.published, counters.framed, counters.deliveries) == (40, 40, 120)
        assert (counters.clients, counters.clients_total, counters.subscriptions) == (3, 3, 3)
        assert (counters.messages_received, counters.answers) == (3, 3)
