"""The bench's clients against a small WebSocket server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from mdp.bench.clients import BOARDS, Clients

START = 1_773_153_000_000


def quote(symbol: str, start: int) -> dict[str, Any]:
    return {"symbol": symbol, "close": 1.5, "start_timestamp": start, "end_timestamp": start + 1_000}


class Service:
    """Confirms subscriptions as the service does, and sends what a test tells it to."""

    def __init__(self) -> None:
        self.feeds: list[list[str]] = []
        self.sockets: list[web.WebSocketResponse] = []
        self.refuse = False

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets.append(socket)
        self.feeds.append([])
        mine = self.feeds[-1]
        async for message in socket:
            feed = message.json()["feed"]
            mine.append(feed)
            status = "error" if self.refuse else "subscribed"
            await socket.send_json({"status": status, "feed": feed})
        return socket

    async def send(self, payload: Any) -> None:
        await self.sockets[0].send_json(payload)


@asynccontextmanager
async def serving(service: Service) -> AsyncIterator[int]:
    application = web.Application()
    application.router.add_get("/ws", service.handle)
    server = TestServer(application)
    await server.start_server()
    assert server.port is not None
    try:
        yield server.port
    finally:
        await server.close()


async def until(clients: Clients, messages: int) -> None:
    async with asyncio.timeout(60):
        while clients.messages < messages:  # noqa: ASYNC110 (clients have no event for that)
            await asyncio.sleep(0.005)


async def test_each_client_has_the_boards_and_quotes_of_its_own() -> None:
    """Symbols are dealt out in turn, none to two clients."""
    service, clients = Service(), Clients()
    async with serving(service) as port:
        await clients.connect("127.0.0.1", port, [f"S{n}" for n in range(10)], count=3, quotes=2)

        assert clients.figures().clients == 3
        clients.close()

    assert all(feeds[:3] == list(BOARDS) for feeds in service.feeds)
    assert [feeds[3:] for feeds in service.feeds] == [
        ["quote:S0", "quote:S3"],
        ["quote:S1", "quote:S4"],
        ["quote:S2", "quote:S5"],
    ]
    assert clients.closes == 0


async def test_latency_is_counted_once_for_each_newer_bar() -> None:
    """An update that carries an old bar again is a repeat; one from before the phase has no latency."""
    ages = {START: None, START + 5: 12.5, START + 9: 80.0}
    service, clients = Service(), Clients(age_ms=ages.__getitem__)
    async with serving(service) as port:
        await clients.connect("127.0.0.1", port, ["AB", "CD"], count=1, quotes=2)
        for symbol, start in (("AB", START), ("AB", START + 5), ("AB", START + 5), ("CD", START + 9)):
            await service.send(quote(symbol, start))
        await until(clients, 4)
        clients.close()

    found = clients.figures()
    assert (found.quotes, found.repeats, found.boards) == (3, 1, 0)
    assert (found.latency.count, found.latency.p50, found.latency.max) == (2, 12.5, 80.0)


async def test_boards_are_told_from_quotes_and_aged_by_their_newest_row() -> None:
    """A list of rows, or an object around one, is a board because rows have ranks."""
    service, clients = Service(), Clients(age_ms=lambda start: float(START + 100 - start))
    rows = [{"rank": 1, **quote("AB", START)}, {"rank": 2, **quote("CD", START + 60)}]
    async with serving(service) as port:
        await clients.connect("127.0.0.1", port, ["AB"], count=1, quotes=1)
        await service.send(rows)
        await service.send({"rows": rows})
        await until(clients, 2)
        clients.close()

    found = clients.figures()
    assert (found.boards, found.quotes) == (2, 0)
    assert (found.board_age.count, found.board_age.max) == (2, 40.0)


async def test_reset_forgets_counts_and_keeps_connections() -> None:
    """Between phases the clients stay."""
    service, clients = Service(), Clients()
    async with serving(service) as port:
        await clients.connect("127.0.0.1", port, ["AB"], count=1, quotes=1)
        await service.send(quote("AB", START))
        await until(clients, 1)
        assert clients.figures().bytes == len(json.dumps(quote("AB", START)))

        clients.reset()

        assert (clients.figures().messages, clients.figures().clients) == (0, 1)
        clients.close()


async def test_a_connection_the_platform_ends_is_counted() -> None:
    """A client that loses its connection is not silently one fewer."""
    service, clients = Service(), Clients()
    async with serving(service) as port:
        await clients.connect("127.0.0.1", port, ["AB"], count=1, quotes=1)
        await service.sockets[0].close()
        async with asyncio.timeout(60):
            while not clients.closes:  # noqa: ASYNC110 (clients have no event for that)
                await asyncio.sleep(0.005)

    assert clients.figures().clients == 0


async def test_a_refused_subscription_stops_the_bench() -> None:
    """Measuring with fewer feeds than asked for would be a false figure."""
    service, clients = Service(), Clients()
    service.refuse = True
    async with serving(service) as port:
        with pytest.raises(ConnectionError, match="refused"):
            await clients.connect("127.0.0.1", port, ["AB"], count=1, quotes=1)
        clients.close()
