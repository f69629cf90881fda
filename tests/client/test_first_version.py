"""The client, against small servers that speak protocol version 1."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import WSMsgType, web
from pytest_aiohttp.plugin import AiohttpServer

from mdp.client import MAX_DELAY_SECONDS, ClientError, Disconnected, WdsClient

Handler = Callable[[web.WebSocketResponse, dict[str, Any]], Awaitable[None]]
Serve = Callable[[Handler], Awaitable[str]]


@pytest.fixture
def serve(aiohttp_server: AiohttpServer) -> Serve:
    """Starts a server that hands each message of a client to a handler; returns its address."""

    async def start(handler: Handler) -> str:
        async def endpoint(request: web.Request) -> web.WebSocketResponse:
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    await handler(socket, json.loads(message.data))
            return socket

        application = web.Application()
        application.router.add_get("/ws", endpoint)
        server = await aiohttp_server(application)
        return f"ws://127.0.0.1:{server.port}/ws"

    return start


class Sleeps:
    """Notes the waits instead of waiting; ends the test's stream after `most` of them."""

    def __init__(self, most: int = 1_000) -> None:
        self.seconds: list[float] = []
        self._most = most

    async def __call__(self, seconds: float) -> None:
        if len(self.seconds) >= self._most:
            raise asyncio.CancelledError
        self.seconds.append(seconds)


async def take(client: WdsClient, feed: str, count: int, states: list[str] | None = None) -> list[Any]:
    """The first payloads of a feed."""
    found: list[Any] = []
    async with asyncio.timeout(60):
        stream = client.stream(feed, states.append if states is not None else lambda state: None)
        async for payload in stream:
            found.append(payload)
            if len(found) == count:
                break
    return found


async def test_get_returns_the_data_of_the_answer(serve: Serve) -> None:
    """Other messages before the answer do not confuse it; the limit is passed on."""
    asked: list[dict[str, Any]] = []

    async def handler(socket: web.WebSocketResponse, message: dict[str, Any]) -> None:
        asked.append(message)
        await socket.send_json({"cache": "another", "data": 1})
        await socket.send_json({"cache": message["cache"], "data": [1, 2]})

    async with WdsClient(await serve(handler)) as client:
        assert await client.get("scanners:top_volume", limit=2) == [1, 2]
    assert asked == [{"action": "get", "cache": "scanners:top_volume", "limit": 2}]


async def test_the_key_is_sent_first_and_only_if_given(serve: Serve) -> None:
    """`auth` precedes everything."""
    asked: list[str] = []

    async def handler(socket: web.WebSocketResponse, message: dict[str, Any]) -> None:
        asked.append(message["action"])
        if message["action"] == "auth":
            await socket.send_json(
                {"status": "authorized" if message["api_key"] == "right" else "invalid key"}
            )
        else:
            await socket.send_json({"cache": message["cache"], "data": None})

    url = await serve(handler)
    async with WdsClient(url, "right") as client:
        assert await client.get("quote:A") is None
    async with WdsClient(url) as client:
        assert await client.get("quote:A") is None
    assert asked == ["auth", "get", "get"]
    async with WdsClient(url, "wrong") as client:
        with pytest.raises(ClientError, match="refused the API key") as caught:
            await client.get("quote:A")
    assert "wrong" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            {"status": "error", "code": "unknown_feed", "message": "no such feed"},
            "x was refused: no such feed",
        ),
        ({"status": "error", "code": "unknown_feed"}, "x was refused: unknown_feed"),
        ({"status": "invalid action"}, "x was refused: invalid action"),
        ({"status": "invalid key"}, "wants an API key"),
    ],
)
async def test_a_refusal_is_an_error_and_no_reason_to_try_again(
    serve: Serve, answer: dict[str, str], words: str
) -> None:
    """For `get` and for streams alike."""

    async def handler(socket: web.WebSocketResponse, message: dict[str, Any]) -> None:
        await socket.send_json(answer)

    sleeps = Sleeps()
    async with WdsClient(await serve(handler), sleep=sleeps) as client:
        with pytest.raises(ClientError, match=words):
            await client.get("x")
        with pytest.raises(ClientError, match=words):
            await take(client, "x", 1)
    assert sleeps.seconds == []


async def test_a_stream_yields_payloads_as_they_are(serve: Serve) -> None:
    """Lists, objects, null, and objects that look a little like answers."""
    payloads = [[{"symbol": "A"}], {"status": "open", "lag_ms": 3}, None, 5]

    async def handler(socket: web.WebSocketResponse, message: dict[str, Any]) -> None:
        await socket.send_json({"status": "subscribed", "feed": message["feed"]})
        for payload in payloads:
            await socket.send_json(payload)

    states: list[str] = []
    async with WdsClient(await serve(handler)) as client:
        assert await take(client, "x", len(payloads), states) == payloads
    assert states == ["live"]


async def test_a_stream_comes_back_after_the_connection_ended(serve: Serve) -> None:
    """It subscribes again and says so; a service that always hangs up is asked ever less often."""
    connections = 0

    async def handler(socket: web.WebSocketResponse, message: dict[str, Any]) -> None:
        nonlocal connections
        connections += 1
        await socket.send_json({"status": "subscribed", "feed": message["feed"]})
        await socket.send_json(connections)
        await socket.close(code=1012)

    sleeps, states = Sleeps(), list[str]()
    async with WdsClient(await serve(handler), sleep=sleeps) as client:
        assert await take(client, "x", 4, states) == [1, 2, 3, 4]
    assert states[:3] == ["live", "the service closed the connection with code 1012; trying again", "live"]
    assert len(sleeps.seconds) == 3
    assert all(
        most / 2 <= seconds <= most for seconds, most in zip(sleeps.seconds, (0.25, 0.5, 1), strict=True)
    )


async def test_waits_between_attempts_grow_to_a_limit(unused_tcp_port: int) -> None:
    """Nobody listens: it goes on trying, ever more slowly, never beyond the cap."""
    sleeps = Sleeps(most=12)
    async with WdsClient(f"ws://127.0.0.1:{unused_tcp_port}/ws", sleep=sleeps) as client:
        with pytest.raises(asyncio.CancelledError):
            await take(client, "x", 1)
    assert sleeps.seconds[0] <= 0.25
    assert MAX_DELAY_SECONDS / 2 <= sleeps.seconds[-1] <= MAX_DELAY_SECONDS


async def test_a_silent_service_is_given_up(serve: Serve) -> None:
    """No answer within the time given is a lost connection for `get`."""

    async def handler(socket: web.WebSocketResponse, message: dict[str, Any]) -> None:
        return

    async with WdsClient(await serve(handler), timeout_seconds=0.5) as client:
        with pytest.raises(Disconnected, match=r"did not answer within 0\.5 s"):
            await client.get("x")


async def test_what_is_no_service_is_an_error(serve: Serve) -> None:
    """A wrong path, a wrong address, text that is no JSON: said in words."""

    async def handler(socket: web.WebSocketResponse, message: dict[str, Any]) -> None:
        await socket.send_str("hello")

    url = await serve(handler)
    for address, words in ((url + "x", "answered 404"), (url, "not JSON"), ("ws://", "is not an address")):
        async with WdsClient(address) as client:
            with pytest.raises(ClientError, match=words):
                await client.get("x")


def test_the_key_is_not_in_the_representation() -> None:
    """A client in a log or traceback is harmless."""
    assert "s3cret" not in repr(WdsClient("ws://h/ws", "s3cret"))
