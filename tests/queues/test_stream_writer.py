"""The listener's end, against a real redis-server that is killed, frozen and refuses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from mdp.events import Trade, Unknown
from mdp.queues.base import Batch
from mdp.queues.entry import STREAMED, partition_of
from mdp.queues.stream_writer import StreamWriter
from mdp.queues.streams import Outgoing
from tests.queues.streams_support import (
    KEYS,
    NOW_MS,
    PARTITIONS,
    Leadership,
    balanced,
    bands,
    bars,
    quotes,
    sizes,
    stored,
    trades,
    until,
    writer,
)
from tests.redis_server import RedisServer
from tests.tcp_proxy import TcpProxy

Make = Callable[..., StreamWriter]


@pytest.fixture
async def make(redis_server: RedisServer) -> AsyncIterator[Make]:
    """Makes writers that are stopped afterwards."""
    made: list[StreamWriter] = []

    def one(*arguments: Any, **changes: Any) -> StreamWriter:
        made.append(writer(redis_server, *arguments, **changes))
        return made[-1]

    yield one
    redis_server.thaw()
    for each in made:
        await each.stop()
        await each._client.aclose()


def sent(made: StreamWriter) -> int:
    return made.counters.sent


async def frozen(old: StreamWriter, leadership: Leadership) -> list[Outgoing]:
    """Started, 100 trades written; then its lease is gone while it holds 100 more (returned)."""
    await old.start()
    old.queues["trades"].put(trades(0, 100))
    await until(lambda: sent(old) == 100)
    leadership.epoch = 0
    await asyncio.sleep(0.05)
    old.queues["trades"].put(trades(100, 100))
    (entries,) = old._pack(1)
    return entries


# --- what is written ---


async def test_events_reach_the_streams_of_their_partitions_in_order(
    make: Make, redis_server: RedisServer
) -> None:
    """Each symbol's trades in one stream, as they were put."""
    made = make()
    await made.start()
    for first in range(0, 600, 200):
        made.queues["trades"].put(trades(first, 200))
        await asyncio.sleep(0.01)
    await until(lambda: sent(made) == 600)
    for (queue, partition), entries in stored(redis_server).items():
        events = [event for entry in entries for event in entry.events]
        if queue == "trades":
            assert all(partition_of(event.symbol, PARTITIONS) == partition for event in events)
            assert [event.size for event in events] == sorted(event.size for event in events)
        else:
            assert events == []
    assert sorted(sizes(redis_server)) == list(range(600))
    assert balanced(made)


async def test_every_queue_has_streams(make: Make, redis_server: RedisServer) -> None:
    """What has no symbol goes to partition 0."""
    made = make()
    await made.start()
    for queue, batch in (("aggregates", bars(5)), ("quotes", quotes(6)), ("halts", bands(7))):
        made.queues[queue].put(batch)
    made.queues["unknown"].put(Batch([Unknown("r", "x", 1)], 0))
    await until(lambda: sent(made) == 19)
    counts = dict.fromkeys(STREAMED, 0)
    for (queue, _), entries in stored(redis_server).items():
        counts[queue] += sum(len(entry.events) for entry in entries)
    assert counts == {"aggregates": 5, "quotes": 6, "halts": 7, "trades": 0, "unknown": 1, "halt_notices": 0}
    assert len(stored(redis_server)["unknown", 0]) == 1


async def test_headers_number_entries_and_count_events(make: Make, redis_server: RedisServer) -> None:
    """Places without holes from 1, totals that add up, the market clock, the epoch."""
    made = make(Leadership(7))
    await made.start()
    for first in range(0, 90, 30):
        made.queues["trades"].put(trades(first, 30))
        await until(lambda: sent(made) == first + 30)  # noqa: B023 - awaited within the turn
    for (queue, _), entries in stored(redis_server).items():
        total = 0
        for place, entry in enumerate(entries, start=1):
            header = entry.header
            total += len(entry.events)
            assert (header.epoch, header.place, header.total, header.count) == (
                7,
                place,
                total,
                len(entry.events),
            )
            if queue == "trades":
                assert header.market_ms >= NOW_MS
                assert header.arrival_ms > 0


async def test_a_flush_is_one_entry_for_each_stream_and_large_ones_are_parted(
    make: Make, redis_server: RedisServer
) -> None:
    """Pipelined, at the configured size: commands do not grow with events."""
    made = make(flush_ms=200, flush_bytes=6_400)  # 100 events to an entry
    made.queues["trades"].put(trades(0, 300, symbols=1))
    made.queues["quotes"].put(quotes(50))
    await made.start()
    await until(lambda: sent(made) == 350)
    entries = {
        place: found for place, found in stored(redis_server).items() if found and place[0] != "aggregates"
    }
    lengths = {place: [len(entry.events) for entry in found] for place, found in entries.items()}
    assert lengths.pop(("trades", partition_of("S0", PARTITIONS))) == [100, 100, 100]
    assert all(len(parts) == 1 for parts in lengths.values())
    assert redis_server.commands()["xadd"] == sum(map(len, stored(redis_server).values()))


async def test_partitions_that_get_nothing_hear_the_market_clock(
    make: Make, redis_server: RedisServer
) -> None:
    """Once a second an entry without events, so that all begin the day together."""
    made = make()
    await made.start()
    made.queues["aggregates"].put(bars(1))
    await until(lambda: made.counters.heartbeats >= 2)
    await until(lambda: made.counters.entries >= 2 * PARTITIONS)
    for partition in range(PARTITIONS):
        entries = stored(redis_server)["aggregates", partition]
        assert max(entry.header.market_ms for entry in entries) == NOW_MS


async def test_ids_are_redis_time(make: Make, redis_server: RedisServer) -> None:
    """By which readers tell how old an entry is."""
    made = make()
    await made.start()
    made.queues["trades"].put(trades(0, 1))
    await until(lambda: sent(made) == 1)
    with redis_server.client() as client:
        seconds, _ = client.time()
    (entry,) = [
        entry for entry in stored(redis_server)["trades", partition_of("S0", PARTITIONS)] if entry.events
    ]
    assert abs(int(entry.id.partition("-")[0]) / 1_000 - seconds) < 10


async def test_streams_are_bounded_by_events(
    make: Make, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the memory of Redis must be: old entries go, whatever their age, and totals tell how many."""
    monkeypatch.setattr("mdp.queues.streams._MARK_MS", 1)
    made = make(max_events=2_000, flush_bytes=6_400)
    await made.start()
    for first in range(0, 10_000, 500):
        made.queues["trades"].put(trades(first, 500, symbols=1))
        await until(lambda: sent(made) == first + 500)  # noqa: B023 - awaited within the turn
    entries = stored(redis_server)["trades", partition_of("S0", PARTITIONS)]
    assert entries[-1].header.total == 10_000
    kept = sum(len(entry.events) for entry in entries)
    assert 2_000 <= kept <= 4_000


# --- what goes wrong ---


async def test_a_killed_and_emptied_redis_loses_nothing_that_comes_later(
    make: Make, redis_server: RedisServer
) -> None:
    """It recovers by itself; each event that was not written when Redis died is written once."""
    made = make()
    await made.start()
    made.queues["trades"].put(trades(0, 100))
    await until(lambda: sent(made) == 100)
    redis_server.kill()
    made.queues["trades"].put(trades(100, 100))
    await until(lambda: not made.health().ok)
    made.queues["trades"].put(trades(200, 100))
    assert balanced(made)
    redis_server.start()
    await until(lambda: sent(made) == 300)
    assert sorted(sizes(redis_server)) == list(range(100, 300))
    assert made.health().ok
    assert balanced(made)


async def test_a_frozen_redis_gets_each_event_once(make: Make, redis_server: RedisServer) -> None:
    """Though pipelines are given up, sent again, and found by Redis in the buffers of dead connections."""
    made = make(timeout_seconds=0.3)
    await made.start()
    number = 0
    for _ in range(3):
        for _ in range(10):
            made.queues["trades"].put(trades(number, 50))
            number += 50
            await asyncio.sleep(0.002)
        redis_server.freeze()
        made.queues["trades"].put(trades(number, 50))
        number += 50
        failures = made._link.failures
        await until(lambda: made._link.failures >= failures + 2)  # noqa: B023
        assert balanced(made)
        redis_server.thaw()
        await until(lambda: sent(made) == number)  # noqa: B023
    assert sorted(sizes(redis_server)) == list(range(number))
    assert made.counters.found_entries > 0, "the late ones were met"
    assert balanced(made)
    for (queue, _), entries in stored(redis_server).items():
        if queue == "trades":
            assert [entry.header.place for entry in entries] == list(range(1, len(entries) + 1))


async def test_reading_goes_on_while_redis_is_gone_and_the_oldest_are_shed(
    make: Make, redis_server: RedisServer
) -> None:
    """Putting never waits, memory is bounded, and each shed event is counted."""
    made = make(max_events=500)
    await made.start()
    made.queues["trades"].put(trades(0, 10))
    await until(lambda: sent(made) == 10)
    redis_server.kill()
    for first in range(10, 5_010, 100):
        made.queues["trades"].put(trades(first, 100))
        await asyncio.sleep(0)
    assert made.queues["trades"].waiting <= 500
    assert balanced(made)
    redis_server.start()
    await until(lambda: made.accounting()["waiting"] == 0)
    got = sorted(sizes(redis_server))
    assert got[-500:] == list(range(4_510, 5_010)), "the newest are there"
    accounting = made.accounting()
    assert accounting["sent"] == len(got) + 10
    assert accounting["dropped"] == 5_000 - len(got)
    assert balanced(made)


async def test_what_waited_too_long_expires_but_no_halt(make: Make, redis_server: RedisServer) -> None:
    """After an outage the market's present comes first; a halt never loses its turn."""
    leadership = Leadership(0)
    made = make(leadership, ttl_seconds=0.05)
    await made.start()
    made.queues["trades"].put(trades(0, 10))
    made.queues["halts"].put(bands(10))
    await asyncio.sleep(0.1)
    leadership.epoch = 1
    await until(lambda: made.accounting()["waiting"] == 0)
    assert made.accounting() | {"expired": 10, "sent": 10} == made.accounting()
    assert sizes(redis_server) == []


async def test_a_redis_without_memory_is_asked_until_it_has_some(
    make: Make, redis_server: RedisServer
) -> None:
    """Refused entries are known not to be there: they are written later, once, in order."""
    made = make()
    await made.start()
    made.queues["trades"].put(trades(0, 100))
    await until(lambda: sent(made) == 100)
    with redis_server.client() as client:
        client.config_set("maxmemory", 1)
        made.queues["trades"].put(trades(100, 100))
        await until(lambda: made.counters.refused_entries > 0)
        assert not made.health().ok
        assert balanced(made)
        client.config_set("maxmemory", 0)
    await until(lambda: sent(made) == 200)
    assert sorted(sizes(redis_server)) == list(range(200))


async def test_an_event_that_cannot_be_packed_loses_itself_alone(
    make: Make, redis_server: RedisServer
) -> None:
    """And is counted."""
    made = make()
    await made.start()
    events = [Trade("A", 1, 1, NOW_MS), Trade("A", 1 << 70, 2, NOW_MS), Trade("A", 1, 3, NOW_MS)]
    made.queues["trades"].put(Batch(events, time.monotonic_ns()))
    await until(lambda: made.accounting()["waiting"] == 0)
    assert sizes(redis_server) == [1, 3]
    assert made.accounting()["unwritable"] == 1
    assert balanced(made)


async def test_a_slow_redis_costs_time_and_no_events(make: Make, redis_server: RedisServer) -> None:
    """Pipelines grow with what waits: a tenth of a second on the way, and 100,000 events a second."""
    async with TcpProxy(redis_server.port) as proxy:
        proxy.delay_seconds = 0.05
        made = make(url=f"redis://127.0.0.1:{proxy.port}/0", timeout_seconds=5.0)
        await made.start()
        for first in range(0, 40_000, 1_000):
            made.queues["trades"].put(trades(first, 1_000, symbols=97))
        await until(lambda: sent(made) == 40_000)
        assert made.accounting()["dropped"] == made.accounting()["expired"] == 0
        assert made.counters.pipelines < 20
        await made.stop()
    assert sorted(sizes(redis_server)) == list(range(40_000))


# --- one writer at a time ---


async def test_without_a_lease_nothing_is_written(make: Make, redis_server: RedisServer) -> None:
    """Standing by is no failure."""
    made = make(Leadership(0))
    await made.start()
    made.queues["trades"].put(trades(0, 10))
    await asyncio.sleep(0.05)
    assert redis_server.commands().get("xadd", 0) == 0
    assert made.health().ok
    assert made.waiting == 10


async def test_a_successor_goes_on_where_the_streams_end(make: Make, redis_server: RedisServer) -> None:
    """Places and totals without a hole or a repeat, so that readers count on."""
    first, second = make(Leadership(1)), make(Leadership(2))
    await first.start()
    first.queues["trades"].put(trades(0, 100))
    await until(lambda: sent(first) == 100)
    await first.stop()
    await second.start()
    second.queues["trades"].put(trades(100, 100))
    await until(lambda: sent(second) == 100)
    for (queue, _), entries in stored(redis_server).items():
        if queue == "trades" and entries:
            assert [entry.header.place for entry in entries] == list(range(1, len(entries) + 1))
            assert [entry.header.epoch for entry in entries] == sorted(
                entry.header.epoch for entry in entries
            )
            assert entries[-1].header.total == sum(len(entry.events) for entry in entries)


async def test_one_that_was_frozen_past_its_lease_writes_nothing_more(
    make: Make, redis_server: RedisServer
) -> None:
    """Its entries' ids are older than its successor's: Redis itself refuses them, and they count as lost."""
    leadership = Leadership(1)
    old, new = make(leadership), make(Leadership(2))
    old._under_way = await frozen(old, leadership)
    await new.start()
    new.queues["trades"].put(trades(200, 100))
    await until(lambda: sent(new) == 100)
    leadership.epoch = 1  # it looked at its lease before it froze
    await until(lambda: old.accounting()["waiting"] == 0)
    assert sorted(sizes(redis_server)) == [*range(100), *range(200, 300)]
    assert old.accounting() | {"sent": 100, "lost": 100} == old.accounting()


async def test_one_that_was_frozen_writes_nothing_though_its_successor_has_no_events_yet(
    make: Make, redis_server: RedisServer
) -> None:
    """Every stream that had any gets an entry at once: what is older is refused from then on."""
    leadership = Leadership(1)
    old, new = make(leadership), make(Leadership(2))
    entries = await frozen(old, leadership)
    await new.start()
    written = [entry.stream.queue for entry in entries]
    await until(lambda: all(
        stored(redis_server)[queue, entry.stream.partition][-1].header.epoch == 2
        for queue, entry in zip(written, entries, strict=True)
    ))  # fmt: skip
    old._under_way = entries
    leadership.epoch = 1  # it looked at its lease before it froze
    await until(lambda: old.accounting()["waiting"] == 0)
    assert sorted(sizes(redis_server)) == list(range(100))
    assert old.accounting() | {"sent": 100, "lost": 100} == old.accounting()
    assert new.accounting()["sent"] == 0


@pytest.mark.parametrize("looks_early", [True, False])
async def test_what_was_under_way_at_a_lost_lease_is_settled_once_another_writes(
    make: Make, redis_server: RedisServer, looks_early: bool
) -> None:
    """Each entry for itself: there, though the answer was lost, or never to be written. Not before that."""
    leadership = Leadership(1)
    old, new = make(leadership), make(Leadership(2))
    entries = await frozen(old, leadership)
    there, absent = entries[0], entries[1:]
    with redis_server.client() as client:
        client.xadd(there.stream.key, {"v": "1", "h": there.header, "d": there.events}, id=there.id)
    missing = sum(entry.count for entry in absent)
    assert missing
    old._settle_at = 0.0 if looks_early else float("inf")
    old._rounds = [entries]
    if looks_early:
        await until(lambda: sent(old) == 100 + there.count)
        assert old.accounting() | {"lost": 0, "waiting": missing} == old.accounting(), "ours, perhaps"
    await new.start()
    for first in range(200, 1_200, 100):
        new.queues["trades"].put(trades(first, 100))
    await until(lambda: sent(new) == 1_000)
    old._settle_at = 0.0
    await until(lambda: old.accounting()["waiting"] == 0)
    assert old.accounting() | {"sent": 100 + there.count, "lost": missing} == old.accounting()
    assert balanced(old)
    assert len(sizes(redis_server)) == 1_100 + there.count


async def test_a_lease_that_was_lost_and_gained_again_gives_up_what_was_under_way(
    make: Make, redis_server: RedisServer
) -> None:
    """Another may have written meanwhile; what is there already counts as sent."""
    leadership = Leadership(1)
    made = make(leadership)
    made.queues["trades"].put(trades(0, 100))
    made._epoch = 1
    made._under_way = made._pack(1)[0]
    leadership.epoch = 5
    await made.start()
    made.queues["trades"].put(trades(100, 100))
    await until(lambda: made.accounting()["waiting"] == 0)
    assert made.accounting() | {"lost": 100, "sent": 100} == made.accounting()
    assert sorted(sizes(redis_server)) == list(range(100, 200))


async def test_another_number_of_partitions_is_refused(make: Make, redis_server: RedisServer) -> None:
    """In one line, and nothing is written."""
    with redis_server.client() as client:
        client.set(KEYS.partitions, 8)
    made = make()
    await made.start()
    made.queues["trades"].put(trades(0, 10))
    await until(lambda: not made.health().ok)
    assert "mdq.partitions is 4, and this Redis has 8" in made.health().detail
    assert redis_server.commands().get("xadd", 0) == 0


async def test_stopping_sends_what_waits(make: Make, redis_server: RedisServer) -> None:
    """And refuses what comes later, counted."""
    made = make(flush_ms=1_000)
    await made.start()
    made.queues["trades"].put(trades(0, 100))
    await made.stop()
    assert sorted(sizes(redis_server)) == list(range(100))
    made.queues["trades"].put(trades(100, 5))
    assert made.accounting()["dropped"] == 5
    assert balanced(made)


async def test_stopping_without_redis_ends(make: Make, redis_server: RedisServer) -> None:
    """In bounded time; what could not be sent still counts as waiting."""
    made = make()
    await made.start()
    redis_server.kill()
    made.queues["trades"].put(trades(0, 100))
    async with asyncio.timeout(60):
        await made.stop()
    assert made.accounting()["waiting"] == 100
    assert not made.health().ok
