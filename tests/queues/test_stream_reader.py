"""The processors' end, against a real redis-server and the writer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import NoPermissionError

from mdp.cache.leases import Lease
from mdp.cache.redis_link import Link, check, connect
from mdp.config import CacheConfig
from mdp.events import Trade
from mdp.queues.entry import STREAMED, VERSION, Header, NewerEntry, Partitions, pack, pack_header, scatter
from mdp.queues.redis import Cursor, Delivery, StreamReader, StreamWriter
from tests.ports import free_port
from tests.queues.streams_support import (
    KEYS,
    NOW_MS,
    PARTITIONS,
    Leadership,
    bands,
    bars,
    quotes,
    trades,
    until,
    writer,
)
from tests.redis_server import RedisServer

Make = Callable[..., StreamReader]
#: What docs/redis.md says that a user of ours needs.
ACL_RIGHTS = "-@all +@read +@write +@connection +@pubsub +@scripting +@transaction +info +time"


class Time:
    """The clock of a reader: real, and a test may turn it on."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


@pytest.fixture
async def make(redis_server: RedisServer) -> AsyncIterator[Make]:
    """Makes readers of all partitions (or of those that are named)."""
    made: list[StreamReader] = []

    def one(cursors: dict[int, dict[str, Cursor]] | None = None, **changes: Any) -> StreamReader:
        config = CacheConfig(url=redis_server.url, timeout_seconds=1.0)
        reader = StreamReader(connect(config), KEYS, Link("test", config), **{"ttl_seconds": 5.0, **changes})
        for partition in range(PARTITIONS):
            reader.add(partition, (cursors or {}).get(partition))
        made.append(reader)
        return reader

    yield one
    redis_server.thaw()
    for reader in made:
        await reader._client.aclose()


@pytest.fixture
async def wrote(redis_server: RedisServer) -> AsyncIterator[StreamWriter]:
    """A writer that runs."""
    made = writer(redis_server)
    await made.start()
    yield made
    redis_server.thaw()
    await made.stop()
    await made._client.aclose()


async def gather(reader: StreamReader, rounds: int = 1, wait_ms: int = 20) -> list[Delivery]:
    """What some rounds of reading bring."""
    found: list[Delivery] = []
    for _ in range(rounds):
        await read_into(found, reader, wait_ms)
    return found


async def read_into(found: list[Delivery], reader: StreamReader, wait_ms: int = 20) -> None:
    """One round; what it brought is there also where it fails."""
    async for delivery in reader.read(wait_ms):
        found += [delivery]


async def gather_until(reader: StreamReader, events: int, seconds: float = 60) -> list[Delivery]:
    """Read until so many events came."""
    found: list[Delivery] = []
    async with asyncio.timeout(seconds):
        while sum(len(delivery.events) for delivery in found) < events:
            found += await gather(reader)
    return found


async def put(made: StreamWriter, queue: str, batch: Any) -> None:
    """Write a batch and wait until it is there."""
    count = made.counters.sent + len(batch)
    made.queues[queue].put(batch)
    await until(lambda: made.counters.sent == count)


def add(
    server: RedisServer, entry_id: str, header: Header, events: list[Any], version: int = VERSION
) -> None:
    """Put an entry of trades into partition 0 by hand."""
    rows = [row for part in scatter("trades", events, Partitions(1)).values() for row in part]
    with server.client() as client:
        client.xadd(
            KEYS.stream("trades", 0),
            {"v": str(version), "h": pack_header(header), "d": pack(rows)},
            id=entry_id,
        )


def some(count: int) -> list[Trade]:
    return [Trade("A", 1, n, NOW_MS) for n in range(count)]


def total(reader: StreamReader, name: str) -> int:
    return sum(getattr(counters, name) for counters in reader.counters.values())


def numbers(found: list[Delivery]) -> list[int]:
    """Of the trades that came."""
    return [event.size for delivery in found if delivery.queue == "trades" for event in delivery.events]


# --- what comes ---


async def test_what_was_written_comes_once_in_order(make: Make, wrote: StreamWriter) -> None:
    """Of all queues; each entry is one batch of one partition."""
    reader = make()
    for first in range(0, 300, 100):
        await put(wrote, "trades", trades(first, 100))
    await put(wrote, "aggregates", bars(10))
    await put(wrote, "quotes", quotes(10))
    await put(wrote, "halts", bands(10))
    found = await gather_until(reader, 330)
    assert sorted(numbers(found)) == list(range(300))
    for partition in range(PARTITIONS):
        for queue in STREAMED:
            mine = [d for d in found if (d.partition, d.queue) == (partition, queue)]
            assert [d.header.place for d in mine] == list(range(1, len(mine) + 1))
            assert all(d.header.count == len(d.events) for d in mine)
    assert await gather(reader) == [d for d in await gather(reader) if not d.events], "nothing comes twice"
    assert total(reader, "delivered") == 330
    assert total(reader, "missed") == total(reader, "expired") == total(reader, "unreadable") == 0


async def test_entries_come_in_the_order_of_time_over_all_streams(make: Make, wrote: StreamWriter) -> None:
    """Also where one stream has far more of them than a round brings: a bar after the trades it follows."""
    for first in range(60):
        await put(wrote, "trades", trades(first, 1, symbols=1))
    await put(wrote, "aggregates", bars(1))
    found = await gather_until(make(), 61)
    ids = [delivery.id for delivery in found]
    assert ids == sorted(ids)
    assert [d.queue for d in found if d.events][-1] == "aggregates"


async def test_a_heartbeat_tells_the_market_clock(make: Make, wrote: StreamWriter) -> None:
    """Without events, to partitions that get none."""
    await put(wrote, "aggregates", bars(1))
    reader = make()
    heard: dict[int, int] = {}
    async with asyncio.timeout(30):
        while len(heard) < PARTITIONS or min(heard.values()) < NOW_MS:
            for delivery in await gather(reader, wait_ms=100):
                heard[delivery.partition] = delivery.header.market_ms


async def test_another_reader_goes_on_where_one_stopped(make: Make, wrote: StreamWriter) -> None:
    """From its cursors: nothing twice, nothing left out."""
    first = make()
    await put(wrote, "trades", trades(0, 100))
    found = await gather_until(first, 100)
    cursors = {partition: first.remove(partition) for partition in range(PARTITIONS)}
    assert first.remove(0) == {}
    assert await gather(first) == []
    assert first.removed.delivered == 100
    await put(wrote, "trades", trades(100, 100))
    found += await gather_until(make(cursors), 100)
    assert sorted(numbers(found)) == list(range(200))


async def test_what_was_not_taken_comes_again(make: Make, wrote: StreamWriter) -> None:
    """A cursor moves with its delivery, not with the read."""
    for first in range(0, 20):
        await put(wrote, "trades", trades(first, 1))
    reader = make()
    found: list[Delivery] = []
    async for delivery in reader.read(20):
        found.append(delivery)
        if numbers(found):
            break
    found += await gather_until(reader, 20 - len(numbers(found)))
    assert sorted(numbers(found)) == list(range(20))


async def test_a_partition_that_was_given_up_in_a_round_delivers_no_more(
    make: Make, redis_server: RedisServer
) -> None:
    """From the moment of giving it up: its next owner reads from that cursor."""
    for place in range(1, 11):
        add(redis_server, f"1000-{place}", Header(1, place, place, 1, 0, 0), some(1))
    reader, found = make(), []
    cursors: dict[str, Cursor] = {}
    async for delivery in reader.read(100):
        found += [delivery]
        if len(found) == 4:
            cursors = reader.remove(0)
    assert len(found) == 4
    found += await gather_until(make({0: cursors}), 6)
    assert [delivery.header.place for delivery in found] == list(range(1, 11))


async def test_without_partitions_it_waits_for_one(redis_server: RedisServer, make: Make) -> None:
    """And begins as soon as there is one."""
    reader = make()
    for partition in range(PARTITIONS):
        reader.remove(partition)
    assert await gather(reader) == []
    waiting = asyncio.create_task(gather(reader, wait_ms=5_000))
    await asyncio.sleep(0.01)
    add(redis_server, "*", Header(1, 1, 3, 3, 0, 0), some(3))
    reader.add(0)
    assert sum(len(delivery.events) for delivery in await asyncio.wait_for(waiting, 30)) == 3


# --- age ---


async def test_losing_the_last_partition_in_a_round_is_no_failure_of_redis(make: Make) -> None:
    """Given up while Redis is asked for its time: nothing is read, and Redis is not waited for."""
    reader = make()
    ask, link = reader._client.time, reader._link

    async def lose() -> Any:
        for partition in range(PARTITIONS):
            reader.remove(partition)
        return await ask()

    reader._client.time = lose  # type: ignore[method-assign, assignment]
    assert await gather(reader) == []
    assert not list(reader.partitions)
    assert (link.ok, link.failures) == (True, 0)


async def test_what_is_too_old_expires_and_no_halt(make: Make, redis_server: RedisServer) -> None:
    """By its id, against Redis's clock; counted."""
    reader = make()
    await gather(reader)
    assert not reader.catching_up(0)
    old = f"{reader.redis_ms() - 6_000}-0"
    add(redis_server, old, Header(1, 1, 3, 3, 0, 0), some(3))
    with redis_server.client() as client:
        halt = scatter("halts", bands(1).events, Partitions(1))[0]
        client.xadd(
            KEYS.stream("halts", 0),
            {"v": "1", "h": pack_header(Header(1, 1, 1, 1, 0, 0)), "d": pack(halt)},
            id=old,
        )
    add(redis_server, "*", Header(1, 2, 5, 2, 0, 0), some(2))
    found = await gather(reader)
    assert [(d.queue, len(d.events)) for d in found] == [("halts", 1), ("trades", 2)]
    assert (total(reader, "expired"), total(reader, "delivered")) == (3, 3)


@pytest.mark.parametrize(("data", "symbols"), [(None, {"S0", "S1", "S2"}), (b"?", None)])
async def test_expired_bars_are_named(
    make: Make, redis_server: RedisServer, data: bytes | None, symbols: set[str] | None
) -> None:
    """The entry was there: exactly their symbols and times can be marked, unless it cannot be read."""
    reader = make()
    told: list[tuple[Any, ...]] = []
    reader.on_unread = lambda *said: told.append(said)
    await gather(reader)
    old = f"{reader.redis_ms() - 6_000}-0"
    batch = scatter("aggregates", bars(3).events, Partitions(1))[0]
    with redis_server.client() as client:
        for queue, body in (("aggregates", pack(batch) if data is None else data), ("trades", b"")):
            header = pack_header(Header(1, 1, 3, 3, 0, 0))
            client.xadd(KEYS.stream(queue, 0), {"v": "1", "h": header, "d": body}, id=old)
    await gather(reader)
    named = [(*said, bars and {bar.symbol for bar in bars}) for *said, bars in sorted(told)]
    assert named == [("aggregates", 0, 3, "expired", symbols), ("trades", 0, 3, "expired", None)]


async def test_what_an_entry_says_of_losses_is_told_though_it_is_not_delivered(
    make: Make, redis_server: RedisServer
) -> None:
    """Expired, or damaged. One that is delivered says it itself; a listener without a lease says nothing."""
    reader = make()
    told: list[tuple[int, Any]] = []
    reader.on_lost = lambda partition, lost: told.append((partition, lost))
    await gather(reader)
    old = reader.redis_ms() - 6_000
    lost: list[dict[str, list[str] | None]] = [{"expired": [f"S{n}"]} for n in range(4)]
    add(redis_server, f"{old}-0", Header(2, 1, 3, 3, 0, 0, None, lost[0]), some(3))
    add(redis_server, f"{old}-1", Header(1, 2, 6, 3, 0, 0, None, lost[1]), some(3))
    add(redis_server, "*", Header(2, 2, 5, 2, 0, 0, None, lost[2]), some(2))
    with redis_server.client() as client:
        header = pack_header(Header(2, 3, 6, 1, 0, 0, None, lost[3]))
        client.xadd(KEYS.stream("trades", 0), {"v": "1", "h": header, "d": b"?"})
    (delivered,) = await gather(reader)
    assert delivered.header.lost == lost[2]
    assert told == [(0, lost[0]), (0, lost[3])]


async def test_nothing_expires_while_a_partition_catches_up(make: Make, redis_server: RedisServer) -> None:
    """What was there when it was taken over comes, however old, is marked, and its end is told."""
    caught: list[int] = []
    for place in range(1, 101):
        add(redis_server, f"1000-{place}", Header(1, place, place, 1, 0, 0), some(1))
    reader = make()
    reader.on_caught_up = caught.append
    found: list[Delivery] = []
    while len(found) < 100:
        assert reader.catching_up(0)
        assert 0 not in caught
        found += await gather(reader)
    assert all(delivery.catching_up for delivery in found)
    await gather(reader)
    assert not reader.catching_up(0)
    assert sorted(caught) == list(range(PARTITIONS))
    add(redis_server, "*", Header(1, 101, 101, 1, 0, 0), some(1))
    (last,) = await gather(reader)
    assert not last.catching_up


# --- what was lost on the way ---


async def test_what_was_trimmed_unread_is_counted(
    make: Make, wrote: StreamWriter, redis_server: RedisServer
) -> None:
    """By the listener's counts, per stream, and told with the entry behind the hole."""
    reader = make()
    await put(wrote, "trades", trades(0, 100))
    await gather_until(reader, 100)
    told: list[int] = []
    reader.on_missed = lambda _queue, _partition, events, _header: told.append(events)
    await put(wrote, "trades", trades(100, 100))
    with redis_server.client() as client:
        for partition in range(PARTITIONS):
            client.xtrim(KEYS.stream("trades", partition), maxlen=0, approximate=False)
    await put(wrote, "trades", trades(200, 100))
    found = await gather_until(reader, 100)
    assert sorted(numbers(found)) == list(range(200, 300))
    assert total(reader, "missed") == sum(told) == 100


async def test_where_reading_begins_nothing_was_missed(make: Make, redis_server: RedisServer) -> None:
    """A stream that was trimmed long before we came has lost nothing of ours."""
    add(redis_server, "*", Header(1, 90, 9_000, 100, 0, 0), some(100))
    reader = make()
    await gather_until(reader, 100)
    assert total(reader, "missed") == 0


async def test_a_listener_that_begins_anew_is_followed(make: Make, redis_server: RedisServer) -> None:
    """It found the streams empty and counts from 0: what of that went by is missed, no more."""
    reader = make()
    add(redis_server, "1000-1", Header(1, 50, 5_000, 2, 0, 0), some(2))
    await gather_until(reader, 2)
    add(redis_server, "*", Header(2, 3, 30, 10, 0, 0), some(10))
    await gather_until(reader, 10)
    assert total(reader, "missed") == 20
    add(redis_server, "*", Header(2, 4, 31, 1, 0, 0), some(1))
    await gather_until(reader, 1)
    assert total(reader, "missed") == 20


async def test_a_listener_that_lost_its_lease_is_not_heard(make: Make, redis_server: RedisServer) -> None:
    """Lower epochs are ignored once a higher one was met, and counted; also by a successor."""
    reader = make()
    add(redis_server, "1000-1", Header(5, 1, 2, 2, 0, 0), some(2))
    add(redis_server, "1000-2", Header(4, 2, 9, 7, 0, 0), some(7))
    add(redis_server, "1000-3", Header(5, 2, 3, 1, 0, 0), some(1))
    found = await gather_until(reader, 3)
    assert [len(d.events) for d in found if d.queue == "trades"] == [2, 1]
    assert (total(reader, "fenced"), total(reader, "missed")) == (7, 0)
    add(redis_server, "1000-4", Header(4, 3, 12, 3, 0, 0), some(3))
    successor = make({0: reader.cursors(0)})
    assert await gather(successor) == []
    assert total(successor, "fenced") == 3


# --- entries that cannot be read ---


async def test_a_newer_entry_is_refused_and_left(make: Make, redis_server: RedisServer) -> None:
    """With a message, each time; a process that is new enough finds it."""
    add(redis_server, "1000-1", Header(1, 1, 1, 1, 0, 0), some(1))
    add(redis_server, "1000-2", Header(1, 2, 2, 1, 0, 0), some(1), version=VERSION + 1)
    reader = make()
    found: list[Delivery] = []
    for _ in range(2):
        with pytest.raises(NewerEntry, match="upgrade this process"):
            await read_into(found, reader)
    assert len(found) == 1
    assert reader.cursors(0)["trades"].id == (1_000, 1)


async def test_a_damaged_entry_loses_itself_alone(make: Make, redis_server: RedisServer) -> None:
    """Counted as far as its header says."""
    with redis_server.client() as client:
        stream = KEYS.stream("trades", 0)
        client.xadd(stream, {"x": "y"})
        client.xadd(stream, {"v": "1", "h": b"\xff", "d": b"\x90"})
        client.xadd(stream, {"v": "1", "h": pack_header(Header(1, 3, 5, 5, 0, 0)), "d": b"\x93"})
    add(redis_server, "*", Header(1, 4, 6, 1, 0, 0), some(1))
    reader = make()
    found = await gather_until(reader, 1)
    assert len(found) == 1
    assert (total(reader, "unreadable"), total(reader, "delivered")) == (5, 1)


# --- a lost Redis ---


async def test_a_lost_connection_costs_nothing(
    make: Make, wrote: StreamWriter, redis_server: RedisServer
) -> None:
    """Frozen and thawed: reading goes on behind the last entry."""
    reader = make()
    await put(wrote, "trades", trades(0, 100))
    found = await gather_until(reader, 100)
    redis_server.freeze()
    wrote.queues["trades"].put(trades(100, 100))
    while reader._link.ok:
        assert await gather(reader, wait_ms=10) == []
    redis_server.thaw()
    found += await gather_until(reader, 100)
    assert sorted(numbers(found)) == list(range(200))
    assert reader._link.ok


async def test_a_redis_that_comes_back_empty_is_read_on(
    make: Make, wrote: StreamWriter, redis_server: RedisServer
) -> None:
    """What the writer sends from then on comes once."""
    reader = make()
    await put(wrote, "trades", trades(0, 100))
    await gather_until(reader, 100)
    redis_server.restart()
    wrote.queues["trades"].put(trades(100, 100))
    found = await gather_until(reader, 100)
    assert sorted(numbers(found)) == list(range(100, 200))
    assert total(reader, "missed") == 0


async def test_streams_that_begin_anew_behind_us_are_found(make: Make, redis_server: RedisServer) -> None:
    """Redis came back empty with its clock behind: after a silence that heartbeats do not allow."""
    clock = Time()
    reader = make(clock=clock)
    add(redis_server, "9000-1", Header(1, 1, 2, 2, 0, 0), some(2))
    await gather_until(reader, 2)
    with redis_server.client() as client:
        client.flushall()
    add(redis_server, "5000-1", Header(2, 1, 3, 3, 0, 0), some(3))
    assert await gather(reader, rounds=3) == []
    clock.ahead += 6
    await gather(reader)
    assert total(reader, "resets") == 1
    reader._partitions[0].until_ms = 1 << 60  # of the age of these entries it is not about
    found = await gather_until(reader, 3)
    assert len(numbers(found)) == 3
    assert total(reader, "missed") == 0


async def test_silence_without_a_new_beginning_changes_nothing(make: Make, redis_server: RedisServer) -> None:
    """Nobody may be sending: the cursors stay."""
    clock = Time()
    reader = make(clock=clock)
    add(redis_server, "9000-1", Header(1, 1, 2, 2, 0, 0), some(2))
    await gather_until(reader, 2)
    clock.ahead += 6
    await gather(reader, rounds=2)
    assert total(reader, "resets") == 0
    assert reader.cursors(0)["trades"].id == (9_000, 1)


async def test_two_readers_share_what_was_written_by_partition(make: Make, redis_server: RedisServer) -> None:
    """Each event is one reader's."""
    made = writer(redis_server, Leadership(1))
    await made.start()
    left, right = make(), make()
    for partition in range(PARTITIONS):
        (left if partition % 2 else right).remove(partition)
    await put(made, "trades", trades(0, 200))
    found = [numbers(await gather(reader, rounds=3)) for reader in (left, right)]
    assert sorted(found[0] + found[1]) == list(range(200))
    assert all(found)
    await made.stop()
    await made._client.aclose()


async def test_a_cluster_carries_the_streams(tmp_path: Path) -> None:
    """redis+cluster:// for both ends: a partition's streams lie in one slot, all partitions anywhere."""
    server = RedisServer(tmp_path, "--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    server.start()
    try:
        server.form_cluster()
        url = f"redis+cluster://127.0.0.1:{server.port}"
        made = writer(server, url=url)
        await made.start()
        await put(made, "trades", trades(0, 100))
        await put(made, "aggregates", bars(20))
        config = CacheConfig(url=url)
        reader = StreamReader(connect(config), KEYS, Link("test", config), ttl_seconds=5)
        for partition in range(PARTITIONS):
            reader.add(partition)
        found = await gather_until(reader, 120)
        await put(made, "trades", trades(100, 100))
        found += await gather_until(reader, 100)
        assert sorted(numbers(found)) == list(range(200))
        ids = [delivery.id for delivery in found]
        assert ids == sorted(ids)
        await made.stop()
        await made._client.aclose()
        await reader._client.aclose()
    finally:
        server.stop()


async def test_a_user_with_the_documented_rights_is_enough(redis_server: RedisServer) -> None:
    """Those of docs/redis.md, for keys and channels of one prefix; and no other key can be reached."""
    with redis_server.client() as client:
        client.execute_command("ACL", "SETUSER", "mdp", "on", ">secret", "~t:*", "&t:*", *ACL_RIGHTS.split())
        try:
            url = f"redis://mdp:secret@127.0.0.1:{redis_server.port}/0"
            config = CacheConfig(url=url)
            made = writer(redis_server, url=url)
            assert (await check(made._client, config)).version
            await made.start()
            await put(made, "trades", trades(0, 100))
            reader = StreamReader(made._client, KEYS, Link("test", config), ttl_seconds=5)
            for partition in range(PARTITIONS):
                reader.add(partition)
            assert len(numbers(await gather_until(reader, 100))) == 100
            lease = Lease(made._client, KEYS, "publisher", "me")
            assert await lease.acquire()
            await lease.release()
            with pytest.raises(NoPermissionError):
                await made._client.get("other")
            await made.stop()
            await made._client.aclose()
        finally:
            client.acl_deluser("mdp")


def test_the_documented_rights_are_those_tested() -> None:
    """Word for word."""
    text = (Path(__file__).parents[2] / "docs" / "redis.md").read_text(encoding="utf-8")
    assert ACL_RIGHTS in text
