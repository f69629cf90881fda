"""What the tests of this package share: a transport without a network, a service with one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import aiohttp
import msgspec

from mdp.cache.memory import MemoryBus, MemoryCache
from mdp.config import WdsConfig
from mdp.wds.server import WidgetDataService


class FakeTransport:
    """A transport whose peer reads only when told to (`take`)."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []  # one per call of write
        self.waiting = 0
        self.closing = False
        self.aborted = False

    def write(self, data: bytes) -> None:
        """Accept everything; it waits until it is taken."""
        assert not self.closing, "written after close"
        self.writes.append(data)
        self.waiting += len(data)

    def take(self, size: int | None = None) -> None:
        """Let the peer read some bytes, or all."""
        self.waiting = 0 if size is None else max(0, self.waiting - size)

    def get_write_buffer_size(self) -> int:
        """Bytes not taken."""
        return self.waiting

    def is_closing(self) -> bool:
        """Whether close or abort was called."""
        return self.closing

    def close(self) -> None:
        """Close when everything is taken."""
        self.closing = True

    def abort(self) -> None:
        """Close now."""
        self.closing = self.aborted = True
        self.waiting = 0

    @property
    def written(self) -> bytes:
        """Everything, in order."""
        return b"".join(self.writes)

    def as_transport(self) -> asyncio.WriteTransport:
        """Itself, under the type that is asked for."""
        return cast(asyncio.WriteTransport, self)


class Running:
    """A service that runs, what feeds it, and a session to reach it with."""

    def __init__(
        self, service: WidgetDataService, bus: MemoryBus, cache: MemoryCache, session: aiohttp.ClientSession
    ) -> None:
        self.service = service
        self.bus = bus
        self.cache = cache
        self.session = session

    @property
    def url(self) -> str:
        """The service's address."""
        return f"http://127.0.0.1:{self.service.port}/ws"

    async def connect(self, **options: Any) -> aiohttp.ClientWebSocketResponse:
        """A client without subscriptions."""
        options.setdefault("max_msg_size", 0)
        client: aiohttp.ClientWebSocketResponse = await self.session.ws_connect(self.url, **options)
        return client

    async def subscriber(self, *feeds: str, **options: Any) -> aiohttp.ClientWebSocketResponse:
        """A client whose subscriptions are confirmed."""
        client = await self.connect(**options)
        for feed in feeds:
            assert await ask(client, action="subscribe", feed=feed) == {"status": "subscribed", "feed": feed}
        return client


async def ask(client: aiohttp.ClientWebSocketResponse, **message: Any) -> Any:
    """Send one message and read the next one."""
    await client.send_json(message)
    return await receive(client)


async def receive(client: aiohttp.ClientWebSocketResponse) -> Any:
    """The next text message, decoded."""
    message = await client.receive(timeout=20)
    assert message.type is aiohttp.WSMsgType.TEXT, message
    return msgspec.json.decode(message.data)


async def closed(client: aiohttp.ClientWebSocketResponse) -> int:
    """The code that a client was closed with; texts before it are skipped."""
    while (message := await client.receive(timeout=20)).type is aiohttp.WSMsgType.TEXT:
        pass
    assert message.type is aiohttp.WSMsgType.CLOSE, message
    return int(message.data)


async def settle(turns: int = 20) -> None:
    """Give the loop some turns, for what happens without waiting."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what the network brings about; 20 s at most, so that a failure is an error and no hang."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 (counters have nobody to tell)
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def running(
    config: WdsConfig | None = None, bus: MemoryBus | None = None, **options: Any
) -> AsyncIterator[Running]:
    """A service on a free port, with an empty bus and cache."""
    bus = bus or MemoryBus(epoch=1)
    cache = MemoryCache(bus)
    config = config or WdsConfig()
    config.port = 0
    service = WidgetDataService(config, bus, cache, **options)
    await service.start()
    try:
        async with aiohttp.ClientSession() as session:
            yield Running(service, bus, cache, session)
    finally:
        await service.stop()
