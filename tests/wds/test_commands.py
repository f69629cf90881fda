"""What messages of version 1 do and are answered, with real sockets (version 2: `test_version2`)."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from mdp import feeds
from mdp.cache.base import Entry
from mdp.cache.memory import MemoryBus, MemoryCache
from mdp.config import WdsConfig
from mdp.wds import protocol
from mdp.wds.server import WidgetDataService
from tests.wds.doubles import ask, receive, running

ROWS = [{"rank": rank, "symbol": f"S{rank}"} for rank in range(1, 61)]


async def test_a_subscription_brings_payloads_as_they_are() -> None:
    """No envelope in version 1: the very JSON of the payload."""
    async with running() as env:
        client = await env.subscriber("quote:AAPL")
        env.bus.publish(feeds.QUOTE, "AAPL", {"symbol": "AAPL", "close": 1.5})
        env.bus.publish(feeds.QUOTE, "MSFT", {"symbol": "MSFT"})
        env.bus.publish(feeds.QUOTE, "AAPL", {"symbol": "AAPL", "close": 100})
        message = await client.receive(timeout=20)
        while message.data != '{"symbol":"AAPL","close":100}':
            assert message.data == '{"symbol":"AAPL","close":1.5}'
            message = await client.receive(timeout=20)


async def test_wildcards_deliver_and_overlaps_do_not_repeat() -> None:
    """Every symbol's quote, once, also with the symbol subscribed by name."""
    async with running() as env:
        client = await env.subscriber("quote:*", "quote:AAPL", "alerts")
        env.bus.publish(feeds.QUOTE, "AAPL", "a")
        env.bus.publish(feeds.QUOTE, "X:BTCUSD", "b")
        env.bus.publish(feeds.ALERTS, "", "end")
        assert [await receive(client) for _ in range(3)] == ["a", "b", "end"]


async def test_unsubscribing_stops_and_is_always_answered() -> None:
    """Also for what was never subscribed."""
    async with running() as env:
        client = await env.subscriber("quote:A", "alerts")
        answer = {"status": "unsubscribed", "feed": "quote:A"}
        assert await ask(client, action="unsubscribe", feed="quote:A") == answer
        assert await ask(client, action="unsubscribe", feed="quote:A") == answer
        env.bus.publish(feeds.QUOTE, "A", "no")
        env.bus.publish(feeds.ALERTS, "", "yes")
        assert await receive(client) == "yes"


async def test_subscribing_twice_is_answered_twice_and_delivers_once() -> None:
    """Idempotent, as a client that is not sure may do it again."""
    async with running() as env:
        client = await env.subscriber("alerts", "alerts")
        env.bus.publish(feeds.ALERTS, "", 1)
        env.bus.publish(feeds.ALERTS, "", 2)
        assert [await receive(client), await receive(client)] == [1, 2]


async def test_get_reads_values_lists_and_nothing() -> None:
    """A board is cut to the limit, a list is newest first, an empty one a list, nothing is null."""
    async with running() as env:
        env.cache.set(feeds.TOP_GAINERS, "", ROWS)
        for number in range(5):
            env.cache.push(feeds.HALTS, "", number)
        env.cache.provide(feeds.QUOTE, lambda symbol: {"symbol": symbol} if symbol == "A" else None)
        client = await env.connect()

        async def get(key: str, **options: int) -> Any:
            answer = await ask(client, action="get", cache=key, **options)
            assert list(answer) == ["cache", "data"]
            assert answer["cache"] == key
            return answer["data"]

        assert await get("scanners:top_gainers", limit=50) == ROWS[:50]
        assert await get("scanners:top_gainers", limit=0) == ROWS
        assert await get("scanners:top_gainers") == ROWS
        assert await get("halts", limit=2) == [4, 3]
        assert await get("halts", limit=100) == [4, 3, 2, 1, 0]
        assert await get("alerts") == []
        assert await get("quote:A", limit=1) == {"symbol": "A"}
        assert await get("quote:B") is None


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("not json", "not_json"),
        (b'{"action":"get","cache":"halts"}', "binary"),
        ("[1]", "not_object"),
        ('{"action":"subscribe","feed":5}', "bad_feed"),
        ('{"action":"subscribe","feed":"quote:A*"}', "unknown_feed"),
        ('{"action":"get","cache":"quote:*"}', "wildcard_in_get"),
        ('{"action":"get","cache":"halts","limit":-5}', "bad_limit"),
        ('{"action":"jump"}', None),
    ],
)
async def test_nonsense_is_answered_and_the_connection_stays(message: str | bytes, code: str | None) -> None:
    """Every refusal is counted by its code, and the next message works."""
    async with running() as env:
        client = await env.connect()
        await (client.send_bytes(message) if isinstance(message, bytes) else client.send_str(message))
        answer = await receive(client)
        assert answer.get("code") == code
        assert answer["status"] == ("error" if code else "invalid action")
        assert env.service.counters.refused == {code or "invalid_action": 1}
        assert await ask(client, action="get", cache="quote:A") == {"cache": "quote:A", "data": None}


async def test_subscriptions_are_limited() -> None:
    """Past the limit an error; unsubscribing makes room; what is subscribed may be repeated."""
    async with running(WdsConfig(max_subscriptions=2)) as env:
        client = await env.subscriber("quote:A", "quote:B")
        assert (await ask(client, action="subscribe", feed="quote:C"))["code"] == "too_many_subscriptions"
        assert (await ask(client, action="subscribe", feed="quote:A"))["status"] == "subscribed"
        await ask(client, action="unsubscribe", feed="quote:A")
        assert (await ask(client, action="subscribe", feed="quote:C"))["status"] == "subscribed"


async def test_a_cache_that_fails_is_an_error_for_one_get_only() -> None:
    """The client learns that it failed, not the back end's words."""

    class Broken(MemoryCache):
        async def get(self, key: str, limit: int = 0) -> Entry | None:
            raise ConnectionError("redis://secret@host is down")

    bus = MemoryBus(epoch=1)
    service = WidgetDataService(WdsConfig(port=0), bus, Broken(bus))
    await service.start()
    async with aiohttp.ClientSession() as session:
        client = await session.ws_connect(f"http://127.0.0.1:{service.port}/ws")
        answer = await ask(client, action="get", cache="halts")
        assert answer == {
            "status": "error",
            "code": "unavailable",
            "message": protocol.ERRORS["unavailable"],
        }
        assert (await ask(client, action="subscribe", feed="halts"))["status"] == "subscribed"
    await service.stop()


async def test_without_authentication_auth_is_answered_authorized() -> None:
    """Whatever the key: existing clients send one always."""
    async with running() as env:
        client = await env.connect()
        assert await ask(client, action="auth", api_key="anything") == {"status": "authorized"}
