"""The service with real sockets: protocol, access, limits, stop."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import aiohttp
import pytest
import websockets
from hypothesis import given, settings
from hypothesis import strategies as st

from mdp import feeds
from mdp.cache.base import Entry
from mdp.cache.memory import MemoryBus, MemoryCache
from mdp.config import WdsConfig
from mdp.stage import Stage
from mdp.wds import protocol
from mdp.wds.server import WidgetDataService
from mdp.wds.values import entry_json
from tests.wds.doubles import Running, ask, receive, running, until

ROWS = [{"rank": rank, "symbol": f"S{rank}"} for rank in range(1, 61)]


async def closed(client: aiohttp.ClientWebSocketResponse) -> int:
    """The code that a client was closed with; texts before it are skipped."""
    while (message := await client.receive(timeout=20)).type is aiohttp.WSMsgType.TEXT:
        pass
    assert message.type is aiohttp.WSMsgType.CLOSE, message
    return int(message.data)


# Version 1


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


async def test_a_message_too_large_closes_with_1009() -> None:
    """And one of the largest size is read."""
    async with running(WdsConfig(max_message_bytes=1_000)) as env:
        client = await env.connect()
        await client.send_str(" " * 999)
        assert (await receive(client))["code"] == "not_json"
        await client.send_str("x" * 1_100)
        assert await closed(client) == protocol.TOO_BIG


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


async def test_a_long_list_is_encoded_in_steps_and_arrives_whole() -> None:
    """Steps at any length give the JSON of the whole."""
    for size in (0, 1, 499, 500, 501, 1_000, 1_203):
        data = await entry_json(Entry(list(range(size)), 1, 1), 0)
        assert data == str(list(range(size))).replace(" ", "").encode()


async def test_pings_are_answered_by_both_implementations() -> None:
    """A client of another library: ping and pong, subprotocol-free upgrade, close code on stop."""
    async with running() as env:
        url = env.url.replace("http", "ws")
        async with websockets.connect(url, compression="deflate") as client:
            await asyncio.wait_for(await client.ping(b"payload"), 20)
            await client.send('{"action":"subscribe","feed":"alerts"}')
            assert await client.recv() == '{"status":"subscribed","feed":"alerts"}'
            env.bus.publish(feeds.ALERTS, "", ["x" * 70_000])
            assert len(await client.recv()) == 70_004
            await env.service.stop()
            with pytest.raises(websockets.ConnectionClosed):
                await client.recv()
            assert client.close_code == protocol.GOING_AWAY


async def test_many_messages_in_one_go_are_all_answered_in_order() -> None:
    """A client may send without waiting."""
    async with running() as env:
        client = await env.connect()
        names = [f"quote:S{number}" for number in range(500)]
        for name in names:
            await client.send_json({"action": "get", "cache": name})
        assert [(await receive(client))["cache"] for _ in names] == names


# Access


async def test_without_authentication_auth_is_answered_authorized() -> None:
    """Whatever the key: existing clients send one always."""
    async with running() as env:
        client = await env.connect()
        assert await ask(client, action="auth", api_key="anything") == {"status": "authorized"}


async def test_a_valid_key_opens_and_may_be_repeated() -> None:
    """Any of the configured keys."""
    async with running(WdsConfig(auth_enabled=True, api_keys=["one", "two"])) as env:
        for key in ("one", "two"):
            client = await env.connect()
            assert await ask(client, action="auth", api_key=key) == {"status": "authorized"}
            assert (await ask(client, action="subscribe", feed="alerts"))["status"] == "subscribed"
            assert await ask(client, action="auth", api_key=key) == {"status": "authorized"}


async def test_an_invalid_key_is_told_and_closed() -> None:
    """The contract's answer, then the close; counted."""
    async with running(WdsConfig(auth_enabled=True, api_keys=["one"])) as env:
        client = await env.connect()
        assert await ask(client, action="auth", api_key="tow") == {"status": "invalid key"}
        assert await closed(client) == protocol.UNAUTHORIZED
        assert env.service.counters.auth_failures == 1


@pytest.mark.parametrize(
    "message",
    ['{"action":"subscribe","feed":"alerts"}', '{"action":"get","cache":"halts"}', "nonsense", b"one"],
)
async def test_before_auth_anything_else_is_refused_and_closed(message: str | bytes) -> None:
    """No data, no demand on the bus, no second try."""
    async with running(WdsConfig(auth_enabled=True, api_keys=["one"])) as env:
        client = await env.connect()
        await (client.send_bytes(message) if isinstance(message, bytes) else client.send_str(message))
        await client.send_json({"action": "auth", "api_key": "one"})
        assert (await receive(client))["code"] == "unauthorized"
        assert await closed(client) == protocol.UNAUTHORIZED
        assert not env.bus.interest(feeds.ALERTS)


async def test_authentication_has_its_time() -> None:
    """Who says nothing, or only pings, is closed."""
    config = WdsConfig(auth_enabled=True, api_keys=["one"])
    async with running(config, auth_seconds=0.05) as env:
        client = await env.connect()
        await client.ping()
        assert (await receive(client))["code"] == "unauthorized"
        assert await closed(client) == protocol.AUTH_TIMEOUT


async def test_keys_are_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither the right one nor what was tried."""
    async with running(WdsConfig(auth_enabled=True, api_keys=["hunter2"])) as env:
        for key in ("hunter2", "hunter3"):
            client = await env.connect()
            await ask(client, action="auth", api_key=key)
            await client.close()
        assert "hunter" not in repr(env.service.counters)
    out = capsys.readouterr()
    assert "hunter" not in out.out + out.err


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 101),
        ("http://127.0.0.1:{port}", 101),
        ("http://localhost:{port}", 101),
        ("http://page.example:8000", 101),
        ("https://allowed.example", 101),
        ("http://evil.example", 403),
        ("http://evil.example:{port}", 403),
        ("http://127.0.0.1:1", 403),
        ("null", 403),
    ],
)
async def test_origins(origin: str | None, status: int) -> None:
    """Decided before the upgrade, also on loopback; the page's own origin comes from the control plane."""
    config = WdsConfig(allowed_origins=["https://allowed.example"])
    async with running(config, own_origins=lambda: {"http://page.example:8000"}) as env:
        text = origin.format(port=env.service.port) if origin else None
        headers = {"Origin": text} if text else {}
        if status == 101:
            await env.connect(headers=headers)
            return
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            # A rebound name in Host must not help.
            await env.connect(headers={**headers, "Host": "evil.example"})
        assert refused.value.status == status
        assert env.service.counters.rejected == {"origin": 1}


async def test_listening_everywhere_our_own_address_is_an_own_origin() -> None:
    """A page from the address the connection came in at is ours, another is not."""
    async with running(WdsConfig(host="0.0.0.0", allow_anonymous=True)) as env:
        await env.connect(headers={"Origin": f"http://127.0.0.1:{env.service.port}"})
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await env.connect(headers={"Origin": f"http://10.1.2.3:{env.service.port}"})


async def test_clients_are_limited_before_the_upgrade() -> None:
    """503 with words; a place that is left is free again."""
    async with running(WdsConfig(max_clients=1)) as env:
        first = await env.connect()
        async with env.session.get(env.url, headers=UPGRADE) as response:
            assert response.status == 503
            assert "max_clients" in await response.text()
        await first.close()
        await until(lambda: not env.service.counters.clients)
        await env.subscriber("alerts")
        assert env.service.counters.rejected == {"full": 1}


UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


async def test_plain_http_is_told_what_is_spoken_here() -> None:
    """426 for a request without upgrade, 404 elsewhere."""
    async with running() as env:
        async with env.session.get(env.url) as response:
            assert response.status == 426
            assert "WebSocket" in await response.text()
        async with env.session.get(env.url.replace("/ws", "/")) as response:
            assert response.status == 404


# Life and end


async def test_leaving_ends_demand() -> None:
    """However a client leaves, the bus forgets its subscriptions."""
    async with running() as env:
        polite = await env.subscriber("quote:A", "quote:*")
        rude = await env.subscriber("quote:A")
        assert env.bus.interest(feeds.QUOTE).all
        await polite.close()
        assert rude._response.connection is not None
        transport = rude._response.connection.transport
        assert transport is not None
        transport.abort()
        await until(lambda: not env.service.counters.clients)
        assert not env.bus.interest(feeds.QUOTE)
        assert env.service.counters.subscriptions == 0


async def test_a_client_that_does_not_answer_pings_is_gone() -> None:
    """A peer behind a dead line holds its place for ping plus pong time only."""
    async with running(ping_seconds=0.05, pong_seconds=0.05, close_seconds=0.1) as env:
        alive = await env.subscriber("alerts")
        reading = asyncio.create_task(receive(alive))
        dead = await env.connect(autoping=False)
        assert (await dead.receive(timeout=20)).type is aiohttp.WSMsgType.PING
        assert await closed(dead) == protocol.NO_PONG
        env.bus.publish(feeds.ALERTS, "", "still here")
        assert await reading == "still here"
        assert env.service.counters.pong_timeouts == 1


async def to_the_end(client: aiohttp.ClientWebSocketResponse) -> list[Any]:
    """What a client still gets, the code of its close last."""
    found: list[Any] = []
    while (message := await client.receive(timeout=20)).type is aiohttp.WSMsgType.TEXT:
        found.append(int(message.data))
    return [*found, message.data]


async def test_stop_delivers_what_is_due_and_says_goodbye_to_all() -> None:
    """Published just before the stop: delivered, then 1001; new connections are refused."""
    async with running(WdsConfig(tick_ms=5_000)) as env:
        clients = [await env.subscriber("alerts") for _ in range(20)]
        env.bus.publish(feeds.ALERTS, "", 1)
        assert [await receive(client) for client in clients] == [1] * 20
        env.bus.publish(feeds.ALERTS, "", 2)
        reading = [asyncio.create_task(to_the_end(client)) for client in clients]
        await env.service.stop()
        assert [await task for task in reading] == [[2, protocol.GOING_AWAY]] * 20
        with pytest.raises(aiohttp.ClientConnectorError):
            await env.connect()
        assert env.service.counters.clients == 0
        assert env.service.counters.aborted == 0


async def test_stop_is_safe_before_start_and_twice() -> None:
    """A role that fails half-way stops what it never started."""
    bus = MemoryBus(epoch=1)
    service: Stage = (wds := WidgetDataService(WdsConfig(port=0), bus, MemoryCache(bus)))
    assert service.name == "wds"
    assert not service.health().ok
    await service.stop()
    await service.start()
    assert service.health().ok
    assert str(wds.port) in service.health().detail
    await service.stop()
    await service.stop()
    assert not service.health().ok


async def test_a_taken_port_is_an_error_at_once() -> None:
    """And leaves nothing running."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bus = MemoryBus(epoch=1)
        service = WidgetDataService(WdsConfig(port=taken.getsockname()[1]), bus, MemoryCache(bus))
        with pytest.raises(OSError, match="address already in use"):
            await service.start()
        assert not service.health().ok
        await service.stop()


async def test_counters_account_for_every_delivery() -> None:
    """What clients received is what was counted as delivered and answered."""
    async with running() as env:
        clients = [await env.subscriber("alerts") for _ in range(3)]
        for number in range(40):
            env.bus.publish(feeds.ALERTS, "", number)
            await asyncio.sleep(0)
        got = [[await receive(client) for _ in range(40)] for client in clients]
        assert got == [list(range(40))] * 3
        counters = env.service.counters
        assert (counters.published, counters.framed, counters.deliveries) == (40, 40, 120)
        assert (counters.clients, counters.clients_total, counters.subscriptions) == (3, 3, 3)
        assert (counters.messages_received, counters.answers) == (3, 3)


# Fuzz


MESSAGES = st.one_of(
    st.text(max_size=200),
    st.binary(max_size=200),
    st.builds(
        lambda action, name, value: f'{{"action":{action},"{name}":{value}}}',
        st.sampled_from(['"auth"', '"subscribe"', '"unsubscribe"', '"get"', "1", "null", "{}"]),
        st.sampled_from(["feed", "cache", "limit", "api_key"]),
        st.sampled_from(['"quote:*"', '"*"', '"halts"', '"quote:\\ud800"', "-1", "1e999", "[[]]", '"::::"'])
        | st.text(max_size=20),
    ),
)


@settings(deadline=None, max_examples=30)
@given(st.lists(MESSAGES, min_size=1, max_size=20))
def test_any_messages_get_an_answer_each_and_the_connection_survives(messages: list[str | bytes]) -> None:
    """One answer a message, whatever it is, and at the end the client is still served."""
    asyncio.run(_fuzz(messages))


async def _fuzz(messages: list[str | bytes]) -> None:
    async with running() as env:
        client = await env.connect()
        for message in messages:
            if isinstance(message, bytes):
                await client.send_bytes(message)
            else:
                await client.send_str(message.encode(errors="replace").decode())
        for _ in messages:
            answer = await receive(client)
            assert set(answer) & {"status", "data"}
        await _still_served(env)


@settings(deadline=None, max_examples=40)
@given(st.binary(min_size=1, max_size=300))
def test_any_bytes_on_the_wire_harm_nobody_else(data: bytes) -> None:
    """Broken frames end their own connection at most."""
    asyncio.run(_fuzz_wire(data))


async def _fuzz_wire(data: bytes) -> None:
    async with running(close_seconds=0.05) as env:
        reader, writer = await asyncio.open_connection("127.0.0.1", env.service.port)
        head = "".join(f"{name}: {value}\r\n" for name, value in UPGRADE.items())
        writer.write(f"GET /ws HTTP/1.1\r\nHost: localhost\r\n{head}\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        writer.write(data)
        await _still_served(env)
        writer.close()
        await until(lambda: env.service.counters.clients <= 1)


async def _still_served(env: Running) -> None:
    client = await env.subscriber("alerts")
    env.bus.publish(feeds.ALERTS, "", "served")
    assert await receive(client) == "served"
