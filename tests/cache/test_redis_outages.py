"""The writer while Redis is gone, slow, empty, full or read-only. Against a real server."""

from __future__ import annotations

from typing import Any

import pytest
from redis.exceptions import RedisError, ResponseError

from mdp.cache.redis_link import REDIS_ERRORS
from mdp.cache.redis_scripts import Script
from mdp.feeds import (
    HALT,
    HALTS,
    QUOTE,
    TOP_VOLUME,
    TRADES,
)
from tests.redis_server import RedisServer

from .writer_rig import Hearer, Rig, Walk, messages, streamed, unaccounted


async def test_after_an_outage_everything_is_written_again(rig: Rig, redis_server: RedisServer) -> None:
    """Redis was killed and came back empty: the walk begins anew, parts and what waited are there."""
    output, walk = rig.partition(packers={TOP_VOLUME.name: bytes}), Walk()
    rig.writer.walk(output, walk)
    output.publish(TOP_VOLUME, "", b"board")
    await rig.turn()
    redis_server.kill()
    rig.interest.heard("+quote:AAPL")
    for n in range(100):
        output.publish(QUOTE, "AAPL", n)
        output.publish(HALT, "AAPL", n)
    output.push(HALTS, "", 1)
    for _ in range(3):
        rig.time += 1
        with pytest.raises(REDIS_ERRORS):
            await rig.writer.flush()
    assert not rig.writer.health().ok
    assert len(output.states) == len(output.values) == 1  # the newest alone waits
    redis_server.start()
    hearer = Hearer(redis_server, "mdp:bus:*")
    await rig.turn()
    await rig.turn()
    assert [value for *_, value in messages(hearer)] == [99]
    assert await rig.client.get("halt:AAPL") == b"99"
    assert streamed(redis_server, "halts") == [(1, 1)]
    assert await rig.client.hgetall("mdp:parts:{scanners:top_volume}") == {b"partition:0": b"board"}
    assert walk.forgotten == 1
    assert rig.writer.health().ok
    hearer.close()


async def test_an_empty_redis_is_noticed_without_an_error(rig: Rig) -> None:
    """It was flushed between two turns, no command failed: the missing fence tells."""
    output, walk = rig.partition(packers={TOP_VOLUME.name: bytes}), Walk()
    rig.writer.walk(output, walk)
    output.publish(TOP_VOLUME, "", b"board")
    await rig.turn()
    await rig.client.flushall()
    await rig.turn()
    await rig.turn()
    assert walk.forgotten == 1
    assert await rig.client.exists("mdp:parts:{scanners:top_volume}") == 1
    await rig.turn()
    assert walk.forgotten == 1


async def test_a_frozen_redis_costs_a_bounded_wait(redis_server: RedisServer) -> None:
    """A turn ends with an error after the timeout; states are conflated meanwhile."""
    rig = Rig(redis_server, timeout_seconds=1.5)
    output = rig.partition()
    rig.interest.heard("+quote:AAPL")
    await rig.turn()
    redis_server.freeze()
    for n in range(3):
        output.publish(QUOTE, "AAPL", n)
    with pytest.raises(REDIS_ERRORS):
        await rig.writer.flush()
    assert output.states == {(QUOTE, "AAPL"): 2}
    redis_server.thaw()
    hearer = Hearer(redis_server, "mdp:bus:quote:*")
    await rig.turn()
    assert [value for *_, value in messages(hearer)] == [2]
    hearer.close()
    await rig.close()


async def test_out_of_memory_messages_still_leave(
    rig: Rig, redis_server: RedisServer, hearer: Hearer
) -> None:
    """What cannot be kept is told as an error and written once there is room; subscribers notice nothing."""
    output, walk = rig.partition(), Walk()
    rig.writer.walk(output, walk)
    rig.interest.heard("+quote:AAPL")
    await rig.turn()
    await rig.client.config_set("maxmemory", 1)
    output.publish(QUOTE, "AAPL", 1)
    output.publish(HALT, "AAPL", 1)
    output.push(HALTS, "", 1)
    rig.time += 1
    with pytest.raises(RedisError):
        await rig.writer.flush()
    assert [value for *_, value in messages(hearer)] == [1]
    assert "OOM" in rig.writer.health().detail
    # A turn in which there is nothing to keep works, and proves nothing.
    output.values.clear()
    output.batches.clear()
    output.publish(QUOTE, "AAPL", 2)
    assert not await rig.writer.flush()
    assert [value for *_, value in messages(hearer)] == [2]
    assert not rig.writer.health().ok
    assert walk.forgotten == 0
    output.publish(HALT, "AAPL", 1)
    output.push(HALTS, "", 1)
    await rig.client.config_set("maxmemory", 0)
    await rig.turn()
    await rig.turn()
    assert await rig.client.exists("halt:AAPL") == 1
    assert streamed(redis_server, "halts") == [(1, 1)]
    assert walk.forgotten == 1
    assert messages(hearer) == []  # not told twice


async def test_a_read_only_redis_is_an_outage(rig: Rig, redis_server: RedisServer, hearer: Hearer) -> None:
    """A replica after a failover refuses writes: nothing is lost that the bounds can hold."""
    output = rig.partition()
    rig.interest.heard("+quote:AAPL")
    await rig.turn()
    await rig.client.replicaof("127.0.0.1", "1")
    output.publish(QUOTE, "AAPL", 1)
    output.publish(HALT, "AAPL", 1)
    output.push(HALTS, "", 1)
    rig.time += 1
    with pytest.raises(RedisError):
        await rig.writer.flush()
    assert not rig.writer.health().ok
    assert [value for *_, value in messages(hearer)] == [1], "messages leave"
    await rig.client.replicaof("NO", "ONE")
    await rig.turn()
    await rig.turn()
    assert messages(hearer) == []
    assert await rig.client.get("halt:AAPL") == b"1"
    assert streamed(redis_server, "halts") == [(1, 1)]


async def test_what_a_redis_that_runs_nothing_was_to_say_waits(
    rig: Rig, hearer: Hearer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers, and has not run the script (busy, loading): states are said later, raw events are lost."""
    output = rig.partition()
    rig.interest.heard("+quote:AAPL")
    rig.interest.heard("+stocks:trades:AAPL")
    await rig.turn()

    async def busy(*_: Any) -> Any:
        raise ResponseError("BUSY")

    monkeypatch.setattr(Script, "run", busy)
    output.publish(QUOTE, "AAPL", 1)
    output.publish(TRADES, "AAPL", 1)
    with pytest.raises(ResponseError):
        await rig.writer.flush()
    monkeypatch.undo()
    assert (output.counters.dropped, unaccounted(output)) == (1, 0)
    await rig.turn()
    assert [(feed, value) for feed, _, _, value in messages(hearer)] == [("quote:AAPL", 1)]
