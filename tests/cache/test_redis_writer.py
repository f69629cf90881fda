"""What leaves a process over Redis: cadence, order, fences, bounds, outages. Against a real server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from redis.exceptions import RedisError

from mdp.cache.redis_link import REDIS_ERRORS
from mdp.cache.redis_output import RedisOutput
from mdp.feeds import (
    AGG,
    HALT,
    HALTS,
    HOD_ALERT,
    LOD_ALERT,
    LULD,
    QUOTE,
    SCANNER,
    TOP_VOLUME,
    TRADES,
    UNKNOWN,
    Family,
)
from tests.redis_server import RedisServer

from .writer_rig import WALL_MS, Hearer, Rig, Values


@pytest.fixture
async def rig(redis_server: RedisServer) -> AsyncIterator[Rig]:
    made = Rig(redis_server)
    yield made
    await made.close()


@pytest.fixture
def hearer(redis_server: RedisServer) -> Iterator[Hearer]:
    made = Hearer(redis_server, "mdp:bus:*")
    yield made
    made.close()


def messages(hearer: Hearer) -> list[tuple[str, int, int, Any]]:
    """(feed, epoch, seq, payload) of what was heard on the bus."""
    found = []
    for channel, data in hearer.heard():
        head, _, body = data.partition(b"\n")
        epoch, seq, _ = head.split()
        found.append((channel.removeprefix("mdp:bus:"), int(epoch), int(seq), json.loads(body)))
    return found


def listed(server: RedisServer, key: str) -> list[Any]:
    """A list as an existing client reads it."""
    with server.client() as client:
        items: Any = client.lrange(key, 0, -1)
    return [json.loads(item) for item in items]


def streamed(server: RedisServer, feed: str) -> list[tuple[int, Any]]:
    """(seq, payload) of an event feed's stream; its epoch is one."""
    with server.client() as client:
        entries: Any = client.xrange(f"mdp:events:{{{feed}}}")
    assert len({fields[b"e"] for _, fields in entries}) <= 1
    return [(int(fields[b"s"]), json.loads(fields[b"d"])) for _, fields in entries]


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


class Walk:
    """Hands out what it was told to."""

    families = frozenset({QUOTE.name})

    def __init__(self) -> None:
        self.todo: list[tuple[Family, str, Any]] = []
        self.seconds: list[float] = []
        self.forgotten = 0

    def due(self, seconds: float) -> list[tuple[Family, str, Any]]:
        self.seconds.append(seconds)
        todo, self.todo = self.todo, []
        return todo

    def forget(self) -> None:
        self.forgotten += 1


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
    run = rig.client.evalsha
    await rig.turn()  # the script is known, and the fence

    async def lose(*args: Any) -> Any:
        await run(*args)
        raise ConnectionError("cut")

    output.push(HALTS, "", 0)
    await rig.turn()
    monkeypatch.setattr(rig.client, "evalsha", lose)
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


# Fences.


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


# Outages.


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


async def test_a_frozen_redis_costs_a_bounded_wait(rig: Rig, redis_server: RedisServer) -> None:
    """A turn ends with an error after the timeout; states are conflated meanwhile."""
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
    await rig.client.config_set("maxmemory", 0)
    await rig.turn()
    await rig.turn()
    assert await rig.client.exists("halt:AAPL") == 1
    assert streamed(redis_server, "halts") == [(1, 1)]
    assert walk.forgotten == 1
    assert messages(hearer) == []  # not told twice


async def test_a_read_only_redis_is_an_outage(rig: Rig, redis_server: RedisServer) -> None:
    """A replica after a failover refuses writes: nothing is lost that the bounds can hold."""
    output = rig.partition()
    await rig.turn()
    await rig.client.replicaof("127.0.0.1", "1")
    output.publish(HALT, "AAPL", 1)
    output.push(HALTS, "", 1)
    rig.time += 1
    with pytest.raises(RedisError):
        await rig.writer.flush()
    assert not rig.writer.health().ok
    await rig.client.replicaof("NO", "ONE")
    await rig.turn()
    await rig.turn()
    assert await rig.client.get("halt:AAPL") == b"1"
    assert streamed(redis_server, "halts") == [(1, 1)]


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


async def test_closing_does_not_wait_for_a_redis_that_is_gone(rig: Rig, redis_server: RedisServer) -> None:
    """Stopping must end in time, whatever is lost by it."""
    output = rig.partition()
    output.push(HALTS, "", 1)
    redis_server.kill()
    await rig.writer.close(output, 0.2)
    assert rig.writer.outputs == {}


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
