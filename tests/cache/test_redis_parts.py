"""Parts in Redis: written when they changed, again when they were lost; and how much of them is wanted."""

from __future__ import annotations

import pytest

from mdp.cache.redis_link import REDIS_ERRORS
from mdp.feeds import TOP_GAINERS, TOP_VOLUME, Family
from tests.redis_server import RedisServer

from .writer_rig import Rig

VOLUME, GAINERS = "mdp:parts:{scanners:top_volume}", "mdp:parts:{scanners:top_gainers}"
PACKERS = {TOP_VOLUME.name: bytes, TOP_GAINERS.name: bytes}


async def test_only_what_changed_is_written(rig: Rig, redis_server: RedisServer) -> None:
    """One script for each feed, however many partitions have news."""
    outputs = [rig.partition(number, packers=PACKERS) for number in range(3)]
    for output in outputs:
        output.publish(TOP_VOLUME, "", b"v")
        output.publish(TOP_GAINERS, "", b"g")
    await rig.writer.parts.flush()
    redis_server.reset_commands()
    outputs[1].publish(TOP_GAINERS, "", b"h")
    await rig.writer.parts.flush()
    await rig.writer.parts.flush()
    assert redis_server.commands()["evalsha"] == 1
    expected = {b"partition:0": b"g", b"partition:1": b"h", b"partition:2": b"g"}
    assert await rig.client.hgetall(GAINERS) == expected


async def test_parts_of_a_redis_that_began_anew_are_all_there_again(rig: Rig) -> None:
    """One partition's news tells that the others' parts are gone, too; each notices by its own."""
    output = rig.partition(packers=PACKERS)
    output.publish(TOP_VOLUME, "", b"v")
    output.publish(TOP_GAINERS, "", b"g")
    await rig.writer.parts.flush()
    await rig.client.flushall()
    output.publish(TOP_VOLUME, "", b"w")
    await rig.writer.parts.flush()
    await rig.writer.parts.flush()
    assert await rig.client.hget(VOLUME, "partition:0") == b"w"
    assert await rig.client.hget(GAINERS, "partition:0") == b"g"


async def test_parts_that_could_not_be_written_wait(rig: Rig, redis_server: RedisServer) -> None:
    """The newest of each; Redis may have come back empty."""
    output = rig.partition(packers=PACKERS)
    output.publish(TOP_VOLUME, "", b"v")
    await rig.writer.parts.flush()
    redis_server.kill()
    output.publish(TOP_GAINERS, "", b"1")
    with pytest.raises(REDIS_ERRORS):
        await rig.writer.parts.flush()
    output.publish(TOP_GAINERS, "", b"2")
    assert not rig.writer.parts.health().ok
    redis_server.start()
    await rig.writer.parts.flush()
    assert await rig.client.hget(VOLUME, "partition:0") == b"v"
    assert await rig.client.hget(GAINERS, "partition:0") == b"2"
    assert rig.writer.parts.health().ok


async def test_limits_are_read_once_a_second(rig: Rig, redis_server: RedisServer) -> None:
    """Each output is told its own; what is no number is nobody's limit."""
    told: list[tuple[int, Family, int]] = []
    for number in range(2):
        output = rig.partition(number, packers=PACKERS)
        output.limits = lambda family, rows, number=number: told.append((number, family, rows))  # type: ignore[misc]
    rig.writer.parts.limited = (TOP_VOLUME,)
    limits = {"partition:0": "12", "partition:1": "many", "partition:9": "3"}
    await rig.client.hset("mdp:limits:{scanners:top_volume}", mapping=limits)
    await rig.writer.parts.flush()
    await rig.writer.parts.flush()
    assert told == [(0, TOP_VOLUME, 12)]
    rig.time += 1
    redis_server.reset_commands()
    await rig.writer.parts.flush()
    assert redis_server.commands()["hgetall"] == 1
