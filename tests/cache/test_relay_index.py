"""Which symbols have values in Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from mdp.cache.keys import Keys
from mdp.cache.redis_link import REDIS_ERRORS, Link, connect
from mdp.cache.relay_index import SymbolIndex
from mdp.feeds import HALT, QUOTE, SCANNER, TTA, TTA_ALL
from tests.redis_server import RedisServer

from .relays import eventually


@pytest.fixture
async def index(redis_server: RedisServer) -> AsyncIterator[SymbolIndex]:
    """Not started."""
    config = redis_server.config()
    client = connect(config)
    made = SymbolIndex(client, Keys("x:"), Link("test", config))
    yield made
    await made.stop()
    await client.aclose()


async def test_names_are_sorted_into_families(redis_server: RedisServer, index: SymbolIndex) -> None:
    """Lists, feeds without a symbol, other prefixes and keys of others are none of it."""
    with redis_server.client() as plain:
        for key in ("quote:A", "quote:X:BTCUSD", "halt:A", "tta:B:widget", "tta:all_symbols:widget",
                    "scanners:mine", "scanners:top_gainers", "mdp:epoch:{publisher}"):  # fmt: skip
            plain.set(f"x:{key}", "1")
        plain.set("quote:OTHER", "1")
        plain.lpush("x:quote:LIST", "1")
        plain.lpush("x:halts", "1")
    await index.refresh()
    assert index.symbols(QUOTE).keys() == {"A", "X:BTCUSD"}
    assert index.symbols(HALT).keys() == {"A"}
    assert index.symbols(TTA).keys() == {"B"}
    assert index.symbols(SCANNER).keys() == {"mine"}
    assert not index.symbols(TTA_ALL)


async def test_many_who_ask_share_one_look(redis_server: RedisServer, index: SymbolIndex) -> None:
    """And one of a moment ago is good enough."""
    redis_server.reset_commands()
    await asyncio.gather(*(index.refresh() for _ in range(10)))
    await index.refresh()
    assert redis_server.commands()["scan"] == 1


async def test_it_looks_by_itself_as_soon_as_it_can(redis_server: RedisServer, index: SymbolIndex) -> None:
    """Without Redis at the start, when it comes."""
    redis_server.kill()
    with pytest.raises(REDIS_ERRORS):
        await index.refresh()
    index.start()
    redis_server.start()
    with redis_server.client() as plain:
        plain.set("x:quote:A", "1")
    await eventually(lambda: index.loaded)
