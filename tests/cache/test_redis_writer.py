"""What leaves a process over Redis: cadence, order, bounds. Against a real server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mdp.cache.redis_output import RedisOutput
from mdp.feeds import (
    AGG,
    HALT,
    HALTS,
    LOD_ALERT,
    LULD,
    QUOTE,
    SCANNER,
    TOP_VOLUME,
    TRADES,
)
from tests.ports import free_port
from tests.redis_server import RedisServer

from .writer_rig import WALL_MS, Hearer, Rig, Values, Walk, messages, streamed, unaccounted

# Values and messages of symbols.


async def test_only_what_is_wanted_is_sent(rig: Rig, hearer: Hearer) -> None:
    """A quote that nobody subscribes to goes nowhere; one that somebody does carries its place."""
    output = rig.partition(epoch=7)
    rig.interest.heard("+quote:AAPL")
    output.publish(QUOTE, "AAPL", {"close": 1})
    output.publish(QUOTE, "MSFT", {"close": 2})
    await rig.turn()
    assert messages(hearer) == [("quote:AAPL", 7, 1, {"close": 1})]


async def test_states_are_conflated_and_numbered_without_holes(rig: Rig, hearer: Hearer) -> None:
    """Of the values between two turns the newest leaves; the next one has the next number."""
    output = rig.partition()
    rig.interest.heard("+quote:*")
    for close in range(5):
        output.publish(QUOTE, "AAPL", close)
    await rig.turn(0.02)
    output.publish(QUOTE, "AAPL", 9)
    await rig.turn(0.02)
    assert messages(hearer) == [("quote:AAPL", 1, 1, 4), ("quote:AAPL", 1, 2, 9)]


async def test_raw_events_keep_their_order(rig: Rig, hearer: Hearer) -> None:
    """Trades are not conflated; the last one is found under the plain key, for 5 s."""
    output = rig.partition()
    rig.interest.heard("+stocks:trades:AAPL")
    for price in (1, 2, 3):
        output.publish(TRADES, "AAPL", {"price": price})
    await rig.turn()
    assert [(seq, value["price"]) for _, _, seq, value in messages(hearer)] == [(1, 1), (2, 2), (3, 3)]
    assert json.loads(await rig.client.get("stocks:trades:AAPL")) == {"price": 3}
    assert 0 < await rig.client.ttl("stocks:trades:AAPL") <= 5


async def test_the_present_value_comes_when_interest_begins(rig: Rig, hearer: Hearer) -> None:
    """At once, from the provider; also where others had the same interest already."""
    output = rig.partition()
    quotes = Values(output, QUOTE)
    quotes.held["AAPL"] = {"close": 1}
    rig.interest.heard("+quote:AAPL")
    await rig.turn(0.02)
    rig.interest.heard("+quote:AAPL")
    await rig.turn(0.02)
    assert messages(hearer) == [("quote:AAPL", 1, 1, {"close": 1}), ("quote:AAPL", 1, 2, {"close": 1})]


async def test_a_wish_for_all_brings_all_present_values(rig: Rig, hearer: Hearer) -> None:
    """However many there are; one turn takes a bounded share."""
    output = rig.partition()
    quotes = Values(output, QUOTE)
    quotes.held.update({f"S{n}": n for n in range(1_100)})
    rig.interest.heard("+quote:*")
    assert await rig.writer.flush()
    assert len(messages(hearer)) == 500
    await rig.turn()
    assert len(messages(hearer)) == 600


async def test_providers_that_work_in_steps_are_waited_for(rig: Rig, hearer: Hearer) -> None:
    """As that of raw feeds, which looks through frames."""
    output = rig.partition()

    def provide(_symbol: str) -> Any:
        yield
        return {"close": 3}

    output.provide(AGG, provide)
    rig.interest.heard("+stocks:agg:AAPL")
    await rig.turn()
    assert messages(hearer) == [("stocks:agg:AAPL", 1, 1, {"close": 3})]


async def test_each_partition_speaks_of_its_symbols_alone(rig: Rig, hearer: Hearer) -> None:
    """A wanted symbol that another partition owns is asked for there."""
    for number, symbol in enumerate(("AAA", "BBB")):
        output = rig.partition(number, owns=lambda name, mine=symbol: name == mine)
        output.provide(QUOTE, {"AAA": 0, "BBB": 1}.get)
    rig.interest.heard("+quote:AAA")
    rig.interest.heard("+quote:BBB")
    await rig.turn()
    assert sorted(messages(hearer)) == [("quote:AAA", 1, 1, 0), ("quote:BBB", 1, 1, 1)]


async def test_an_output_opened_later_knows_what_is_wanted(rig: Rig, hearer: Hearer) -> None:
    """A partition that was taken over publishes for those who subscribed before."""
    rig.interest.heard("+quote:AAPL")
    output = rig.partition()
    assert output.interest(QUOTE).symbols == {"AAPL"}
    output.publish(QUOTE, "AAPL", 1)
    await rig.turn()
    assert messages(hearer) == [("quote:AAPL", 1, 1, 1)]


async def test_analyzers_are_asked_while_somebody_subscribes_and_once_more(rig: Rig) -> None:
    """Who left must be noticed by those who keep books about it."""
    asked = []
    output = rig.partition()

    async def gather() -> None:
        asked.append(rig.time)

    output.gather = gather
    await rig.turn()
    rig.interest.heard("+quote:AAPL")
    await rig.turn()
    await rig.turn(20)  # what was heard has expired
    await rig.interest.look()
    await rig.turn()
    await rig.turn()
    assert len(asked) == 3


# Plain keys.


async def test_a_walk_writes_and_deletes_plain_keys(rig: Rig) -> None:
    """With the feed's time to live; what is published of walked families is not written besides."""
    output, walk = rig.partition(), Walk()
    rig.writer.walk(output, walk)
    await rig.client.set("quote:GONE", "1")
    walk.todo = [(QUOTE, "AAPL", {"close": 1}), (QUOTE, "GONE", None)]
    output.publish(QUOTE, "MSFT", {"close": 2})
    await rig.turn()
    assert await rig.client.get("quote:AAPL") == b'{"close":1}'
    assert 0 < await rig.client.ttl("quote:AAPL") <= QUOTE.ttl_seconds
    assert await rig.client.exists("quote:GONE", "quote:MSFT") == 0
    assert walk.seconds == [1.0]


async def test_rare_states_are_kept_though_nobody_subscribes(rig: Rig) -> None:
    """Halts and limits of a symbol: analyzers publish them always, and they are found under their keys."""
    output = rig.partition()
    assert output.interest(HALT).all
    assert output.interest(LULD).all
    assert not output.interest(QUOTE).all
    output.publish(HALT, "AAPL", {"status": "halted"})
    output.publish(LULD, "AAPL", {"high_price": 1})
    await rig.turn()
    assert await rig.client.get("halt:AAPL") == b'{"status":"halted"}'
    assert await rig.client.get("stocks:luld:AAPL") == b'{"high_price":1}'


async def test_no_plain_keys_where_they_are_switched_off(redis_server: RedisServer) -> None:
    """Neither values nor lists; the streams that our own services read are written."""
    rig = Rig(redis_server, plain_keys=False)
    output, walk = rig.partition(), Walk()
    rig.writer.walk(output, walk)
    walk.todo = [(QUOTE, "AAPL", 1)]
    output.publish(HALT, "AAPL", 1)
    output.push(HALTS, "", {"event": "halted"})
    await rig.turn()
    assert await rig.client.exists("quote:AAPL", "halt:AAPL", "halts") == 0
    assert streamed(redis_server, "halts") == [(1, {"event": "halted"})]
    await rig.close()


async def test_plain_channels_carry_bare_payloads(redis_server: RedisServer) -> None:
    """For clients of the predecessor: values of symbols, of the market, and events."""
    rig, hearer = (
        Rig(redis_server, plain_channels=True),
        Hearer(redis_server, "quote:*", "halts", "scanners:*"),
    )
    output = rig.partition()
    rig.interest.heard("+quote:AAPL")
    output.publish(QUOTE, "AAPL", {"close": 1})
    output.push(HALTS, "", {"event": "halted"})
    rig.writer.open("publisher", 1).publish(TOP_VOLUME, "", [1])
    await rig.turn()
    assert sorted(hearer.heard()) == [
        ("halts", b'{"event":"halted"}'),
        ("quote:AAPL", b'{"close":1}'),
        ("scanners:top_volume", b"[1]"),
    ]
    hearer.close()
    await rig.close()


async def test_a_prefix_is_put_before_everything(redis_server: RedisServer) -> None:
    """Two platforms share a server without seeing each other."""
    rig = Rig(redis_server, prefix="x:")
    output = rig.partition()
    output.publish(HALT, "AAPL", 1)
    output.push(HALTS, "", 1)
    rig.writer.open("publisher", 1).publish(TOP_VOLUME, "", [1])
    await rig.turn()
    assert all(key.startswith(b"x:") for key in await rig.client.keys("*"))
    await rig.close()


# Values of the whole market.


async def test_a_board_is_written_with_its_place(rig: Rig, hearer: Hearer) -> None:
    """Key, place and message agree; a list that is a value stays one (GET, not LRANGE)."""
    output = rig.writer.open("publisher", 5)
    output.publish(TOP_VOLUME, "", [{"rank": 1}])
    await rig.turn()
    output.publish(TOP_VOLUME, "", [{"rank": 2}])
    await rig.turn()
    assert await rig.client.get("scanners:top_volume") == b'[{"rank":2}]'
    place = await rig.client.hgetall("mdp:place:{scanners:top_volume}")
    assert (place[b"epoch"], place[b"seq"]) == (b"5", b"2")
    assert int(place[b"ts"]) > WALL_MS
    assert [(epoch, seq) for _, epoch, seq, _ in messages(hearer)] == [(5, 1), (5, 2)]


async def test_a_partition_cannot_speak_for_the_market(rig: Rig) -> None:
    """A feed of the whole market that nobody merges is counted, not written by halves."""
    output = rig.partition()
    output.publish(SCANNER, "mine", 1)
    await rig.turn()
    assert output.counters.unmergeable == 1
    assert await rig.client.keys("scanners:*") == []


async def test_a_payload_that_is_no_json_costs_itself_alone(rig: Rig) -> None:
    """A defect of one analyzer."""
    output = rig.partition()
    output.publish(HALT, "AAA", object())
    output.publish(HALT, "BBB", 1)
    output.push(HALTS, "", object())
    output.push(HALTS, "", 2)
    await rig.turn()
    assert output.counters.unencodable == 2
    assert await rig.client.exists("halt:AAA") == 0
    assert await rig.client.exists("halt:BBB", "halts") == 2


# Clusters.


async def test_in_a_cluster_everything_is_the_same(tmp_path: Path) -> None:
    """Keys of one script share a slot; before values of symbols, which do not, the fence is looked at."""
    server = RedisServer(tmp_path, "--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    server.start()
    rigs = []
    try:
        server.form_cluster()
        for epoch in (2, 1):
            rig = Rig(server, cluster=True, prefix="x:")
            rigs.append(rig)
            output, walk = rig.partition(epoch=epoch, packers={TOP_VOLUME.name: bytes}), Walk()
            rig.writer.walk(output, walk)
            rig.interest.heard("+quote:AAPL")
            walk.todo = [(QUOTE, "AAPL", epoch), (QUOTE, "GONE", None)]
            output.publish(QUOTE, "AAPL", epoch)
            output.publish(TOP_VOLUME, "", b"%d" % epoch)
            output.push(HALTS, "", epoch)
            board = rig.writer.open("publisher", epoch)
            board.publish(TOP_VOLUME, "", [epoch])
            await rig.turn()
            assert (output.refused, board.refused) == (epoch == 1, epoch == 1)
        client = rigs[0].client
        assert await client.get("x:quote:AAPL") == b"2"
        assert await client.lrange("x:halts", 0, -1) == [b"2"]
        assert await client.get("x:scanners:top_volume") == b"[2]"
        assert await client.hvals("x:mdp:parts:{x:scanners:top_volume}") == [b"2"]
        hearer = Hearer(server, "x:mdp:bus:*")
        rigs[0].interest.heard("+quote:AAPL")
        rigs[0].writer.outputs["partition:0"].publish(QUOTE, "AAPL", 3)
        await rigs[0].turn()
        assert hearer.heard()[0][1].endswith(b"\n3")
        hearer.close()
        await client.sadd("x:mdp:interest:one", "quote:MSFT")
        await rigs[0].interest.look()
        assert "MSFT" in rigs[0].interest.of(QUOTE).symbols
    finally:
        for rig in rigs:
            await rig.close()
        server.stop()


# Ends.


async def test_what_waits_is_written_before_an_output_is_closed(rig: Rig) -> None:
    """A graceful hand-over loses nothing; afterwards nothing of it leaves."""
    output = rig.partition()
    for n in range(1_200):
        output.push(LOD_ALERT, "", n)
    output.publish(HALT, "AAPL", 1)
    await rig.writer.close(output)
    assert await rig.client.xlen("mdp:events:{daily_range_lod_alert}") == 1_200
    assert await rig.client.exists("halt:AAPL") == 1
    assert rig.writer.outputs == {}
    assert (output.counters.written, output.counters.left) == (1_200, 0)


async def test_raw_events_leave_before_an_output_is_closed(rig: Rig, hearer: Hearer) -> None:
    """Also where nothing else waits."""
    rig.interest.heard("+stocks:trades:AAPL")
    output = rig.partition()
    await rig.turn()
    for n in range(3):
        output.publish(TRADES, "AAPL", n)
    output.values.clear()
    await rig.writer.close(output)
    assert [value for *_, value in messages(hearer)] == [0, 1, 2]
    assert (output.counters.raw_sent, output.counters.left, unaccounted(output)) == (3, 0, 0)


async def test_what_waits_where_a_lease_is_lost_is_counted(rig: Rig, hearer: Hearer) -> None:
    """Of lists and raw: at a close without a lease, refused by the fence, replaced under a new lease."""
    rig.interest.heard("+stocks:trades:AAPL")
    opened = []

    def busy(epoch: int, **options: Any) -> RedisOutput:
        output = rig.partition(epoch=epoch, **options)
        opened.append(output)
        for n in range(2):
            output.publish(TRADES, "AAPL", n)
        for n in range(3):
            output.push(HALTS, "", n)
        return output

    lost = busy(5, valid=lambda: False)
    await rig.writer.close(lost)
    assert (lost.counters.left, rig.writer.waiting) == (5, 0)
    other = rig.partition(epoch=9)
    other.publish(HALT, "AAPL", 1)
    other.push(HALTS, "", "x")
    await rig.turn()
    refused = busy(6)
    rig.time += 1
    await rig.writer.flush()
    assert refused.refused
    assert (refused.counters.left, refused.counters.raw_sent, refused.counters.written) == (5, 0, 0)
    assert messages(hearer) == []
    replaced = busy(7)
    opened += [rig.partition(epoch=10), other]
    assert replaced.counters.left == 5
    for output in opened:
        assert unaccounted(output) == 0
    totals = rig.writer.totals()
    assert (totals.events, totals.raw) == (10, 6)
    assert (totals.written, totals.raw_sent, totals.dropped, totals.left) == (1, 0, 0, 15)


async def test_closing_does_not_wait_for_a_redis_that_is_gone(rig: Rig, redis_server: RedisServer) -> None:
    """Stopping must end in time, whatever is lost by it."""
    output = rig.partition()
    output.push(HALTS, "", 1)
    redis_server.kill()
    await rig.writer.close(output, 0.2)
    assert rig.writer.outputs == {}
    assert (output.counters.left, unaccounted(output)) == (1, 0)


async def test_the_stage_writes_by_itself(redis_server: RedisServer) -> None:
    """Started, it needs nobody; stopped, it has written what waited."""
    rig = Rig(redis_server)
    output = rig.partition()
    await rig.writer.start()
    output.push(HALTS, "", 1)
    await rig.writer.stop()
    assert await rig.client.llen("halts") == 1
    await rig.writer.stop()
    await rig.close()
