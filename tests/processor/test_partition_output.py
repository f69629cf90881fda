"""A partition's way out, with real analyzers and a real Redis: what is there is what one process says."""

from __future__ import annotations

import json
from typing import Any

from mdp.analyzers.leaderboards import BOARDS
from mdp.feeds import HALTS_ACTIVE, MARKET_STATUS, TTA_ALL
from mdp.processor.parts import read
from tests.analyzers.halt_rig import luld
from tests.analyzers.rig import bar, trade
from tests.cache.writer_rig import Hearer, Rig
from tests.redis_server import RedisServer

from .partition_rig import NOON, Markets, Partition


async def pass_time(rig: Rig, seconds: int = 8) -> None:
    """Turns of a tenth of a second."""
    for _ in range(10 * seconds):
        await rig.turn(0.1)


async def test_plain_keys_hold_what_one_process_says(rig: Rig) -> None:
    """For existing clients: GET of quotes, ranges, bars, statistics; whichever partition has the symbol."""
    market = Markets(rig)
    symbols = [f"S{n}" for n in range(40)]
    market.send(*[bar(symbol, NOON, 10 + n, o=10, av=n) for n, symbol in enumerate(symbols)])
    market.send(*[trade(symbol, NOON, 100, i=symbol) for symbol in symbols])
    await pass_time(rig)
    for symbol in symbols:
        for feed in ("quote:{}", "daily_range:{}", "stocks:agg:{}", "trade_stats:{}"):
            key = feed.format(symbol)
            assert await rig.client.get(key) == market.expected(key), key
    market.send(bar("S7", NOON + 1_000, 99, av=1_000))
    await pass_time(rig)
    assert await rig.client.get("quote:S7") == market.expected("quote:S7")


async def test_alerts_come_as_from_one_process(rig: Rig) -> None:
    """Each once, in order within a symbol; LRANGE gives the newest first."""
    market = Markets(rig)
    symbols = [f"S{n}" for n in range(10)]
    market.send(*[bar(symbol, NOON, 10, av=1) for symbol in symbols])
    for step in range(1, 4):
        market.send(*[bar(symbol, NOON + step * 1_000, 10 + step, av=1 + step) for symbol in symbols])
        await rig.turn(0.02)
    listed = [json.loads(item) for item in await rig.client.lrange("daily_range_hod_alert", 0, -1)]
    expected = json.loads(market.expected("daily_range_hod_alert"))
    assert len(listed) == 30
    assert [item["price"] for item in listed] == [item["price"] for item in expected]
    assert {json.dumps(item) for item in listed} == {json.dumps(item) for item in expected}


async def test_subscribers_get_what_changes_and_nobody_else_is_served(rig: Rig, hearer: Hearer) -> None:
    """Of two symbols with a bar, the wanted one's quote and range leave."""
    market = Markets(rig)
    rig.interest.heard("+quote:AAA")
    rig.interest.heard("+daily_range:AAA")
    market.send(bar("AAA", NOON, 10, av=1), bar("BBB", NOON, 10, av=1))
    await rig.turn(0.02)
    heard = dict(hearer.heard())
    assert heard.keys() == {"mdp:bus:quote:AAA", "mdp:bus:daily_range:AAA"}
    for channel, data in heard.items():
        assert data.partition(b"\n")[2] == market.expected(channel.removeprefix("mdp:bus:"))


async def test_who_follows_all_last_bars_is_told_what_came_during_a_replay(rig: Rig, hearer: Hearer) -> None:
    """A state: the newest one has to come, though nothing may follow it."""
    market = Markets(rig, 1)
    output = market.partitions[0].out.output
    rig.interest.heard("+stocks:agg:*")
    output.silent = True
    market.send(bar("AAA", NOON, 10, av=1))
    await rig.turn(0.02)
    assert hearer.heard() == []
    output.loud()
    await rig.turn(0.02)
    ((channel, data),) = hearer.heard()
    assert channel == "mdp:bus:stocks:agg:AAA"
    assert data.partition(b"\n")[2] == market.expected("stocks:agg:AAA")


async def test_raw_trades_leave_in_order_while_wanted(rig: Rig, hearer: Hearer) -> None:
    """Every one of them, numbered."""
    market = Markets(rig)
    rig.interest.heard("+stocks:trades:AAA")
    market.send(*[trade("AAA", NOON, 1 + n, i=str(n)) for n in range(5)])
    await rig.turn(0.02)
    sizes = [json.loads(data.partition(b"\n")[2])["size"] for _, data in hearer.heard()]
    assert sizes == [1, 2, 3, 4, 5]


async def parts_of(rig: Rig, feed: str) -> dict[str, Any]:
    """What the partitions contribute."""
    raw = await rig.client.hgetall(f"mdp:parts:{{{feed}}}")
    return {name.decode(): read(data).content for name, data in raw.items()}


async def test_every_partition_contributes(rig: Rig) -> None:
    """To boards, top trades, halts and the status, though nobody subscribes to any."""
    market = Markets(rig)
    symbols = [f"S{n}" for n in range(40)]
    market.send(*[bar(symbol, NOON, 10, o=9, av=5) for symbol in symbols])
    market.send(*[trade(symbol, NOON, 100, i=symbol) for symbol in symbols])
    market.send(*[luld(symbol, NOON, 17) for symbol in symbols])
    market.flush()
    await rig.turn()
    names = {f"partition:{n}" for n in range(4)}
    for board in BOARDS:
        parts = await parts_of(rig, board.name)
        assert parts.keys() == names
        if board.name == "scanners:top_volume":
            assert sorted(row[0] for _, rows in parts.values() for row in rows) == sorted(symbols)
    assert sum(content[1] for content in (await parts_of(rig, TTA_ALL.name)).values()) == 40
    assert sum(map(len, (await parts_of(rig, HALTS_ACTIVE.name)).values())) == 40
    status = await parts_of(rig, MARKET_STATUS.name)
    assert sum(content["symbols"] for content in status.values()) == 40
    assert {content["day"] for content in status.values()} == {"2024-03-05"}
    assert await rig.client.keys("tta:*") == []  # the publisher's to write


async def test_a_status_counts_events_a_second(rig: Rig) -> None:
    """Between two of them, by the process's own clock."""
    market = Markets(rig, 1)
    await rig.turn()
    market.send(*[bar("AAA", NOON, 10, av=1)] * 6)
    await rig.turn(2)
    (content,) = (await parts_of(rig, MARKET_STATUS.name)).values()
    assert content["rate"] == 3


async def test_halts_are_kept_and_announced(rig: Rig) -> None:
    """The list of events, the symbol's state under its key."""
    market = Markets(rig)
    market.send(luld("AAA", NOON, 17))
    await rig.turn()
    (event,) = await rig.client.lrange("halts", 0, -1)
    assert json.loads(event)["event"] == "halted"
    assert json.loads(await rig.client.get("halt:AAA"))["status"] == "halted"


async def test_a_halt_that_ended_meanwhile_is_not_left_over(rig: Rig, redis_server: RedisServer) -> None:
    """The predecessor's part names it; the successor, which replayed the end in silence, sets it right."""
    market = Markets(rig, 1)
    market.send(luld("AAA", NOON, 17))
    await rig.turn()
    assert [len(rows) for rows in (await parts_of(rig, HALTS_ACTIVE.name)).values()] == [1]
    other = Rig(redis_server)
    Partition(other, 0, 1, epoch=2)
    await other.turn()
    assert await parts_of(rig, HALTS_ACTIVE.name) == {"partition:0": []}
    redis_server.reset_commands()
    await other.turn()
    assert redis_server.commands()["evalsha"] == 2  # values, the status's part: it is not said again
    await other.close()


async def test_as_many_rows_as_the_publisher_asks_for(rig: Rig) -> None:
    """Told in Redis, taken within a second; the part says how many were asked for."""
    market = Markets(rig, 1)
    market.send(*[bar(f"S{n:02}", NOON, 10, o=9, av=100 - n) for n in range(30)])
    await rig.client.hset("mdp:limits:{scanners:top_volume}", "partition:0", "4")
    await rig.turn()
    market.flush()
    await rig.turn()
    (content,) = (await parts_of(rig, "scanners:top_volume")).values()
    assert content[0] == 4
    assert [row[0] for row in content[1]] == ["S00", "S01", "S02", "S03"]


async def test_a_successor_takes_over_in_silence(rig: Rig, redis_server: RedisServer) -> None:
    """It replays what the predecessor took, and announces only what that one did not."""
    market = Markets(rig, 1)
    bars = [bar("AAA", NOON + n * 1_000, 10 + n, av=1 + n) for n in range(4)]
    for one in bars[:3]:
        market.send(one)
    await rig.turn()
    market.partitions[0].valid = False  # killed
    other = Rig(redis_server)
    heir = Partition(other, 0, 1, epoch=2)
    heir.out.output.silent = True
    heir.send(*[{"ev": "Q", "sym": name, "t": NOON} for name in ("ZZX", "ZZY", "ZZZ")])
    for one in bars:
        heir.send(one)
    market.one.send(bars[3])
    assert await heir.out.resume(0) == 1
    await pass_time(other)
    alerts = [json.loads(item)["price"] for item in await rig.client.lrange("daily_range_hod_alert", 0, -1)]
    assert alerts == [13, 12, 11]
    assert await rig.client.get("quote:AAA") == market.expected("quote:AAA")
    # The predecessor wakes up.
    market.partitions[0].valid = True
    market.partitions[0].send(bar("AAA", NOON + 9_000, 50, av=9))
    await rig.turn()
    assert market.partitions[0].refused == 1
    assert await rig.client.llen("daily_range_hod_alert") == 3
    await heir.out.close()
    assert other.writer.outputs == {}
    await other.close()


async def test_a_second_of_sixteen_partitions_takes_few_commands(rig: Rig, redis_server: RedisServer) -> None:
    """Whatever their number: a script a turn, one for each feed with parts, and the values themselves.

    Commands inside of scripts count, as INFO commandstats counts them. At 200,000 events/s, 200 commands a
    second are one for 1,000 events.
    """
    market = Markets(rig, 16)
    symbols = [f"S{n}" for n in range(160)]
    market.send(*[bar(symbol, NOON, 10, o=9, av=5) for symbol in symbols])
    market.send(*[trade(symbol, NOON, 100, i=symbol) for symbol in symbols])
    market.flush()
    await rig.turn(0.02)
    kept = sum(partition.out.output.counters.kept for partition in market.partitions)
    redis_server.reset_commands()
    for turn in range(50):
        rig.time += 0.02
        await rig.writer.flush()
        if turn % 12 == 0:
            market.flush()
            await rig.writer.parts.flush()
    calls = redis_server.commands()
    kept = sum(partition.out.output.counters.kept for partition in market.partitions) - kept
    assert calls.pop("set") == kept
    assert kept <= 4 * len(symbols) / 5 + 4 * 16  # each value once in five seconds
    ours = {name: calls[name] for name in calls.keys() & {"evalsha", "eval", "hmget", "hset", "expire"}}
    assert sum(ours.values()) <= 300
    assert sum(calls.values()) - sum(ours.values()) <= 20
