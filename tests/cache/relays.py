"""Relays for tests, against a real redis-server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from mdp.cache.base import Message
from mdp.cache.keys import Keys
from mdp.cache.redis_link import Link, connect
from mdp.cache.relay import Relay
from tests.redis_server import RedisServer

BOARD = "scanners:top_gainers"
OWN_BOARD = "scanners:mine"  # of a name that a relay does not know: heard while somebody subscribes
PATIENCE_SECONDS = 60.0  # of a wait that should end at once; only a failing test takes it


@asynccontextmanager
async def relay_to(
    server: RedisServer, owner: str = "wds-1", prefix: str = "", **options: Any
) -> AsyncIterator[Relay]:
    """A started relay, connected and with its histories read."""
    config = server.config(timeout_seconds=1.0, key_prefix=prefix)
    client = connect(config)
    relay = Relay(client, Keys(prefix), owner, Link("relay", config), **options)
    await relay.start()
    try:
        await eventually(lambda: relay.health().ok)
        yield relay
    finally:
        await relay.stop()
        await client.aclose()


async def eventually(condition: Callable[[], bool], *, seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until a condition holds; fails where it never does."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110  conditions of many kinds, none with an event
                await asyncio.sleep(0.005)
    assert condition()


class Heard(list[Message]):
    """A sink that keeps what it is given."""

    def places(self, feed: str = "") -> list[tuple[int, int]]:
        """Of the messages, or of those of one feed."""
        return [(one.epoch, one.seq) for one in self if not feed or one.feed == feed]

    def values(self) -> list[Any]:
        """Their payloads."""
        return [one.value for one in self]


def subscribed_at(server: RedisServer) -> list[str]:
    """Feeds of which the bus is subscribed."""
    with server.client() as client:
        found: list[bytes] = client.pubsub_channels("mdp:bus:*")
        return [name.decode().removeprefix("mdp:bus:") for name in found]
