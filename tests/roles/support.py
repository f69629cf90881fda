"""Roles in the test's own process, against a real redis-server; and market data written as publishers do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import redis

from mdp.cache.keys import Keys
from mdp.cache.redis_link import Link, connect
from mdp.cache.relay import Relay
from mdp.cache.tasks import end
from mdp.config import AdminConfig, Config, MetricsConfig, ScpConfig, WdsConfig
from mdp.feeds import Family
from mdp.roles.assembly import RoleProcess
from mdp.wds.server import WidgetDataService
from tests.cache.redis_publisher import now_ms
from tests.cache.relays import eventually
from tests.redis_server import RedisServer
from tests.wds.doubles import Running


def config_for(server: RedisServer, **sections: Any) -> Config:
    """All ports free, Redis as given."""
    return Config(
        cache=server.config(timeout_seconds=1.0),
        wds=WdsConfig(port=0, keys_path=""),
        scp=ScpConfig(port=0),
        metrics=MetricsConfig(port=0),
        admin=AdminConfig(port=0),
        **sections,
    )


@asynccontextmanager
async def process(server: RedisServer, *roles: str, ready: bool = True) -> AsyncIterator[RoleProcess]:
    """A started process of some roles; stopped at the end."""
    made = RoleProcess(config_for(server), list(roles))
    await made.start()
    try:
        if ready:
            await eventually(lambda: all(health.ok for _, health in made.ready()))
        yield made
    finally:
        await made.stop()


class WritingBus:
    """A publisher in another process, with the methods of a bus: what tests of the data service publish.

    As publishers do, it publishes what is announced to be wanted: a subscription that is under way counts.
    """

    def __init__(self, client: redis.Redis, relay: Relay, epoch: int = 1) -> None:
        self._client = client
        self._relay = relay
        self._keys = Keys()
        self.epoch = epoch
        self._seqs: dict[str, int] = {}
        self._waiting: asyncio.Queue[tuple[Family, str, Any]] = asyncio.Queue()
        self._task = asyncio.get_running_loop().create_task(self._run())
        self.interest = relay.bus.interest

    def publish(self, family: Family, symbol: str, value: Any) -> None:
        """As `Bus.publish`, a moment later."""
        self._waiting.put_nowait((family, symbol, value))

    async def _run(self) -> None:
        while True:
            family, symbol, value = await self._waiting.get()
            names = self._relay.demand.channels_of(family, symbol)
            await self._relay.channels.join(names)
            feed = family.feed(symbol)
            seq = self._seqs[feed] = self._seqs.get(feed, 0) + 1
            body = json.dumps(value, separators=(",", ":"))
            if family.max_items:
                fields = {"e": self.epoch, "s": seq, "t": now_ms(), "d": body}
                self._client.xadd(self._keys.events(feed), fields)  # type: ignore[arg-type]
            else:
                self._client.publish(self._keys.bus(feed), f"{self.epoch} {seq} {now_ms()}\n{body}")

    async def stop(self) -> None:
        """Publish no more."""
        await end(self._task)


class WritingCache:
    """The values of a publisher in another process, with the methods of a cache."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def set(self, family: Family, symbol: str, value: Any) -> None:
        """As `Cache.set`."""
        self._client.set(Keys().value(family.feed(symbol)), json.dumps(value))

    def push(self, family: Family, symbol: str, value: Any) -> None:
        """Events are lists through the bus."""


@asynccontextmanager
async def serving(
    server: RedisServer, config: WdsConfig | None = None, owner: str = "wds-1", **options: Any
) -> AsyncIterator[Running]:
    """As `tests.wds.doubles.running`, with Redis between publisher and service."""
    cache_config = server.config(timeout_seconds=1.0)
    client = connect(cache_config)
    relay = Relay(client, Keys(), owner, Link("relay", cache_config))
    config = config or WdsConfig()
    config.port = 0
    service = WidgetDataService(config, relay.bus, relay.cache, **options)
    relay.events.on_missed.append(service.missed)
    await relay.start()
    await eventually(lambda: relay.health().ok)
    await service.start()
    with server.client() as writing:
        bus = WritingBus(writing, relay)
        try:
            async with aiohttp.ClientSession() as session:
                yield Running(service, bus, WritingCache(writing), session)  # type: ignore[arg-type]
        finally:
            await bus.stop()
            await service.stop()
            await relay.stop()
            await client.aclose()
