"""A partition's checkpoint: what it brings back, who may write it, what is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from mdp.cache.keys import Keys, partition_name
from mdp.cache.leases import Lease
from mdp.cache.redis_link import connect
from mdp.processor import checkpoint
from mdp.processor.checkpoint import SCHEMA, CheckpointError, CheckpointStore
from mdp.queues.stream_reader import Cursor
from tests.processor.processors import OneProcess, values_of
from tests.processor.test_partitions import REFERENCES, market
from tests.redis_server import RedisServer

KEYS = Keys("t:")
CURSORS = {"trades": Cursor((1_700_000_000_123, 4), 77, 3), "halts": Cursor()}


async def dumped(one: OneProcess, epoch: int = 9) -> checkpoint.Dumped:
    return await checkpoint.dump(one.engine, epoch, CURSORS, {"trades": 77}, {"quotes": {"expired": 3}})


async def test_it_brings_back_what_was_known_and_where_reading_was() -> None:
    """All values of all symbols, the market clock, the session, the cursors."""
    before, after = OneProcess(REFERENCES), OneProcess(REFERENCES)
    before.send(market(40))

    found = checkpoint.unpack(checkpoint.pack(await dumped(before)))
    found.hydrate(after.engine)

    assert found.head.cursors == CURSORS
    assert found.head.processed == {"trades": 77}
    assert found.head.lost == {"quotes": {"expired": 3}}
    assert (found.head.epoch, found.head.day) == (9, "2026-03-10")
    assert after.market.clock.now_ms == before.market.clock.now_ms
    assert after.market.session == "regular"
    assert values_of([after.market], [after.engine]) == values_of([before.market], [before.engine])


async def test_one_of_a_market_that_has_not_begun_brings_back_only_the_cursors() -> None:
    """At night there is a place in the streams, and nothing else."""
    found = checkpoint.unpack(checkpoint.pack(await dumped(OneProcess())))
    after = OneProcess()

    found.hydrate(after.engine)

    assert found.head.cursors == CURSORS
    assert after.market.clock.day is None


async def test_one_of_a_newer_version_is_refused_with_words() -> None:
    """An old processor must not overwrite what a new one knows."""
    schema, head, records = msgspec.msgpack.decode(checkpoint.pack(await dumped(OneProcess())))

    with pytest.raises(
        CheckpointError, match=f"version {SCHEMA + 1}; this process reads up to {SCHEMA}: upgrade it, too"
    ):
        checkpoint.unpack(msgspec.msgpack.encode([schema + 1, head, records]))
    assert schema == SCHEMA


@pytest.mark.parametrize("harm", ["cut", "noise", "records"])
async def test_a_damaged_one_is_refused(harm: str) -> None:
    """It says so, and raises nothing else."""
    one = OneProcess(REFERENCES)
    one.send(market(3))
    data = checkpoint.pack(await dumped(one))
    if harm == "records":
        schema, head, records = msgspec.msgpack.decode(data)
        data = msgspec.msgpack.encode([schema, head, records[:-20]])
    else:
        data = data[:-20] if harm == "cut" else b"\x01" + data

    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.unpack(data).hydrate(OneProcess().engine)


async def test_only_the_newest_owner_of_the_lease_writes(redis_server: RedisServer) -> None:
    """A predecessor is shut out by a successor that has not written anything yet."""
    client: Any = connect(redis_server.config())
    store = CheckpointStore(client, KEYS)
    owners = [Lease(client, KEYS, partition_name(3), owner) for owner in ("a", "b")]
    assert await store.load(3) is None
    assert await owners[0].acquire()
    old = owners[0].epoch
    data = checkpoint.pack(await dumped(OneProcess(), old))
    assert await store.save(3, old, data)
    await owners[0].release()
    assert await owners[1].acquire()

    assert not await store.save(3, old, b"late")

    found = await store.load(3)
    assert found is not None
    assert found.head.epoch == old
    assert await store.save(3, owners[1].epoch, data)
    with redis_server.client() as plain:
        assert plain.ttl("t:mdp:checkpoint:{3}") > 3 * 86_400
        plain.delete("t:mdp:epoch:partition:{3}")
    assert not await store.save(3, owners[1].epoch, data), "Redis was emptied: nobody owns anything"
    await client.aclose()
