"""Event feeds in Redis: order, bounds, exactly once; and what a replay lets out. Against a real server."""

from __future__ import annotations

from typing import Any

import pytest

from mdp.cache.redis_link import REDIS_ERRORS
from mdp.cache.redis_scripts import Script
from mdp.feeds import (
    HALTS,
    HOD_ALERT,
    QUOTE,
    UNKNOWN,
)
from tests.redis_server import RedisServer

from .writer_rig import Hearer, Rig, listed, messages, streamed, unaccounted

# Events.


async def test_events_go_to_stream_and_list(rig: Rig, redis_server: RedisServer) -> None:
    """In order, numbered from 1, one after another whoever appends; the list is newest first."""
    first, second = rig.partition(0), rig.partition(1)
    first.push(HOD_ALERT, "", {"n": 1})
    second.push(HOD_ALERT, "", {"n": 2})
    first.push(HOD_ALERT, "", {"n": 3})
    await rig.turn()
    second.push(HOD_ALERT, "", {"n": 4})
    await rig.turn()
    entries = streamed(redis_server, "daily_range_hod_alert")
    assert [seq for seq, _ in entries] == [1, 2, 3, 4]
    numbers = [value["n"] for _, value in entries]
    assert numbers.index(1) < numbers.index(3) < numbers.index(4)
    assert [value["n"] for value in listed(redis_server, "daily_range_hod_alert")] == numbers[::-1]
    assert 0 < await rig.client.ttl("daily_range_hod_alert") <= HOD_ALERT.ttl_seconds


async def test_lists_and_streams_are_capped(rig: Rig, redis_server: RedisServer) -> None:
    """A list at its feed's length, the stream (approximately) at 10,000."""
    output = rig.partition()
    for start in range(0, 12_000, 4_000):
        for n in range(start, start + 4_000):
            output.push(UNKNOWN, "", n)
        while output.batches:
            await rig.turn()
    assert listed(redis_server, "unknown") == list(range(11_999, 10_999, -1))
    assert 10_000 <= await rig.client.xlen("mdp:events:{unknown}") < 10_300


async def test_a_batch_whose_answer_was_lost_is_not_appended_twice(
    rig: Rig, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script ran, the connection broke before we heard of it: the same items come once."""
    output = rig.partition()
    run = Script.run
    await rig.turn()  # the script is known, and the fence

    async def lose(*args: Any) -> Any:
        await run(*args)
        raise ConnectionError("cut")

    output.push(HALTS, "", 0)
    await rig.turn()
    monkeypatch.setattr(Script, "run", lose)
    output.push(HALTS, "", 1)
    output.push(HALTS, "", 2)
    with pytest.raises(ConnectionError):
        await rig.writer.flush()
    monkeypatch.undo()
    output.push(HALTS, "", 3)
    await rig.turn()
    await rig.turn()
    assert streamed(redis_server, "halts") == [(1, 0), (2, 1), (3, 2), (4, 3)]


async def test_events_wait_for_redis_up_to_a_bound(rig: Rig, redis_server: RedisServer) -> None:
    """The oldest are dropped, and counted; the others follow in order once it is back."""
    output = rig.partition()
    await rig.turn()
    redis_server.kill()
    for n in range(10_300):
        output.push(UNKNOWN, "", n)
        if n == 500:
            with pytest.raises(REDIS_ERRORS):
                await rig.writer.flush()
    redis_server.start()
    while output.batches:
        await rig.turn()
    assert output.counters.dropped == 300
    assert (output.counters.written, unaccounted(output)) == (10_000, 0)
    assert [value for _, value in streamed(redis_server, "unknown")] == list(range(300, 10_300))


async def test_a_feed_whose_counter_went_back_has_a_new_epoch(rig: Rig, redis_server: RedisServer) -> None:
    """Redis came back without its last writes: the same number must not name two events."""
    output = rig.partition()
    for n in range(3):
        output.push(HALTS, "", n)
    await rig.turn()
    epoch = await rig.client.hget("mdp:counter:{halts}", "e")
    await rig.client.hset("mdp:counter:{halts}", "s", "1")
    output.push(HALTS, "", 3)
    await rig.turn()
    assert int(await rig.client.hget("mdp:counter:{halts}", "e")) > int(epoch)
    assert await rig.client.hget("mdp:counter:{halts}", "s") == b"1"


# Replays.


def alert(symbol: str, price: float, **changes: Any) -> dict[str, Any]:
    return {
        "symbol": symbol,
        "session": "regular",
        "direction": "high",
        "price": price,
        "timestamp": 1.0,
    } | changes


async def test_a_replay_lets_out_only_what_the_history_lacks(rig: Rig, redis_server: RedisServer) -> None:
    """Alerts are told by what they announce, not by numbers that may differ after a replay."""
    before = rig.partition(epoch=1)
    before.push(HOD_ALERT, "", alert("AAPL", 1, relative_volume=0.5))
    before.push(HOD_ALERT, "", alert("AAPL", 2))
    await rig.turn()
    after = rig.partition(epoch=2)
    after.silent = True
    after.push(HOD_ALERT, "", alert("AAPL", 1, relative_volume=0.6))
    after.push(HOD_ALERT, "", alert("AAPL", 2))
    after.push(HOD_ALERT, "", alert("AAPL", 3))
    after.push(HALTS, "", {"symbol": "AAPL", "event": "halted", "halt_timestamp": 5})
    await rig.turn()
    assert len(streamed(redis_server, "daily_range_hod_alert")) == 2
    assert await rig.writer.resume(after, 0) == 2
    await rig.turn()
    prices = [value["price"] for _, value in streamed(redis_server, "daily_range_hod_alert")]
    assert prices == [1, 2, 3]
    assert len(streamed(redis_server, "halts")) == 1
    assert not after.silent


async def test_events_that_are_equal_are_counted(rig: Rig, redis_server: RedisServer) -> None:
    """The same unknown message twice is two events: each in the history stands for one of the replay."""
    rig.partition(epoch=1).push(UNKNOWN, "", {"reason": "type"})
    await rig.turn()
    after = rig.partition(epoch=2)
    after.silent = True
    for _ in range(2):
        after.push(UNKNOWN, "", {"reason": "type"})
    assert await rig.writer.resume(after, 0) == 1


async def test_silence_is_told_to_nobody(rig: Rig, hearer: Hearer) -> None:
    """States of a replay reach no subscriber; at its end the present values do."""
    rig.interest.heard("+quote:AAPL")
    output = rig.partition()
    output.silent = True
    output.provide(QUOTE, lambda _symbol: 5)
    output.publish(QUOTE, "AAPL", 1)
    await rig.turn()
    assert messages(hearer) == []
    await rig.writer.resume(output, 0)
    await rig.turn()
    assert messages(hearer) == [("quote:AAPL", 1, 1, 5)]
