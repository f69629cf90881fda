"""Fences: what an owner whose lease is over still writes. Against a real server."""

from __future__ import annotations

from mdp.cache.redis_output import RedisOutput
from mdp.feeds import (
    HALT,
    HALTS,
    QUOTE,
    SCANNER,
    TOP_VOLUME,
)
from tests.redis_server import RedisServer

from .writer_rig import Hearer, Rig, messages, streamed


async def test_a_lower_epoch_changes_nothing(rig: Rig, redis_server: RedisServer, hearer: Hearer) -> None:
    """Frozen past its lease, an old owner wakes up: values, messages, events and parts are all refused."""
    refused: list[str] = []
    packers = {TOP_VOLUME.name: lambda value: bytes(value)}
    old = rig.partition(epoch=1, packers=packers, on_refused=lambda: refused.append("old"))
    other = Rig(redis_server)
    new = other.partition(epoch=2, packers=packers, on_refused=lambda: refused.append("new"))
    for name, output, one in (("new", new, other), ("old", old, rig)):
        one.interest.heard("+quote:AAPL")
        output.publish(QUOTE, "AAPL", name)
        output.publish(HALT, "AAPL", name)
        output.publish(TOP_VOLUME, "", name.encode())
        output.push(HALTS, "", name)
        await one.turn()
    assert refused == ["old"]
    assert old.refused
    assert [value for *_, value in messages(hearer)] == ["new"]
    assert await rig.client.get("halt:AAPL") == b'"new"'
    assert await rig.client.hgetall("mdp:parts:{scanners:top_volume}") == {b"partition:0": b"new"}
    assert streamed(redis_server, "halts") == [(1, "new")]
    await other.close()


async def test_each_kind_of_write_is_fenced_by_itself(rig: Rig, redis_server: RedisServer) -> None:
    """Also where the first thing the old owner says is an event, a part or a value of the market."""
    other = Rig(redis_server)

    def say(output: RedisOutput, kind: str) -> None:
        if kind == "event":
            output.push(HALTS, "", output.epoch)
        elif kind == "part":
            output.publish(TOP_VOLUME, "", b"%d" % output.epoch)
        else:
            output.publish(SCANNER, "mine", output.epoch)

    for kind in ("event", "part", "whole"):
        packers = None if kind == "whole" else {TOP_VOLUME.name: bytes}
        new = other.writer.open(kind, 9, packers=packers)
        say(new, kind)
        await other.turn()
        old = rig.writer.open(kind, 8, packers=packers)
        say(old, kind)
        await rig.turn()
        assert old.refused
        assert not new.refused
    assert streamed(redis_server, "halts") == [(1, 9)]
    assert await rig.client.get("scanners:mine") == b"9"
    await other.close()


async def test_one_that_was_refused_does_not_hold_up_the_others(rig: Rig, redis_server: RedisServer) -> None:
    """Partitions of one process share a script, not a fate."""
    other = Rig(redis_server)
    other.partition(0, epoch=2).publish(HALT, "AAA", "new")
    await other.turn()
    rig.partition(0, epoch=1).publish(HALT, "AAA", "old")
    rig.partition(1, epoch=1).publish(HALT, "BBB", "mine")
    await rig.turn()
    assert await rig.client.mget("halt:AAA", "halt:BBB") == [b'"new"', b'"mine"']
    await other.close()


async def test_nothing_is_written_while_the_lease_is_in_doubt(rig: Rig) -> None:
    """Not even tried: what waits leaves when it was renewed."""
    valid = False
    output = rig.partition(valid=lambda: valid)
    output.publish(HALT, "AAPL", 1)
    output.push(HALTS, "", 1)
    await rig.turn()
    assert await rig.client.keys("*") == []
    valid = True
    await rig.turn()
    assert await rig.client.exists("halt:AAPL", "halts") == 2


async def test_a_resume_after_the_successor_is_refused(rig: Rig, redis_server: RedisServer) -> None:
    """A process frozen in the midst of a replay lets nothing out."""
    other = Rig(redis_server)
    other.partition(epoch=3).push(HALTS, "", {"symbol": "B"})
    await other.turn()
    late = rig.partition(epoch=2)
    late.silent = True
    late.push(HALTS, "", {"symbol": "A"})
    assert await rig.writer.resume(late, 0) == 0
    await rig.turn()
    assert late.refused
    assert streamed(redis_server, "halts") == [(1, {"symbol": "B"})]
    await other.close()
