"""Who writes into a Redis of the tests, and who hears it: fixtures, for the `conftest.py` of packages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis

from mdp.cache.redis_link import connect
from tests.cache.redis_publisher import Publisher
from tests.cache.writer_rig import Hearer, Rig
from tests.redis_server import RedisServer


@pytest.fixture
async def client(redis_server: RedisServer) -> AsyncIterator[Redis]:
    """What publishers write through."""
    made = connect(redis_server.config())
    yield made
    await made.aclose()


@pytest.fixture
def publisher(client: Redis) -> Publisher:
    """An owner of feeds."""
    return Publisher(client)


@pytest.fixture
async def rig(redis_server: RedisServer) -> AsyncIterator[Rig]:
    """A writer of results."""
    made = Rig(redis_server)
    yield made
    await made.close()


@pytest.fixture
def hearer(redis_server: RedisServer) -> Iterator[Hearer]:
    """A subscriber of everything on the bus."""
    made = Hearer(redis_server, "mdp:bus:*")
    yield made
    made.close()
