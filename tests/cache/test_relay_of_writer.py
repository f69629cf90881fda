"""What one process writes another one reads: the writer of results and the relay, over a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from mdp.cache.base import Message
from mdp.cache.redis_link import Link
from mdp.cache.relay import Relay
from mdp.feeds import HALTS, QUOTE, TOP_VOLUME, TRADES
from tests.redis_server import RedisServer

from .writer_rig import Rig, Values


class Pair:
    """A process that writes and one that reads."""

    def __init__(self, server: RedisServer) -> None:
        self.rig = Rig(server, flush_seconds=0.005)
        self.relay = Relay(
            self.rig.client, self.rig.keys, "reader", Link("relay", server.config()), wall_ms=self.rig.wall_ms
        )
        self.messages: list[Message] = []

    async def start(self) -> None:
        await self.rig.interest.start()
        await self.rig.writer.start()
        await self.relay.start()
        await self.until(lambda: self.relay.health().ok)

    async def until(self, happened: Callable[[], bool]) -> None:
        """Wait, while time goes on for the writer."""
        async with asyncio.timeout(60):
            while not happened():
                self.rig.time += 0.1
                await asyncio.sleep(0.005)

    def told(self) -> list[tuple[str, int, int, Any]]:
        return [(message.feed, message.epoch, message.seq, message.value) for message in self.messages]


@pytest.fixture
async def pair(redis_server: RedisServer) -> AsyncIterator[Pair]:
    made = Pair(redis_server)
    await made.start()
    yield made
    await made.relay.stop()
    await made.rig.interest.stop()
    await made.rig.close()


async def test_a_subscriber_gets_the_present_value_and_then_changes(pair: Pair) -> None:
    """Nobody published before somebody subscribed; the first value comes by itself."""
    output = pair.rig.partition(epoch=7)
    values = Values(output, QUOTE)
    values.held["AAPL"] = {"close": 1}
    pair.relay.bus.subscribe("quote:AAPL", pair.messages.append)
    await pair.until(lambda: bool(pair.messages))
    output.publish(QUOTE, "AAPL", {"close": 2})
    await pair.until(lambda: len(pair.messages) == 2)
    assert pair.told() == [("quote:AAPL", 7, 1, {"close": 1}), ("quote:AAPL", 7, 2, {"close": 2})]
    entry = await pair.relay.cache.get("quote:AAPL")
    assert entry is not None
    assert (entry.value, entry.epoch, entry.seq) == ({"close": 2}, 7, 2)


async def test_trades_come_in_order_while_subscribed(pair: Pair) -> None:
    """By wildcard, too."""
    output = pair.rig.partition()
    pair.relay.bus.subscribe("stocks:trades:*", pair.messages.append)
    await pair.until(lambda: output.interest(TRADES).all)
    for price in range(5):
        output.publish(TRADES, "AAPL", {"price": price})
    await pair.until(lambda: len(pair.messages) == 5)
    assert [message.value["price"] for message in pair.messages] == [0, 1, 2, 3, 4]


async def test_events_are_heard_and_listed(pair: Pair) -> None:
    """With the feed's own places, whichever partition said them."""
    first, second = pair.rig.partition(0), pair.rig.partition(1)
    pair.relay.bus.subscribe("halts", pair.messages.append)
    first.push(HALTS, "", {"n": 1})
    await pair.until(lambda: len(pair.messages) == 1)
    second.push(HALTS, "", {"n": 2})
    await pair.until(lambda: len(pair.messages) == 2)
    assert [(seq, value["n"]) for _, _, seq, value in pair.told()] == [(1, 1), (2, 2)]
    entry = await pair.relay.cache.get("halts")
    assert entry is not None
    assert ([item["n"] for item in entry.value], entry.seq) == ([2, 1], 2)


async def test_a_board_is_read_with_its_place_by_who_comes_later(pair: Pair) -> None:
    """Published before anybody subscribed: the key and its place are the snapshot."""
    output = pair.rig.writer.open("publisher", 9)
    output.publish(TOP_VOLUME, "", [{"rank": 1}])
    await pair.until(lambda: not output.whole and output.counters.sent == 1)
    entry = await pair.relay.cache.get("scanners:top_volume")
    assert entry is not None
    assert (entry.value, entry.epoch, entry.seq) == ([{"rank": 1}], 9, 1)
    pair.relay.bus.subscribe("scanners:top_volume", pair.messages.append)
    output.publish(TOP_VOLUME, "", [{"rank": 2}])
    await pair.until(lambda: output.counters.sent == 2)
    entry = await pair.relay.cache.get("scanners:top_volume")
    assert entry is not None
    assert entry.value == [{"rank": 2}]
