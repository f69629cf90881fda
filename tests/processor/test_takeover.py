"""What a successor knows that no checkpoint a second could hold: windows, repeats, last events."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import msgspec
import pytest

from mdp.analyzers import raw_feeds
from mdp.analyzers.trade_ledger import TradeLedger
from mdp.feeds import QUOTES, TRADES
from mdp.processor import recall
from mdp.processor.checkpoint import unpack
from mdp.processor.engine import Engine
from tests.cache.relays import relay_to
from tests.processor.processors import KEYS, OneProcess, Processor, as_json, rounded
from tests.processor.test_partitions import (
    OPEN,
    PARTITIONS,
    REFERENCES,
    SYMBOLS,
    market,
    processed,
    running,
    same,
    settled,
)
from tests.redis_server import RedisServer
from tests.waiting import eventually

BUSY = SYMBOLS[:3]
STRAY_AT, STRAY_AHEAD_MS = 32, 75_000  # of its second; beyond the 60 s that a market clock believes
_BEGIN = OPEN - 20_000


def frames_with_repeats(seconds: int) -> list[str]:
    """The usual market, and more than 1,000 trades of some symbols, trades that are sent again after up to
    30 s, and events of a time that the clock does not believe yet."""
    rng = random.Random(11)
    sent: list[dict[str, Any]] = []
    frames = []
    for second, frame in enumerate(market(seconds)):
        at = _BEGIN + second * 1_000
        events = json.loads(frame)
        events += [
            {"ev": "T", "sym": symbol, "x": 4, "z": 3, "i": f"b{second}.{number}", "q": number}
            | {"p": 10 + rng.randrange(100) / 100, "s": rng.randrange(1, 500), "t": at + number}
            for symbol in BUSY
            for number in range(25)
        ]
        if second == STRAY_AT:
            ahead = at + STRAY_AHEAD_MS
            bar = {"o": 7, "c": 7, "h": 7, "l": 7, "v": 5, "av": 5, "s": ahead, "e": ahead + 1_000}
            events.append({"ev": "T", "sym": "STRAY", "i": "stray", "p": 7.5, "s": 70, "t": ahead, "x": 4})
            events.append({"ev": "A", "sym": "STRAY", **bar})
        repeats = rng.sample(sent, min(len(sent), 6))
        sent = [*sent, *[event for event in events if event["ev"] == "T"]][-3_000:]
        frames.append(json.dumps([*events, *repeats]))
    return frames


def trades_of(one: Any) -> dict[str, Any]:
    """Windows and day statistics of an engine, with what was left out."""
    found: dict[str, Any] = {}
    for symbol, known in TradeLedger.of(one.market).symbols.items():
        found[f"day {symbol}"] = rounded(as_json(known.day(symbol)))
        found[f"window {symbol}"] = {} if known.empty else as_json(known.window())
    return found


def trades_of_all(nodes: list[Processor]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for node in nodes:
        for one in node.partitions.working.values():
            found |= trades_of(one.engine)
    return found


async def saved(server: RedisServer, node: Processor) -> None:
    """Until all that was processed so far is in checkpoints."""

    def all_saved() -> bool:
        with server.client() as client:
            found = {number: client.get(KEYS.checkpoint(number)) for number in node.partitions.working}
        return all(
            data is not None and unpack(data).head.processed == node.partitions.working[number].processed
            for number, data in found.items()
        )

    await eventually(all_saved)


@pytest.mark.parametrize("end", ["crash", "stop"])
async def test_top_trades_repeats_and_waiting_events_survive(redis_server: RedisServer, end: str) -> None:
    """Full windows, repeats of trades from before the cut, a trade and a bar ahead of the clock: the same."""
    frames = frames_with_repeats(90)
    one = OneProcess(REFERENCES)
    one.send(frames)
    assert one.market.trades.ignored["duplicate"] > 300
    assert one.market.symbols["STRAY"].bar is not None, "its time came"
    async with running(redis_server, 2) as (listener, nodes):
        sent = await listener.send(frames[:40])
        await saved(redis_server, nodes[0])
        sent += await listener.send(frames[40:46])
        gone = nodes.pop(0)
        await (gone.crash() if end == "crash" else gone.stop())
        sent += await listener.send(frames[46:60])
        await settled(nodes)
        sent += await listener.send(frames[60:])
        await processed(nodes, sent)

        expected, found = trades_of(one), trades_of_all(nodes)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert found[key] == value, key
        assert found[f"window {BUSY[0]}"]["trade_count"] == 1_000
        await same(redis_server, nodes, one)


async def test_every_hand_over_keeps_what_came_before_the_one_before(redis_server: RedisServer) -> None:
    """Three owners one after the other: each goes on with segments that the first one wrote."""
    frames = frames_with_repeats(60)
    one = OneProcess(REFERENCES)
    one.send(frames)
    async with running(redis_server, 1) as (listener, nodes):
        sent = await listener.send(frames[:20])
        await saved(redis_server, nodes[0])
        for number, end in enumerate((40, 60)):
            nodes.append(Processor(redis_server, f"next{number}", PARTITIONS, references=REFERENCES))
            await nodes[-1].start()
            await settled(nodes)
            await nodes.pop(0).crash()
            sent += await listener.send(frames[end - 20 : end])
            await settled(nodes)
        await processed(nodes, sent)

        assert trades_of_all(nodes) == trades_of(one)


async def test_windows_survive_a_redis_that_comes_back_empty(redis_server: RedisServer) -> None:
    """From memory; and from the hash that was written anew since, by a successor."""
    frames = frames_with_repeats(60)
    one = OneProcess(REFERENCES)
    one.send(frames)
    async with running(redis_server, 1) as (listener, nodes):
        sent = await listener.send(frames[:50])
        await processed(nodes, sent)
        redis_server.restart()
        await eventually(lambda: nodes[0].acquisitions >= 2 * PARTITIONS)
        await settled(nodes)
        sent += await listener.send(frames[50:])
        await processed(nodes, sent)
        await saved(redis_server, nodes[0])

        assert trades_of_all(nodes) == trades_of(one)
        nodes.append(Processor(redis_server, "next", PARTITIONS, references=REFERENCES))
        await nodes[1].start()
        await settled(nodes)
        await nodes.pop(0).crash()
        await settled(nodes)
        assert trades_of_all(nodes) == trades_of(one)


async def last(nodes: list[Processor], family: Any, symbol: str) -> Any:
    """What the owner of a symbol says when it is asked for a present value."""
    for node in nodes:
        for output in node.writer.outputs.values():
            if output.owns(symbol) and family.name in output.providers:
                steps = output.providers[family.name](symbol)
                try:
                    while True:
                        next(steps)
                except StopIteration as answer:
                    return answer.value
    raise AssertionError("nobody owns it")


async def test_last_trades_and_quotes_are_found_in_entries_also_by_a_successor(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No process but the listener has the provider's frames."""
    # A busy machine takes longer than they last.
    lasting = msgspec.structs.replace(QUOTES, ttl_seconds=60.0)
    monkeypatch.setattr(recall, "QUOTES_FEED", lasting)
    searched = tuple(
        (queue, kind, msgspec.structs.replace(family, ttl_seconds=60.0))
        for queue, kind, family in raw_feeds._SEARCHED
    )
    monkeypatch.setattr(raw_feeds, "_SEARCHED", searched)
    frame = [
        {"ev": "T", "sym": "S1", "i": "1", "p": 9.5, "s": 10, "t": OPEN, "x": 4},
        {"ev": "T", "sym": "S1", "i": "2", "p": 9.75, "s": 20, "t": OPEN + 1, "x": 4},
        {"ev": "Q", "sym": "S1", "bp": 9.7, "ap": 9.8, "t": OPEN + 2},
        {"ev": "T", "sym": "S10", "i": "3", "p": 1.5, "s": 10, "t": OPEN + 3, "x": 4},
    ]
    async with running(redis_server, 1) as (listener, nodes):
        await listener.send([json.dumps(frame)])
        await processed(nodes, 4)
        for _ in range(2):
            trade = as_json(await last(nodes, TRADES, "S1"))
            assert (trade["symbol"], trade["price"], trade["timestamp"]) == ("S1", 9.75, OPEN + 1)
            assert as_json(await last(nodes, QUOTES, "S1"))["bid_price"] == 9.7
            assert as_json(await last(nodes, TRADES, "S10"))["price"] == 1.5
            assert await last(nodes, QUOTES, "S10") is None
            assert await last(nodes, TRADES, "S2") is None

            nodes.append(Processor(redis_server, "next", PARTITIONS, references=REFERENCES))
            await nodes[1].start()
            await settled(nodes)
            await nodes.pop(0).stop()
            await settled(nodes)


async def test_a_last_value_is_had_over_redis_without_a_subscription(redis_server: RedisServer) -> None:
    """Through the bus' and cache's end of a `wds`, from whoever owns the symbol."""
    frame = [
        {"ev": "T", "sym": "S1", "i": "1", "p": 9.5, "s": 10, "t": OPEN, "x": 4},
        {"ev": "Q", "sym": "S2", "bp": 9.7, "ap": 9.8, "t": OPEN + 2},
    ]
    async with running(redis_server, 2) as (listener, nodes), relay_to(redis_server, prefix="t:") as relay:
        await listener.send([json.dumps(frame)])
        await processed(nodes, 2)

        trade, quote = await relay.cache.get("stocks:trades:S1"), await relay.cache.get("stocks:quotes:S2")

        assert trade is not None
        assert quote is not None
        assert trade.value["price"] == 9.5
        assert quote.value["bid_price"] == 9.7
        assert await relay.cache.get("stocks:trades:S2") is None
        assert relay.asker.unheard == 0


@pytest.mark.parametrize("again", [False, True])
async def test_who_goes_on_from_memory_tells_what_waited_for_redis(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """Its state has those alerts already, so that no replay brings them again; each is told exactly once.

    Also where the lease is lost again before the partition is taken.
    """
    frames = market(60)
    one = OneProcess(REFERENCES)
    one.send(frames)
    async with running(redis_server, 1) as (listener, nodes):
        [node] = nodes
        gate, flush = asyncio.Event(), node.writer.flush

        async def gated() -> bool:
            await gate.wait()
            return await flush()

        monkeypatch.setattr(node.writer, "flush", gated)
        await processed(nodes, await listener.send(frames))
        outputs = [one.out.output for one in node.partitions.working.values()]
        assert sum(output.waiting for output in outputs) > 0
        with redis_server.client() as client:
            client.delete(*[KEYS.checkpoint(number) for number in range(PARTITIONS)])
            for number in range(PARTITIONS):
                for stream in KEYS.streams(number):
                    client.xtrim(stream, maxlen=0, approximate=False)  # nothing can be read again

        left = set(range(PARTITIONS)) if again else set()

        def lose(partition: int, _engine: Engine) -> None:
            if partition in left:
                left.remove(partition)
                node.spread.leases[partition]._lose("not renewed")

        node.partitions.on_ready.append(lose)
        for lease in node.spread.leases.values():
            lease._lose("not renewed")
        gate.set()
        await eventually(lambda: not left)
        await settled(nodes)

        await same(redis_server, nodes, one)


async def test_who_lost_the_lease_while_loading_does_not_begin_under_the_next_one(
    redis_server: RedisServer,
) -> None:
    """Another acquisition loads anew: what was loaded before may be old, and its epoch is fenced off."""
    async with running(redis_server, 1) as (_, nodes):
        partitions = nodes[0].partitions
        lease = nodes[0].spread.leases[3]

        def lost_and_taken_again(partition: int, _engine: Engine) -> None:
            if partition == 3:
                lease.epoch += 1

        partitions.drop(3)
        await partitions.take(3, lease)
        assert 3 in partitions.working
        partitions.drop(3)
        partitions.on_ready.append(lost_and_taken_again)
        await partitions.take(3, lease)
        assert lease.valid()
        assert 3 not in partitions.working


async def test_a_partition_is_worked_on_though_its_lease_was_late_while_it_was_loaded(
    redis_server: RedisServer,
) -> None:
    """Past its margin it may still be renewed, and is: nobody would take the partition a second time."""
    async with running(redis_server, 1) as (listener, nodes):
        partitions, lease = nodes[0].partitions, nodes[0].spread.leases[3]

        def late(partition: int, _engine: Engine) -> None:
            if partition == 3:
                lease._until = 0.0

        partitions.drop(3)
        partitions.on_ready.append(late)
        await partitions.take(3, lease)

        assert lease.epoch
        await lease.renew()
        await listener.send(frames_with_repeats(5))
        await eventually(lambda: 3 in nodes[0].live)


@pytest.mark.parametrize("newer", ["memory", "checkpoint"])
async def test_what_was_repaired_and_told_does_not_go_back_where_the_same_processor_goes_on(
    redis_server: RedisServer, newer: str
) -> None:
    """A repair is in no stream, and was told before it is in a checkpoint: who still knows it keeps it.

    But not where another wrote a checkpoint since: that one is newer than what we remember.
    """
    frames = market(30)
    async with running(redis_server, 1) as (listener, nodes):
        [node] = nodes
        sent = await listener.send(frames[:20])
        await processed(nodes, sent)
        await saved(redis_server, node)
        [number, one] = next(iter(node.partitions.working.items()))
        symbol, state = next(iter(one.engine.market.symbols.items()))
        before = state.accumulated_volume
        newest = state.bar
        assert newest is not None
        assert newest.end_timestamp is not None
        bar = msgspec.structs.replace(
            newest,
            start_timestamp=newest.start_timestamp + 1_000,
            end_timestamp=newest.end_timestamp + 1_000,
            accumulated_volume=before + 1_000,
        )
        one.engine.refill([bar])  # the provider's history had it before the stream
        repaired = state.accumulated_volume
        assert repaired > before
        if newer == "checkpoint":  # of a later acquisition than ours
            one.epoch -= 1
        node.spread.leases[number]._lose("not renewed")  # before the next checkpoint
        await eventually(lambda: number in node.partitions.working)

        again = node.partitions.working[number]
        assert again is not one
        found = again.engine.market.symbols[symbol].accumulated_volume
        assert found == (repaired if newer == "memory" else before)
        await settled(nodes)
        sent += await listener.send(frames[20:])
        await processed(nodes, sent)
        if newer == "memory":
            whole = OneProcess(REFERENCES)
            whole.send(frames)
            assert trades_of_all(nodes) == trades_of(whole)
