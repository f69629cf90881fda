"""Partitions over a real Redis: the same values and alerts as one process, whoever works and whoever dies."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from mdp.cache.table import ReferenceRow
from tests.data import data_file
from tests.processor.processors import (
    KEYS,
    LISTS,
    Listener,
    OneProcess,
    Processor,
    sorted_events,
    told,
    values_of,
    values_of_all,
)
from tests.redis_server import RedisServer
from tests.waiting import eventually

PARTITIONS = 8
OPEN = 1_773_149_400_000  # 2026-03-10 09:30 New York
SYMBOLS = [f"S{n}" for n in range(40)]
#: Times of leases that a busy machine does not cost; nobody is to take over.
LASTING: dict[str, Any] = {"seconds": 10.0, "renew_seconds": 1.0, "margin_seconds": 1.0}
REFERENCES = {
    symbol: ReferenceRow(prev_day_close=10.0 + n, avg_volume=1_000.0 + n, free_float=1e6)
    for n, symbol in enumerate(SYMBOLS)
}
ALERT = ("symbol", "session", "direction", "price", "timestamp", "previous", "note")
HALT = ("symbol", "event", "halt_timestamp", "resume_timestamp", "count_today", "source")


def market(seconds: int, *, begin_ms: int = OPEN - 20_000, seed: int = 5) -> list[str]:
    """Frames of a busy market over the open: bars that make highs and lows, trades, quotes, halts."""
    rng = random.Random(seed)
    prices = {symbol: 10.0 + n for n, symbol in enumerate(SYMBOLS)}
    volumes = dict.fromkeys(SYMBOLS, 0)
    number = 0
    frames = []
    for second in range(seconds):
        at = begin_ms + second * 1_000
        events: list[dict[str, Any]] = []
        for symbol in rng.sample(SYMBOLS, 25):
            was = prices[symbol]
            now = prices[symbol] = round(was * rng.uniform(0.99, 1.012), 2)
            volumes[symbol] += 100
            bar = {"o": was, "c": now, "h": max(was, now), "l": min(was, now), "vw": now, "a": now, "z": 50}
            bar |= {"v": 100, "av": volumes[symbol], "s": at, "e": at + 1_000}
            events.append({"ev": "A", "sym": symbol, **bar})
            for _ in range(rng.randrange(3)):
                number += 1
                trade = {"x": 4, "i": str(number), "z": 3, "p": now, "s": rng.randrange(1, 300), "q": number}
                events.append({"ev": "T", "sym": symbol, **trade, "t": at + rng.randrange(1_000)})
            events.append({"ev": "Q", "sym": symbol, "bp": now - 0.01, "ap": now + 0.01, "t": at + 500})
        if second % 7 == 3:
            symbol = rng.choice(SYMBOLS)
            band = {
                "ev": "LULD",
                "T": symbol,
                "h": prices[symbol] * 1.1,
                "l": prices[symbol] * 0.9,
                "z": 3,
                "q": second,
            }
            events.append({**band, "i": [17], "t": (at + 600) * 1_000_000})
            events.append({**band, "i": [18], "t": (at + 900) * 1_000_000})
        frames.append(json.dumps(events))
    return frames


@asynccontextmanager
async def running(
    server: RedisServer, count: int, *, references: Any = REFERENCES, **times: Any
) -> AsyncIterator[tuple[Listener, list[Processor]]]:
    """A listener and so many processors, which hold all partitions; `times` of leases, else quick ones."""
    listener = Listener(server, PARTITIONS)
    nodes = [Processor(server, f"p{n}", PARTITIONS, references=references, **times) for n in range(count)]
    await listener.start()
    try:
        for node in nodes:
            await node.start()
        await settled(nodes)
        yield listener, nodes
    finally:
        for node in nodes:
            await node.stop()
        await listener.stop()


async def settled(nodes: list[Processor]) -> None:
    """All partitions are live, each of one processor, evenly."""
    share = -(-PARTITIONS // len(nodes))
    await eventually(
        lambda: (
            sorted(p for node in nodes for p in node.live) == list(range(PARTITIONS))
            and max(len(node.live) for node in nodes) <= share
        )
    )


async def same(server: RedisServer, nodes: list[Processor], one: OneProcess) -> None:
    """What the processors know and told is what one process knows and told."""
    for node in nodes:
        assert node.failures() == []
    expected = values_of([one.market], [one.engine])
    found = values_of_all(nodes)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == value, key
    for name in LISTS:
        fields = HALT if name == "halts" else ALERT
        wanted = sorted_events(one.events[name], fields)
        assert wanted, "the recording must have some"
        await eventually(lambda name=name, wanted=wanted: len(told(server, name)) >= len(wanted))  # type: ignore[misc]
        assert sorted_events(told(server, name), fields) == wanted


async def processed(nodes: list[Processor], count: int) -> None:
    await eventually(lambda: sum(node.processed for node in nodes) >= count)
    assert sum(node.processed for node in nodes) == count


@pytest.mark.parametrize("count", [1, 2, 4])
async def test_processors_know_and_tell_what_one_process_does(redis_server: RedisServer, count: int) -> None:
    """The same ranges, day statistics, halts; each alert and each halt exactly once."""
    frames = market(60)
    one = OneProcess(REFERENCES)
    one.send(frames)
    async with running(redis_server, count, **LASTING) as (listener, nodes):
        sent = await listener.send(frames)
        await processed(nodes, sent)

        await same(redis_server, nodes, one)


async def test_a_processor_that_dies_half_way_is_followed_without_a_trace(redis_server: RedisServer) -> None:
    """Its partitions go on from their checkpoints: nothing is lost, nothing is told twice."""
    frames = market(90)
    one = OneProcess(REFERENCES)
    one.send(frames)
    async with running(redis_server, 2) as (listener, nodes):
        sent = await listener.send(frames[:40])
        await eventually(lambda: nodes[0].partitions.checkpoints > 0)
        sent += await listener.send(frames[40:50])
        crashed = nodes.pop(0)
        await crashed.crash()
        sent += await listener.send(frames[50:70])
        await settled(nodes)
        sent += await listener.send(frames[70:])
        await processed(nodes, sent)

        await same(redis_server, nodes, one)


async def test_what_was_discarded_and_is_replayed_counts_once(redis_server: RedisServer) -> None:
    """An owner finds events too old, and dies; who reads them again from its checkpoint processes them."""
    frames = market(60)

    def accounted(node: Processor) -> tuple[int, int]:
        found = node.partitions.working.values()
        return sum(one.total for one in found), sum(
            sum(reasons.values()) for one in found for reasons in one.lost.values()
        )

    async with running(redis_server, 1) as (listener, nodes):
        sent = await listener.send(frames[:20])
        await eventually(lambda: nodes[0].partitions.checkpoints >= PARTITIONS)
        nodes[0].partitions._reader._ttl_ms = -60_000
        sent += await listener.send(frames[20:])
        await eventually(lambda: sum(accounted(nodes[0])) == sent)
        assert accounted(nodes[0])[1] > 0

        await nodes.pop(0).crash()
        nodes.append(Processor(redis_server, "next", PARTITIONS, references=REFERENCES))
        await nodes[0].start()
        await settled(nodes)

        await eventually(lambda: sum(accounted(nodes[0])) == sent)


async def test_partitions_move_while_the_market_runs(redis_server: RedisServer) -> None:
    """Processors come and go gracefully in the middle of it: the same."""
    frames = market(90)
    one = OneProcess(REFERENCES)
    one.send(frames)
    async with running(redis_server, 1) as (listener, nodes):
        sent = await listener.send(frames[:30])
        nodes.append(Processor(redis_server, "late", PARTITIONS, references=REFERENCES))
        await nodes[1].start()
        sent += await listener.send(frames[30:60])
        await settled(nodes)
        first = nodes.pop(0)
        await first.stop()
        sent += await listener.send(frames[60:])
        await settled(nodes)
        await processed(nodes, sent)

        await same(redis_server, nodes, one)


async def test_what_redis_lost_is_still_in_memory(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis comes back empty: leases are gone, checkpoints too, and the day's values are as before.

    They are written down at once: for a moment memory is the only place that has them.
    """
    frames = market(40)
    one = OneProcess(REFERENCES)
    one.send(frames)
    async with running(redis_server, 1) as (listener, nodes):
        sent = await listener.send(frames)
        await processed(nodes, sent)

        monkeypatch.setattr("mdp.processor.partitions._FIRST_SECONDS", 3_600.0)
        redis_server.restart()
        await eventually(lambda: nodes[0].acquisitions >= 2 * PARTITIONS)
        await settled(nodes)

        assert values_of_all(nodes) == values_of([one.market], [one.engine])
        with redis_server.client() as client:
            await eventually(lambda: bool(client.exists(KEYS.checkpoint(0))))


async def test_the_market_clock_goes_on_in_partitions_without_events(redis_server: RedisServer) -> None:
    """All partitions begin the session with the same event, also those that have none."""
    frames = [
        json.dumps([{"ev": "A", "sym": "S1", "c": 9, "h": 9, "l": 9, "o": 9, "s": OPEN + n * 1_000}])
        for n in range(5)
    ]
    async with running(redis_server, 2) as (listener, nodes):
        await listener.send(frames)
        engines = [one.engine for node in nodes for one in node.partitions.working.values()]

        await eventually(lambda: {engine.market.session for engine in engines} == {"regular"})

        assert {engine.market.clock.now_ms for engine in engines} == {OPEN + 4_000}
        assert len(engines) == PARTITIONS


@pytest.mark.slow
async def test_a_recorded_day_comes_out_the_same(redis_server: RedisServer) -> None:
    """The pre-market of 99 stocks, minute by minute; a processor is killed in the middle."""
    with gzip.open(data_file("us-99-minute-2025-01-27.frames.gz"), "rt") as file:
        frames = [line.split("\t", 1)[1] for line in file][:900]
    one = OneProcess({})
    one.send(frames)
    async with running(redis_server, 2, references={}) as (listener, nodes):
        sent = await listener.send(frames[:450])
        await asyncio.sleep(1.5)
        await nodes.pop(0).crash()
        sent += await listener.send(frames[450:])
        await settled(nodes)
        await processed(nodes, sent)

        for name in LISTS[:2]:
            wanted = sorted_events(one.events[name], ALERT)
            await eventually(lambda name=name, wanted=wanted: len(told(redis_server, name)) >= len(wanted))  # type: ignore[misc]
            assert sorted_events(told(redis_server, name), ALERT) == wanted
        assert values_of_all(nodes) == values_of([one.market], [one.engine])


async def test_nothing_goes_on_for_a_partition_that_went_during_its_replay(redis_server: RedisServer) -> None:
    """Neither results nor checkpoints, nor the task that would have seen to them."""
    async with running(redis_server, 1) as (_listener, nodes):
        partitions = nodes[0].partitions
        one = partitions.working[0]
        partitions.drop(0)
        one.live = False

        async with asyncio.timeout(30):
            await partitions._keep(one)

        assert not one.live
        assert await one.go_live(1) == 0
