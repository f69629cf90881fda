"""One connection from its first message to its close."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest
import websockets

from mdp import feeds
from mdp.config import WdsConfig
from mdp.wds import protocol
from tests.wds.doubles import ask, closed, receive, running
from tests.wds.wire import CLOSE, TEXT, Wire, frame


async def test_a_message_too_large_closes_with_1009() -> None:
    """And one of the largest size is read."""
    async with running(WdsConfig(max_message_bytes=1_000)) as env:
        client = await env.connect()
        await client.send_str(" " * 999)
        assert (await receive(client))["code"] == "not_json"
        await client.send_str("x" * 1_100)
        assert await closed(client) == protocol.TOO_BIG


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
    ("message", "answer"),
    [
        ({"action": "auth", "api_key": "one", "id": 7}, {"status": "authorized", "id": 7}),
        ({"action": "auth", "api_key": "tow", "id": "x"}, {"status": "invalid key", "id": "x"}),
        (
            {"action": "auth", "token": "no", "id": 8},
            {"status": "invalid token", "message": "tokens are not accepted here", "id": 8},
        ),
        (
            {"action": "subscribe", "feed": "alerts", "id": 9},
            {
                "status": "error",
                "code": "unauthorized",
                "message": protocol.ERRORS["unauthorized"],
                "id": 9,
            },
        ),
    ],
)
async def test_logins_of_version_2_are_answered_with_their_id(
    message: dict[str, Any], answer: dict[str, Any]
) -> None:
    """As every other answer; version 1 knows no ids."""
    async with running(WdsConfig(auth_enabled=True, api_keys=["one"])) as env:
        client = await env.connect(protocols=["mdp.v2"])
        assert await ask(client, **message) == answer
        numbered, answer = answer, {name: value for name, value in answer.items() if name != "id"}
        assert numbered != answer
        assert await ask(await env.connect(), **message) == answer


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


@pytest.mark.parametrize("version", [1, 2])
async def test_what_cannot_be_decompressed_is_invalid_data_and_no_normal_close(version: int) -> None:
    """1007, so that a client does not take it for a goodbye; version 1 negotiates no compression: 1002."""
    async with running() as env:
        wire = await Wire.connect(env.service.port, version=version, compressed=version == 2)
        wire.send(frame(TEXT, b"\xbb\xc5", rsv=4))
        heard = await wire.hear()
        assert (heard.opcode, heard.code) == (CLOSE, 1007 if version == 2 else 1002)
        await wire.close()
