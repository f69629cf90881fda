"""The whole chain over Sentinel and over a cluster of three nodes, also when a part of it dies."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

from tests.setups.chain import BOARD, Chain, chained
from tests.setups.servers import ThreeNodes, Watched

pytestmark = pytest.mark.slow


def epochs(chain: Chain) -> dict[str, int]:
    """The last one of each state feed that the client heard."""
    return {feed: epoch for feed, (epoch, _) in chain.recorder.judge.places.items() if feed == BOARD}


async def test_the_chain_goes_on_when_sentinel_makes_the_replica_the_master(tmp_path: Path) -> None:
    """`kill -9` of the master: nothing repeats or goes back, epochs rise, partitions live again."""
    redis = Watched(tmp_path / "redis")
    async with chained(tmp_path, redis) as chain:
        await asyncio.sleep(2.0)
        before, master = epochs(chain), redis.master()
        master.kill()
        await chain.flowing()
        await chain.settled()
        assert redis.master() is not master
        await chain.flowing()
        assert all(epoch > before[feed] for feed, epoch in epochs(chain).items())
        assert not chain.recorder.judge.faults, chain.recorder.judge.details


async def test_the_chain_runs_over_a_cluster(tmp_path: Path) -> None:
    """Boards, quotes, alerts and all of a family; keys on every node; a processor may die."""
    redis = ThreeNodes(tmp_path / "redis")
    async with chained(tmp_path, redis) as chain:
        assert None not in (await chain.wildcard()).values()
        for server in redis.servers:
            with server.client() as client:
                assert client.dbsize() > 0
        role = await chain.publisher()
        role.signal(signal.SIGKILL)
        await role.gone()
        before = time.monotonic()
        await chain.flowing()
        assert any(one.arrival > before for one in chain.recorder.judge.seen)
        await chain.heal()
        assert not chain.recorder.judge.faults, chain.recorder.judge.details
