"""Reference values for several processors: what all of them together ask the provider for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mdp.cache import paths
from mdp.roles.assembly import RoleProcess
from tests.cache.market import Market, floats, session
from tests.cache.provider import serving
from tests.processor.processors import Listener
from tests.processor.test_partitions import market
from tests.redis_server import RedisServer
from tests.roles.test_processor import PARTITIONS, config, live, role
from tests.waiting import eventually

SYMBOLS = [f"S{number}" for number in range(40)]  # of `market`
PROCESSORS = 4


class Provider(Market):
    """Knows all symbols, and has their floats on three pages, as for 11,000 of them."""

    def __init__(self) -> None:
        super().__init__()
        bars = session(dict.fromkeys(SYMBOLS, 1_000))
        pages = [SYMBOLS[start::3] for start in range(3)]
        self.answers[paths.GROUPED] = bars
        self.answers[paths.FLOAT] = [
            floats(dict.fromkeys(page, 7), f"{paths.FLOAT}?cursor={number}" if number < 2 else "")
            for number, page in enumerate(pages)
        ]


@asynccontextmanager
async def processors(server: RedisServer, provider: Provider) -> AsyncIterator[list[RoleProcess]]:
    """Started at once, each with its share of the partitions, and events on their way."""
    listener = Listener(server, PARTITIONS)
    await listener.start()
    processes = [RoleProcess(config(server, rest=provider.url), ["processor"]) for _ in range(PROCESSORS)]
    try:
        await asyncio.gather(*(process.start() for process in processes))
        await eventually(lambda: [live(process) for process in processes] == [1] * PROCESSORS)
        await listener.send(market(5))
        yield processes
    finally:
        for process in processes:
            await process.stop()
        await listener.stop()


def known(process: RoleProcess) -> bool:
    """Whether every symbol of its partition has all its values."""
    states = [
        state
        for one in role(process).partitions.working.values()
        for state in one.engine.market.symbols.values()
    ]
    return bool(states) and all(
        not state.reference.pending and state.reference.avg_volume and state.reference.free_float
        for state in states
    )


async def test_four_processors_together_warm_up_in_fewer_than_60_calls(redis_server: RedisServer) -> None:
    """One fetches in bulk, once; whatever else each asks by itself is little."""
    provider = Provider()
    async with serving(provider), processors(redis_server, provider) as processes:
        await eventually(lambda: all(known(process) for process in processes))

        fetching = [one for one in processes if role(one).reference.lease.valid()]
        loading = [one for one in processes if one not in fetching]
        assert len(fetching) == 1
        assert provider.count(paths.GROUPED) == 30
        assert [provider.count(path) for path in (paths.FLOAT, paths.SPLITS)] == [3, 1]
        assert len(provider.asked) < 60
        assert not any(
            path.startswith(paths.GROUPED) for one in loading for _, path in role(one).rest.requests
        )
