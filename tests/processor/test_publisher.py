"""The publisher: out of parts in Redis it makes what one process would say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from mdp.analyzers.leaderboards import BOARDS
from mdp.feeds import MARKET_STATUS
from mdp.processor.parts import SCHEMA, Part
from mdp.processor.publisher import Contributors, Publisher
from mdp.queues.entry import partition_of
from tests.analyzers.halt_rig import luld
from tests.analyzers.rig import at, bar, trade
from tests.cache.writer_rig import Hearer, Rig
from tests.redis_server import RedisServer

from .partition_rig import NOON, Markets


class Lease:
    """One that is gained and lost when told to."""

    name = "publisher"

    def __init__(self) -> None:
        self.epoch = 0
        self.held = False
        self.refusals = 0
        self.on_gained: list[Callable[[int], None]] = []
        self.on_lost: list[Callable[[str], None]] = []

    def valid(self) -> bool:
        return self.held

    def refused(self) -> None:
        self.refusals += 1

    def gain(self, epoch: int) -> None:
        self.epoch, self.held = epoch, True
        for gained in self.on_gained:
            gained(epoch)

    def lose(self) -> None:
        self.epoch, self.held = 0, False
        for lost in self.on_lost:
            lost("taken")


def listener_fields(fields: dict[bytes, bytes]) -> tuple[dict[str, Any], float | None]:
    """As the roles read the listener's hash."""
    lag = fields.get(b"lag_ms")
    return {"feed_state": fields.get(b"state", b"").decode()}, None if lag is None else float(lag)


class Place:
    """A publisher in a process of its own."""

    def __init__(self, server: RedisServer, epoch: int = 1, **options: Any) -> None:
        self.rig = Rig(server)
        self.lease = Lease()
        self.publisher = Publisher(
            self.rig.writer,
            self.rig.client,
            self.rig.keys,
            self.lease,
            listener_fields=listener_fields,
            link=self.rig.link,
            clock=self.rig.clock,
            **options,
        )
        if epoch:
            self.lease.gain(epoch)

    async def round(self, seconds: float = 1.0) -> None:
        """A second of its life."""
        await self.publisher.round()
        await self.rig.turn(seconds)


@pytest.fixture
async def place(redis_server: RedisServer) -> AsyncIterator[Place]:
    made = Place(redis_server)
    yield made
    await made.publisher.stop()
    await made.rig.close()


def busy(rig: Rig, partitions: int = 4) -> Markets:
    """A market of sixty symbols with bars, trades and halts."""
    market = Markets(rig, partitions)
    symbols = [f"S{n:02}" for n in range(60)]
    market.send(*[bar(s, NOON, 10 + n % 7, o=10, av=1 + n % 11) for n, s in enumerate(symbols)])
    market.send(*[trade(s, NOON, 1 + n % 5, i=s) for n, s in enumerate(symbols)])
    market.send(*[luld(s, NOON, 17) for s in symbols[:5]])
    market.flush()
    return market


async def test_everything_is_as_one_process_says(rig: Rig, place: Place) -> None:
    """Boards with ties, top trades, each under its plain key for GET."""
    market = busy(rig)
    await rig.turn()
    await place.round()
    for board in BOARDS:
        assert await rig.client.get(board.name) == market.expected(board.name), board.name
    key = "tta:all_symbols:widget"
    assert json.loads(await rig.client.get(key)) == json.loads(market.expected(key))
    assert await rig.client.get("tta:S04:widget") == market.expected("tta:S04:widget")
    halted = json.loads(await rig.client.get("halts:active"))
    assert [row["symbol"] for row in halted] == [f"S{n:02}" for n in range(5)]
    assert 0 < await rig.client.ttl("tta:S04:widget") <= 60


async def test_the_status_of_all(rig: Rig, place: Place) -> None:
    """Sums of partitions, the newest clock, the listener's word, the calendar's fields, scanners' fields."""
    busy(rig)
    await rig.client.hset("mdp:listener", mapping={"state": "live", "lag_ms": "12.4"})
    scanner = rig.writer.open(
        "scanner", 3, packers={"market:status": lambda v: msgspec.msgpack.encode([SCHEMA, 3, 1, v])}
    )
    scanner.publish(MARKET_STATUS, "", {"new_highs": 7})
    await rig.turn()
    await place.round()
    status = json.loads(await rig.client.get("market:status"))
    assert status["symbols"] == 60
    assert status["trading_day"] == "2024-03-05"
    assert status["market_time"] == NOON
    assert (status["session"], status["next_session"]) == ("regular", "after_hours")
    assert (status["feed_state"], status["lag_ms"], status["new_highs"]) == ("live", 12, 7)
    assert status["events_per_second"] > 0
    assert status["stale_partitions"] == []
    assert status["warming_up"] is False


async def test_before_anything_contributes(place: Place) -> None:
    """A status that says so; no empty boards, which would look like a market without leaders."""
    await place.round()
    status = json.loads(await place.rig.client.get("market:status"))
    assert (status["session"], status["trading_day"], status["symbols"]) == ("closed", None, 0)
    assert await place.rig.client.keys("scanners:*") == []


async def test_a_board_is_published_when_it_changed(
    rig: Rig, place: Place, redis_server: RedisServer
) -> None:
    """The status every second, a board whose parts are the same not again; each with its place."""
    market = busy(rig)
    await rig.turn()
    hearer = Hearer(redis_server, "mdp:bus:scanners:top_volume", "mdp:bus:market:status")
    await place.round()
    await place.round()
    heads = [(channel, data.split()[:2]) for channel, data in hearer.heard()]
    assert [channel for channel, _ in heads].count("mdp:bus:scanners:top_volume") == 1
    assert [head for channel, head in heads if channel.endswith("status")] == [[b"1", b"1"], [b"1", b"2"]]
    market.send(bar("S00", NOON + 1_000, 10, av=1_000))
    market.flush()
    await rig.turn()
    await place.round()
    assert [data.split()[:2] for _, data in hearer.heard()][-1] == [b"1", b"2"]
    assert json.loads(await rig.client.get("scanners:top_volume"))[0]["symbol"] == "S00"
    hearer.close()


async def test_partitions_are_asked_for_fewer_rows(rig: Rig, place: Place) -> None:
    """As many as they had in the board, and some; the board stays what it is."""
    market = Markets(rig, 4)
    market.send(*[bar(f"S{n:04}", NOON, 10, o=10, av=1 + n % 13) for n in range(1_500)])
    market.flush()
    await rig.turn()
    await place.round()
    limits = await rig.client.hgetall("mdp:limits:{scanners:top_volume}")
    assert len(limits) == 4
    assert 500 < sum(map(int, limits.values())) < 800
    await rig.turn()
    market.send(bar("S0000", NOON + 1_000, 10, av=5_000))
    market.flush()
    await rig.turn()
    await place.round()
    assert await rig.client.get("scanners:top_volume") == market.expected("scanners:top_volume")


async def test_who_falls_out_of_the_hundred_is_deleted(rig: Rig, place: Place) -> None:
    """`tta:{S}:widget` exists for the hundred with the most volume."""
    market = Markets(rig)
    market.send(*[trade(f"S{n:03}", NOON, 1_000 - n, i="1") for n in range(101)])
    market.flush()
    await rig.turn()
    await place.round()
    assert await rig.client.exists("tta:S099:widget", "tta:S100:widget") == 1
    market.send(trade("S100", NOON, 5_000, i="2"))
    market.flush()
    await rig.turn()
    for _ in range(5):
        await place.round()
    assert await rig.client.exists("tta:S099:widget") == 0
    assert await rig.client.exists("tta:S100:widget") == 1


async def test_subscribers_to_a_top_trade_get_it_at_once(
    rig: Rig, place: Place, redis_server: RedisServer
) -> None:
    """When interest begins, and when it changes."""
    busy(rig)
    await rig.turn()
    await place.round()
    hearer = Hearer(redis_server, "mdp:bus:tta:S04:widget")
    place.rig.interest.heard("+tta:S04:widget")
    await place.rig.turn(0.02)
    assert len(hearer.heard()) == 1
    hearer.close()


# Silence, epochs, days.


async def test_a_silent_partition_is_told_and_its_rows_stay(rig: Rig, place: Place) -> None:
    """After ten seconds without a word: rows say that they are old; back again, they do not."""
    market = busy(rig, 2)
    await rig.turn()
    await place.round()
    market.partitions[1].valid = False
    for _ in range(11):
        await rig.turn()
        await place.round()
    status = json.loads(await rig.client.get("market:status"))
    assert status["stale_partitions"] == [1]
    rows = json.loads(await rig.client.get("scanners:top_volume"))
    assert len(rows) == 60
    here = set(market.partitions[1].market.symbols)
    assert {row["symbol"] for row in rows if row["stale"]} == here
    assert "1" in place.publisher.health().detail
    market.partitions[1].valid = True
    await rig.turn()
    await place.round()
    await place.round()
    rows = json.loads(await rig.client.get("scanners:top_volume"))
    assert not any(row["stale"] for row in rows)


async def test_parts_of_a_lower_epoch_are_ignored(rig: Rig, place: Place) -> None:
    """Redis came back with an old one: what was seen of the new owner counts."""
    market = busy(rig, 1)
    await rig.turn()
    await place.round()
    before = await rig.client.get("scanners:top_volume")
    old = msgspec.msgpack.encode([SCHEMA, 0, 1, [500, []]])
    await rig.client.hset("mdp:parts:{scanners:top_volume}", "partition:0", old)
    await place.round()
    assert await rig.client.get("scanners:top_volume") == before
    assert place.publisher.refused["epoch"] >= 1
    assert market.partitions[0].refused == 0


async def test_parts_nobody_can_read_cost_themselves_alone(rig: Rig, place: Place) -> None:
    """One of a newer version, one that is broken: the others make the board."""
    market = busy(rig, 4)
    await rig.turn()
    key = "mdp:parts:{scanners:top_volume}"
    newer = msgspec.msgpack.encode([SCHEMA + 1, 9, 1, {}])
    await rig.client.hset(key, mapping={"partition:0": newer, "partition:1": b"\xc1"})
    await place.round()
    rows = json.loads(await rig.client.get("scanners:top_volume"))
    expected = {s for p in market.partitions[2:] for s in p.market.symbols}
    assert {row["symbol"] for row in rows} == expected
    assert (place.publisher.refused["schema"], place.publisher.refused["broken"]) == (1, 1)


async def test_a_publisher_steps_aside_for_a_newer_version_that_lives(rig: Rig, place: Place) -> None:
    """Unreadable parts that change are of one who could publish all; those that lie there are not."""
    busy(rig, 2)
    await rig.turn()
    key = "mdp:parts:{scanners:top_volume}"
    for number, refusals in ((1, 0), (1, 0), (2, 1), (2, 1), (3, 2)):
        newer = msgspec.msgpack.encode([SCHEMA + 1, 9, number, {}])
        await rig.client.hset(key, "partition:0", newer)
        await place.round()
        assert place.lease.refusals == refusals


async def test_yesterdays_rows_are_no_leaders_of_today(rig: Rig, place: Place) -> None:
    """A partition that is still in the day before does not count until it has today's."""
    market = busy(rig, 2)
    tomorrow = at(4, day=(2024, 3, 6))
    quotes = [{"ev": "Q", "sym": name, "t": tomorrow} for name in ("ZZX", "ZZY", "ZZZ")]
    ahead = market.partitions[0]
    ahead.send(*quotes)
    mine = next(s for s in (f"S{n:02}" for n in range(60)) if s in market.partitions[1].market.symbols)
    other = next(f"T{n}" for n in range(99) if partition_of(f"T{n}", 2) == 0)
    ahead.send(bar(other, tomorrow, 10, av=1))
    market.flush()
    await rig.turn()
    await place.round()
    rows = json.loads(await rig.client.get("scanners:top_volume"))
    assert [row["symbol"] for row in rows] == [other]
    assert mine not in {row["symbol"] for row in rows}


async def test_a_listener_that_says_nothing_is_down(place: Place) -> None:
    """Its last word is fifteen seconds old."""
    await place.rig.client.hset("mdp:listener", mapping={"state": "live"})
    await place.round(10)
    await place.round(10)
    assert json.loads(await place.rig.client.get("market:status"))["feed_state"] == "live"
    await place.round(1)
    assert json.loads(await place.rig.client.get("market:status"))["feed_state"] == "down"


async def test_partitions_that_nobody_owns_are_told(redis_server: RedisServer) -> None:
    """Ten seconds after the lease was gained: they never said a word."""
    place = Place(redis_server, partitions=3)
    for seconds, silent in ((9.0, []), (2.0, []), (0.0, [0, 1, 2])):
        await place.round(seconds)
        status = json.loads(await place.rig.client.get("market:status"))
        assert status["stale_partitions"] == silent
    await place.publisher.stop()
    await place.rig.close()


async def test_parts_of_another_number_of_partitions_are_left_out(
    rig: Rig, redis_server: RedisServer
) -> None:
    """They are of a time when the market was split otherwise; their symbols belong to others now."""
    market = busy(rig, 4)
    await rig.turn()
    place = Place(redis_server, partitions=3)
    await place.round()
    rows = json.loads(await rig.client.get("scanners:top_volume"))
    here = {symbol for partition in market.partitions[:3] for symbol in partition.market.symbols}
    assert {row["symbol"] for row in rows} == here
    await place.publisher.stop()
    await place.rig.close()


# Two of them.


async def test_only_the_holder_of_the_lease_publishes(
    rig: Rig, place: Place, redis_server: RedisServer
) -> None:
    """The standby writes nothing; the old one, woken up, is refused, and its successor's places go on."""
    busy(rig)
    await rig.turn()
    standby = Place(redis_server, epoch=0)
    await standby.round()
    assert standby.publisher.output is None
    assert standby.publisher.health().detail == "stands by"
    await place.round()
    standby.lease.gain(2)
    await standby.round()
    await place.round()
    output = place.publisher.output
    assert output is not None
    assert output.refused
    head = await rig.client.hgetall("mdp:place:{scanners:top_volume}")
    assert (head[b"epoch"], head[b"seq"]) == (b"2", b"1")
    place.lease.lose()
    assert place.publisher.output is None
    await standby.publisher.stop()
    await standby.rig.close()


async def test_boards_are_written_again_where_redis_forgot_them(rig: Rig, place: Place) -> None:
    """Emptied, with parts that come back unchanged: the boards come back."""
    market = busy(rig)
    await rig.turn()
    await place.round()
    await rig.client.flushall()
    for _ in range(4):
        await rig.turn()
        await place.round()
    assert await rig.client.get("scanners:top_volume") == market.expected("scanners:top_volume")


def test_signs_of_life_are_judged_by_the_own_clock() -> None:
    """A part that does not change is silence; any change, also a new owner's first part, is life."""
    now = 0.0
    contributors = Contributors(lambda: now)
    contributors.note("a", Part(1, 5, None))
    contributors.note("b", Part(1, 5, None))
    now = 10.5
    contributors.note("a", Part(1, 5, None))
    contributors.note("b", Part(2, 1, None))
    assert contributors.stale() == ["a"]


def test_a_predecessors_part_counts_until_its_successor_has_said_all() -> None:
    """Of a feed that the new owner has not spoken of; from its status on, which comes last, nothing does."""
    contributors = Contributors(lambda: 0.0)
    old, new = Part(1, 9, None), Part(2, 1, None)
    assert contributors.admit("market:status", "b", old)
    assert contributors.admit("one", "b", new)
    assert not contributors.admit("one", "b", old)
    assert contributors.admit("other", "b", old)
    assert contributors.admit("market:status", "b", new)
    assert not contributors.admit("other", "b", old)
    assert contributors.admit("other", "another", old)
    assert contributors.admit("other", "b", new)


async def test_the_stage_publishes_by_itself(rig: Rig, place: Place) -> None:
    """Started, it needs nobody; stopped twice, it is stopped."""
    busy(rig)
    await rig.turn()
    await place.publisher.start()
    async with asyncio.timeout(60):
        # Nobody says when.
        while not place.publisher.output.whole:  # type: ignore[union-attr] # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await place.publisher.stop()
    await place.publisher.stop()
    assert place.publisher.output is None
    assert await rig.client.exists("market:status") == 1


async def test_one_part_that_is_not_understood_costs_its_feed_alone(rig: Rig, place: Place) -> None:
    """A status without its fields: boards are published all the same, and the failure is counted."""
    busy(rig, 2)
    await rig.turn()
    odd = msgspec.msgpack.encode([SCHEMA, 9, 1, ["nothing of ours"]])
    await rig.client.hset("mdp:parts:{market:status}", "partition:0", odd)
    await place.round()
    assert json.loads(await rig.client.get("scanners:top_volume"))
    assert place.publisher.failures >= 1


async def test_a_refused_epoch_is_given_back(rig: Rig, place: Place) -> None:
    """Nobody else would publish while the lease is renewed."""
    busy(rig, 1)
    await rig.turn()
    await rig.client.hset(rig.keys.place("scanners:top_volume"), "epoch", 99)
    await place.round()
    assert place.lease.refusals == 1
