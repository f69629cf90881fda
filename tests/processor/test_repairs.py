"""Repairs by partitions' owners over a real Redis: the numbers of one process, whoever dies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.exceptions import ReadOnlyError

from mdp.events import Aggregate
from mdp.observability.metrics import Metrics
from mdp.processor.partition_gaps import gaps_of
from mdp.processor.parts import read
from mdp.queues.entry import partition_of
from tests.processor.processors import (
    Listener,
    sorted_events,
    told,
    values_of,
    values_of_all,
)
from tests.processor.repairing import Bars, OneRepairing, Repairing, gap, hurry, parts_of, said
from tests.processor.test_partitions import ALERT, OPEN, market
from tests.redis_server import RedisServer
from tests.waiting import eventually

PARTITIONS = 4
BEGIN = OPEN + 1_000
FRAMES = market(60, begin_ms=BEGIN)
BEFORE, MISSED, AFTER = FRAMES[:20], FRAMES[20:40], FRAMES[40:]
LOST_MS = BEGIN + 19_000  # partitions' clocks are ahead of it
ALERTS = ("daily_range_hod_alert", "daily_range_lod_alert")


def with_spikes(frames: list[str]) -> list[str]:
    """One second of the missed ones has highs and lows that are never reached again."""
    events = json.loads(frames[10])
    for event in events:
        if event["ev"] == "A":
            event["h"], event["l"] = event["h"] * 1.5, event["l"] * 0.6
    return [*frames[:10], json.dumps(events), *frames[11:]]


class Rig:
    """A listener's end, processors that repair, and the same in one process."""

    def __init__(self, server: RedisServer, count: int) -> None:
        self.server = server
        self.provider = Bars([*BEFORE, *with_spikes(MISSED)])
        self.listener = Listener(server, PARTITIONS)
        self.nodes = [Repairing(server, f"p{n}", PARTITIONS, self.provider) for n in range(count)]
        self.sent = 0

    @property
    def alive(self) -> list[Repairing]:
        return [node for node in self.nodes if node.live]

    async def settled(self, nodes: list[Repairing]) -> None:
        """They hold all partitions, evenly."""
        await eventually(
            lambda: (
                sorted(p for node in nodes for p in node.live) == list(range(PARTITIONS))
                and max(len(node.live) for node in nodes) <= -(-PARTITIONS // len(nodes))
            )
        )

    async def send(self, frames: list[str]) -> None:
        """Until all partitions have processed them."""
        self.sent += await self.listener.send(frames)
        await eventually(lambda: sum(node.processed for node in self.alive) == self.sent)

    async def look(self, *gaps: dict[str, Any], silent: bool = False) -> None:
        for node in self.alive:
            await node.look(said(*gaps), silent=silent)

    async def lose(self) -> None:
        """The listener is away while MISSED happens, and says so."""
        await self.send(BEFORE)
        await self.look()
        await self.look(gap(LOST_MS))
        await self.look(gap(LOST_MS, over=True))
        await self.send(AFTER)
        await self.look(gap(LOST_MS, over=True))

    def words(self) -> set[str]:
        """What is said of the repairs of all partitions."""
        return {
            entry["repair"]
            for node in self.alive
            for entries in node.repairs.entries().values()
            for entry in entries
        }

    def values(self) -> dict[str, Any]:
        return {name: value for name, value in values_of_all(self.alive).items() if name.startswith("range")}


@asynccontextmanager
async def rig_of(server: RedisServer, count: int = 2) -> AsyncIterator[Rig]:
    rig = Rig(server, count)
    await rig.listener.start()
    try:
        for node in rig.nodes:
            await node.start()
        await rig.settled(rig.nodes)
        yield rig
    finally:
        rig.provider.open.set()
        for node in rig.nodes:
            await node.stop()
        await rig.listener.stop()


async def in_one_process() -> OneRepairing:
    """The same outage, repaired."""
    one = OneRepairing(Bars([*BEFORE, *with_spikes(MISSED)]))
    await one.backfill.start()
    one.send(BEFORE)
    one.outage(lambda: None)
    one.send(AFTER)
    one.losses.look()
    await eventually(lambda: [entry["repair"] for entry in one.ledger.entries()] == ["done"])
    await one.backfill.stop()
    return one


def ranges(one: OneRepairing) -> dict[str, Any]:
    values = values_of([one.market], [one.engine])
    return {name: value for name, value in values.items() if name.startswith("range")}


async def test_repaired_numbers_and_alerts_are_those_of_one_process(redis_server: RedisServer) -> None:
    """Each owner asks for its own symbols, each symbol is asked for once, the snapshot once a process."""
    one = await in_one_process()
    async with rig_of(redis_server) as rig:
        await rig.lose()
        marked = rig.values()
        assert {value["uncertain_since"] for value in marked.values()} == {LOST_MS}
        await eventually(lambda: rig.words() == {"done"})

        assert rig.values() == ranges(one)
        highs = {name: value["regular_session_high"] for name, value in rig.values().items()}
        assert sum(high > marked[name]["regular_session_high"] for name, high in highs.items()) >= 25
        for name in ALERTS:
            assert sorted_events(told(redis_server, name), ALERT) == sorted_events(one.events[name], ALERT)
        symbols = [symbol for node in rig.nodes for one in node.partitions.working.values()
                   for symbol in one.engine.market.symbols]  # fmt: skip
        assert sorted(rig.provider.asked) == sorted(symbols)
        assert rig.provider.snapshots == len(rig.nodes)
        assert rig.provider.most <= 2 * len(rig.nodes), "as many at once as one process, each"


@pytest.mark.parametrize("how", ["stops", "crashes"])
async def test_a_repair_that_is_not_finished_goes_on_at_the_next_owner(
    redis_server: RedisServer, how: str
) -> None:
    """Its entry and what is still uncertain are in the checkpoint; what was repaired stays repaired."""
    one = await in_one_process()
    async with rig_of(redis_server) as rig:
        first, second = rig.nodes
        rig.provider.open.clear()
        await rig.lose()
        await eventually(lambda: rig.provider.at_once == 4)
        for working in first.partitions.working.values():
            await first.partitions._save(working)
        if how == "stops":
            await first.repairs.stop()
            await first.spread.stop()
        else:
            await first.crash()
            first.partitions.working.clear()
        await rig.settled([second])
        rig.provider.open.set()
        await rig.look(gap(LOST_MS, over=True))
        await eventually(lambda: rig.words() == {"done"})
        assert rig.values() == ranges(one)
        entries = [entry for entries in second.repairs.entries().values() for entry in entries]
        assert [entry["reason"] for entry in entries] == ["aborted"] * PARTITIONS
        for name in ALERTS:
            assert sorted_events(told(redis_server, name), ALERT) == sorted_events(one.events[name], ALERT)


async def test_what_expired_is_repaired_for_exactly_its_symbols(redis_server: RedisServer) -> None:
    """In its partition alone; nobody else is marked or asked for."""
    async with rig_of(redis_server, 1) as rig:
        await rig.send(BEFORE)
        (node,) = rig.nodes
        symbol = "S7"
        number = partition_of(symbol, PARTITIONS)
        node.partitions._lost("aggregates", number, 3, "expired", [Aggregate(symbol, 1, 1, 1, BEGIN)] * 3)
        await rig.look()
        await rig.look()
        engine = node.partitions.working[number].engine
        assert engine.market.trust.symbols() == [symbol]
        stretch = next(iter(gaps_of(engine).losses._stretches.values()))
        stretch.last_ns -= 10**10
        await rig.look()
        await eventually(lambda: rig.words() == {"done"})
        assert rig.provider.asked == [symbol]
        assert rig.provider.snapshots == 0
        assert not engine.market.trust


async def test_ledgers_are_in_redis_for_whoever_is_asked(redis_server: RedisServer) -> None:
    """As parts under the partition's lease; one that cannot be repaired is named."""
    async with rig_of(redis_server, 1) as rig:
        rig.provider.rows["S3"] = [{"t": LOST_MS + 1_000, "o": -1, "h": 1, "l": 1, "c": 1, "v": 1}]
        await rig.lose()
        await eventually(lambda: rig.words() == {"done", "partial"})
        await rig.look(gap(LOST_MS, over=True))
        await rig.nodes[0].writer.parts.flush()
        with redis_server.client() as client:
            parts = parts_of(client)
        assert len(parts) == PARTITIONS
        part = read(parts[f"partition:{partition_of('S3', PARTITIONS)}".encode()])
        (entry,) = part.content
        assert (entry["repair"], entry["uncertain"], entry["of"]) == (
            "partial", ["S3"], [[1, 1_000_000, "aborted"]],
        )  # fmt: skip
        lease = rig.nodes[0].spread.leases[partition_of("S3", PARTITIONS)]
        assert part.epoch == lease.epoch


async def test_its_counts_are_those_of_all_partitions(redis_server: RedisServer) -> None:
    """Those of partitions that went on to another process included: counters never fall."""
    metrics = Metrics()
    async with rig_of(redis_server, 1) as rig:
        (node,) = rig.nodes
        node.repairs.register(metrics)
        await rig.lose()
        assert "mdp_gap_uncertain_symbols 40.0" in metrics.render().decode()
        await eventually(lambda: rig.words() == {"done"})
        shown = metrics.render().decode()
        bars = sum(row["t"] >= LOST_MS - 30_000 for rows in rig.provider.rows.values() for row in rows)
        assert f"mdp_backfill_bars_total {bars}.0" in shown
        assert "mdp_backfill_waiting_symbols 0.0" in shown
        for number in range(PARTITIONS):
            node.repairs.gone(number)
        assert "mdp_gap_uncertain_symbols 0.0" in metrics.render().decode()
        assert node.repairs._of("outcome") == {("bars",): 40.0}
        assert node.repairs.health().ok


async def test_nothing_is_changed_while_a_checkpoint_is_written(redis_server: RedisServer) -> None:
    """A repair waits: a state of two moments would be taken over."""
    async with rig_of(redis_server, 1) as rig:
        ones = list(rig.nodes[0].partitions.working.values())
        rig.provider.open.clear()
        await rig.lose()
        for one in ones:
            one.hold()
        rig.provider.open.set()
        await hurry(1)
        assert {value["uncertain_since"] for value in rig.values().values()} == {LOST_MS}
        await asyncio.gather(*[one.free() for one in ones])
        await eventually(lambda: rig.words() == {"done"})


async def test_nothing_is_changed_while_redis_keeps_nothing(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repair that clients were told and that is in no checkpoint would go back where another takes over."""
    async with rig_of(redis_server, 1) as rig:
        partitions = rig.nodes[0].partitions

        async def refuse(*_: Any) -> bool:
            raise ReadOnlyError("of the test")

        with monkeypatch.context() as patched:
            patched.setattr(partitions._store, "save", refuse)
            rig.provider.open.clear()
            await rig.lose()
            await eventually(lambda: not any(one.keeps for one in partitions.working.values()))
            rig.provider.open.set()
            await hurry(1)
            assert {value["uncertain_since"] for value in rig.values().values()} == {LOST_MS}
        await eventually(lambda: rig.words() == {"done"})
