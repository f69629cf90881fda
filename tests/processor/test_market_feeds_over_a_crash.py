"""What the publisher makes of the whole market while partitions change hands: nobody drops out meanwhile."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest

from mdp.analyzers.leaderboards import BOARDS, Leaderboards
from mdp.analyzers.top_trades import TopTrades
from mdp.cache.keys import partition_name
from mdp.feeds import HALTS_ACTIVE, MARKET_STATUS, TTA_ALL
from mdp.processor.parts import read
from mdp.processor.publisher import Publisher
from tests.cache.writer_rig import Rig
from tests.processor.processors import KEYS
from tests.processor.test_partitions import OPEN, PARTITIONS, SYMBOLS, market, processed, running
from tests.processor.test_publisher import Lease
from tests.redis_server import RedisServer
from tests.waiting import PATIENCE_SECONDS

HALTED = SYMBOLS[:20]
HALTS = [
    {"ev": "LULD", "T": symbol, "h": 60, "l": 5, "z": 3, "q": 99, "i": [17], "t": (OPEN + 19_990) * 1_000_000}
    for symbol in HALTED
]
_FEEDS = (TTA_ALL, HALTS_ACTIVE, *BOARDS)


class Watcher:
    """A publisher beside the processors; its time stands still, so that nobody is ever stale."""

    def __init__(self, server: RedisServer) -> None:
        self.rig = Rig(server, prefix="t:")
        lease = Lease()
        self.publisher = Publisher(
            self.rig.writer,
            self.rig.client,
            KEYS,
            lease,
            listener_fields=lambda _fields: ({}, None),
            link=self.rig.link,
            partitions=PARTITIONS,
            clock=self.rig.clock,
        )
        lease.gain(1)
        self.shown: dict[str, set[str]] = {}

    async def look(self) -> dict[str, set[str]]:
        """The symbols of each feed of the whole market, as the rounds so far made them."""
        self.publisher._had.clear()  # as in a market in motion: some part of each feed is new in every round
        await self.publisher.round()
        output = self.publisher.output
        assert output is not None
        for family in _FEEDS:
            if (value := output.whole.pop((family, ""), None)) is not None:
                rows = json.loads(msgspec.json.encode(value))
                names = rows["symbols"] if family is TTA_ALL else [row["symbol"] for row in rows]
                self.shown[family.name] = set(names)
        return dict(self.shown)

    async def parts(self) -> int:
        """How many partitions have said their status."""
        return int(await self.rig.client.hlen(KEYS.parts(MARKET_STATUS.name)))

    async def all_later(self, epochs: dict[int, int]) -> bool:
        """Whether the parts of these partitions are of a later epoch each, in all feeds."""
        for family in (MARKET_STATUS, *_FEEDS):
            parts = await self.rig.client.hgetall(KEYS.parts(family.name))
            for number, epoch in epochs.items():
                part = parts.get(partition_name(number).encode())
                if part is None or read(part).epoch <= epoch:
                    return False
        return True

    async def close(self) -> None:
        await self.publisher.stop()
        await self.rig.close()


async def test_no_symbol_drops_out_when_a_processor_is_killed(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Top trades, boards and halts name the dead one's symbols until its successor's word of them is there,
    which comes at once, whatever the analyzers' pace; in the end all parts are the successor's."""
    for kind in (TopTrades, Leaderboards):
        monkeypatch.setattr(kind, "flush_seconds", 0.02)
    everything = {family.name: set(SYMBOLS) for family in _FEEDS} | {HALTS_ACTIVE.name: set(HALTED)}
    async with running(redis_server, 2) as (listener, nodes):
        await processed(nodes, await listener.send([*market(40), json.dumps(HALTS)]))
        watcher = Watcher(redis_server)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while watcher.shown != everything or await watcher.parts() < PARTITIONS:
                    await watcher.look()
            for kind in (TopTrades, Leaderboards):  # of a successor nothing comes but what it says at once
                monkeypatch.setattr(kind, "flush_seconds", 3_600.0)
            dead = nodes.pop(0)
            taken = {number: one.epoch for number, one in dead.partitions.working.items()}
            await dead.crash()

            async with asyncio.timeout(PATIENCE_SECONDS):
                while not await watcher.all_later(taken):
                    assert await watcher.look() == everything
            for _ in range(6):  # top trades are made in every fifth round
                assert await watcher.look() == everything
            assert nodes[0].live == set(range(PARTITIONS))
            assert watcher.publisher.failures == 0
        finally:
            await watcher.close()
