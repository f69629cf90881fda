"""Streams: their format, what a client of them is spared and told, and how they end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdp import feeds
from mdp.config import WdsConfig
from mdp.wds import sse
from mdp.wds.client import Client, Due, Limits
from mdp.wds.counters import WdsCounters
from mdp.wds.keys import KeyFile, new_key, utc_now
from mdp.wds.protocol import ACCESS_ENDED, GOING_AWAY, NO_PONG, TOKEN_EXPIRED, TOO_SLOW
from mdp.wds.views import envelope
from tests.wds.doubles import FakeTransport, Running, running, until
from tests.wds.signers import NOW, SECRET, hs256
from tests.wds.test_client import FakeLoop
from tests.wds.test_tls import Issuer


class Reader:
    """The other side of a stream."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer

    async def event(self) -> tuple[str, str, Any]:
        """Kind, id and data of the next event; comments and `retry` are passed over."""
        while True:
            block = (await asyncio.wait_for(self.answer.content.readuntil(b"\n\n"), 20)).decode()
            fields = dict(line.split(": ", 1) for line in block.splitlines() if line)
            if "event" in fields:
                return fields["event"], fields.get("id", ""), msgspec.json.decode(fields["data"])

    async def rest(self) -> bytes:
        """What comes until the end."""
        return await asyncio.wait_for(self.answer.content.read(), 20)


@contextlib.asynccontextmanager
async def stream(env: Running, names: str, query: str = "", **headers: str) -> AsyncIterator[Reader]:
    """A stream that has begun."""
    url = f"http://127.0.0.1:{env.service.port}/api/v1/stream?feeds={names}{query}"
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with env.session.get(url, headers=named) as answer:
        assert answer.status == 200, await answer.text()
        assert answer.content_type == "text/event-stream"
        yield Reader(answer)


# The format


def test_only_event_feeds_have_ids() -> None:
    """A state feed that spoke last must not be what a client resumes from."""
    bodies = [
        envelope("alerts", 5, 7, 0, "event", b"1"),
        envelope("quote:X:BTCUSD", 5, 8, 0, "delta", b"{}", base=7),
    ]
    head, _, text = sse.streamed(bodies).partition(b"\r\n")
    assert int(head, 16) == len(text) - 2
    first, second, end = text.split(b"\n\n")
    assert first == b"event: event\nid: alerts@5-7\ndata: " + bodies[0]
    assert second == b"event: delta\ndata: " + bodies[1]
    assert end == b"\r\n"


@given(
    st.sampled_from(["alerts", "halts", "news:ticker:BRK/A", "scanners:x-y_z:events"]), st.integers(0, 10**17)
)
def test_an_id_leads_back_to_its_place(feed: str, number: int) -> None:
    """Whatever the feed's name holds."""
    text = sse.streamed([envelope(feed, number, 3, 0, "event", b"{}")]).decode()
    place = text.split("id: ")[1].partition("\n")[0]
    assert sse.places(place, [feed]) == {feed: (number, 3)}
    assert sse.places(f"{place}, halts@1-1", [feed, "quote:A"]).get(feed) in ((number, 3), (1, 1))
    assert sse.places(place, ["quote:A"]) == {}


@pytest.mark.parametrize("text", ["x", "alerts", "alerts@1", "alerts@-1-2", "alerts@1-2,", "@1-2", "a b@1-2"])
def test_what_is_no_id_is_refused(text: str) -> None:
    """Rather than a stream that goes on somewhere else."""
    with pytest.raises(ValueError, match="Last-Event-ID"):
        sse.places(text, ["alerts"])


# A client without an answer


def silent_client() -> tuple[Client, FakeTransport, FakeLoop, WdsCounters]:
    """A stream's client with time and network by hand."""
    loop, transport, counters = FakeLoop(), FakeTransport(), WdsCounters()
    aio: asyncio.AbstractEventLoop = loop  # type: ignore[assignment]
    client = Client(1, transport.as_transport(), Limits(1_000), counters, aio, sse.streamed, sse.WIRE)
    return client, transport, loop, counters


def test_a_silent_stream_gets_comments_and_lives_as_long_as_it_takes_them() -> None:
    """No frame of a WebSocket, and no pong is waited for."""
    client, transport, loop, counters = silent_client()
    for _ in range(200):
        loop.advance(1)
        client.check(loop.now)
        transport.take()
    assert set(transport.writes) == {sse.KEEP_ALIVE}
    assert len(transport.writes) >= 6
    assert (client.closing, counters.pong_timeouts) == (False, 0)


def test_a_stalled_stream_is_given_up_as_a_websocket_is() -> None:
    """Nothing is taken for as long as a pong may last."""
    client, transport, loop, _ = silent_client()
    for _ in range(33):
        loop.advance(1)
        client.check(loop.now)
    assert transport.closing
    assert transport.writes[-1] == sse.WIRE.close(NO_PONG, "no answer to a ping")
    assert not transport.aborted
    loop.advance(1)
    assert transport.aborted


def test_events_beyond_the_limit_end_a_stream() -> None:
    """The last chunk says why; it ends the body."""
    client, transport, _, counters = silent_client()
    for number in range(20):
        item = Due("alerts", feeds.ALERTS, envelope("alerts", 1, number, 0, "event", b'"%b"' % (b"x" * 100)))
        client.deliver(sse.streamed([item.frame]), [item])
    assert counters.slow_closes == 1
    assert b'"code":%d' % TOO_SLOW in transport.writes[-1]
    assert transport.writes[-1].endswith(b"0\r\n\r\n")


# Over the network


async def test_a_stream_from_snapshot_to_delta() -> None:
    """As a subscription of version 2, with its options."""
    async with running() as env:
        env.cache.set(feeds.QUOTE, "A", {"symbol": "A", "close": 1, "open": 1})
        async with stream(env, "quote:A", "&fields=close") as reader:
            kind, place, message = await reader.event()
            assert (kind, place, message["data"]) == ("snapshot", "", {"symbol": "A", "close": 1})
            env.bus.publish(feeds.QUOTE, "A", {"symbol": "A", "close": 2, "open": 5})
            kind, _, message = await reader.event()
            assert (kind, message["kind"], message["data"]) == ("delta", "delta", {"close": 2})
        await until(lambda: env.service.counters.clients == 0)
        assert not env.bus.interest(feeds.QUOTE)
        assert env.service.counters.subscriptions == 0


async def test_a_stream_goes_on_where_it_was() -> None:
    """What was missed, once; of another life, what there is, and the word for it."""
    async with running() as env:
        async with stream(env, "alerts") as reader:
            env.bus.publish(feeds.ALERTS, "", "first")
            kind, place, _ = await reader.event()
            while kind != "event":
                kind, place, _ = await reader.event()
        env.bus.publish(feeds.ALERTS, "", "missed")
        async with stream(env, "alerts,quote:A", Last_Event_ID=place) as reader:
            found = [await reader.event() for _ in range(2)]
            assert [message["data"] for _, _, message in found if message["feed"] == "alerts"] == ["missed"]
        async with stream(env, "alerts", Last_Event_ID="alerts@9-1") as reader:
            assert await reader.event() == ("resync", "", {"status": "resync", "feed": "alerts"})
            assert (await reader.event())[0] == "snapshot"


async def test_the_snapshot_of_events_holds_those_that_were_asked_for() -> None:
    """As the events that follow."""
    async with running() as env:
        for number in range(4):
            env.cache.push(feeds.ALERTS, "", {"n": number, "more": 1})
        async with stream(env, "alerts", "&where=n>=2&fields=n") as reader:
            assert (await reader.event())[2]["data"] == [{"n": 3}, {"n": 2}]
            for number in (1, 5):
                env.bus.publish(feeds.ALERTS, "", {"n": number, "more": 1})
            assert (await reader.event())[2]["data"] == {"n": 5}


async def test_streams_and_websockets_share_what_is_encoded() -> None:
    """One framing for all clients who see the same."""
    async with running() as env, stream(env, "alerts") as one, stream(env, "alerts") as two:
        socket_client = await env.connect(protocols=("mdp.v2",))
        await socket_client.send_json({"action": "subscribe", "feed": "alerts"})
        await until(lambda: env.service.counters.subscriptions == 3)
        await one.event()
        await two.event()
        framed = env.service.counters.framed
        env.bus.publish(feeds.ALERTS, "", "news")
        assert (await one.event())[2] == (await two.event())[2]
        assert env.service.counters.framed == framed + 1


async def test_the_service_says_goodbye_when_it_stops() -> None:
    """With a code, and the end of the body; the stop does not wait for the client."""
    async with running() as env, stream(env, "alerts") as reader:
        await reader.event()
        await env.service.stop()
        assert (await reader.event())[2]["code"] == GOING_AWAY
        assert await reader.rest() == b""
        assert env.service.counters.aborted == 0


async def test_places_are_limited_for_streams_too() -> None:
    """They count as clients; so do the feeds of each."""
    async with running(WdsConfig(max_clients=1, max_subscriptions=2)) as env:
        url = f"http://127.0.0.1:{env.service.port}/api/v1/stream?feeds="
        async with env.session.get(url + "quote:A,quote:B,quote:C") as answer:
            assert (answer.status, (await answer.json())["code"]) == (400, "too_many_subscriptions")
        async with stream(env, "alerts"):
            async with env.session.get(url + "alerts") as answer:
                assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
            assert env.service.counters.rejected == {"full": 1}


async def test_what_a_client_sends_into_a_stream_is_dropped() -> None:
    """Requests behind an endless response would wait in memory for ever."""
    async with running() as env:
        reader, writer = await asyncio.open_connection("127.0.0.1", env.service.port)
        writer.write(b"GET /api/v1/stream?feeds=alerts HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b"snapshot"), 20)
        request = b"GET /api/v1/feeds/halts HTTP/1.1\r\nHost: x\r\n\r\n"
        for _ in range(200):
            writer.write(request * 100)
            await writer.drain()
        env.bus.publish(feeds.ALERTS, "", "still here")
        await asyncio.wait_for(reader.readuntil(b"still here"), 20)
        assert env.service.counters.answers == 1  # `retry`
        writer.close()
        await until(lambda: env.service.counters.clients == 0)


async def test_a_stalled_stream_delays_nobody_and_is_closed() -> None:
    """It takes nothing; others get everything."""
    async with running(WdsConfig(client_buffer_bytes=200_000)) as env, stream(env, "alerts") as healthy:
        stalled = socket.socket()
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        stalled.setblocking(False)
        with contextlib.closing(stalled):
            loop = asyncio.get_running_loop()
            await loop.sock_connect(stalled, ("127.0.0.1", env.service.port))
            await loop.sock_sendall(stalled, b"GET /api/v1/stream?feeds=alerts HTTP/1.1\r\nHost: x\r\n\r\n")
            await until(lambda: env.service.counters.subscriptions == 2)
            await healthy.event()
            for start in range(0, 4_000, 10):
                for number in range(start, start + 10):
                    env.bus.publish(feeds.ALERTS, "", [number, "x" * 10_000])
                for number in range(start, start + 10):
                    assert (await healthy.event())[2]["data"][0] == number
                if env.service.counters.slow_closes:
                    break
            assert env.service.counters.slow_closes == 1


async def test_a_feed_that_cannot_be_read_spoils_no_other() -> None:
    """It is named as an event."""

    def fail(symbol: str) -> Any:
        raise OSError("secret")

    async with running() as env:
        env.cache.provide(feeds.TRADE_STATS, fail)
        async with stream(env, "trade_stats:A,quote:A") as reader:
            kind, _, problem = await reader.event()
            assert (kind, problem["code"], problem["feed"]) == ("problem", "unavailable", "trade_stats:A")
            assert "secret" not in str(problem)
            assert (await reader.event())[2]["feed"] == "quote:A"


async def test_streams_are_served_over_tls(tmp_path: Path) -> None:
    """The same, encrypted; a client that goes is noticed."""
    issuer = Issuer(tmp_path)
    async with running(issuer.config()) as env:
        url = f"https://127.0.0.1:{env.service.port}/api/v1/stream?feeds=alerts"
        async with env.session.get(url, ssl=issuer.trust) as answer:
            reader = Reader(answer)
            await reader.event()
            env.bus.publish(feeds.ALERTS, "", "news")
            assert (await reader.event())[2]["data"] == "news"
        await until(lambda: env.service.counters.clients == 0)


# Whose time ends


async def test_a_revoked_key_ends_its_streams(tmp_path: Path) -> None:
    """Within a second or two."""
    config = WdsConfig(auth_enabled=True, keys_path=str(tmp_path / "keys.json"))
    key, entry = new_key("test", ["**"], None, utc_now())
    keys = KeyFile(config.keys_path)
    keys.add(entry)
    async with running(config) as env, stream(env, "alerts", Authorization=f"Bearer {key}") as reader:
        await reader.event()
        keys.revoke(entry.id, utc_now())
        kind, _, words = await reader.event()
        assert (kind, words["code"]) == ("close", ACCESS_ENDED)
        assert "revoked" in words["reason"]


async def test_a_token_warns_before_its_stream_ends(tmp_path: Path) -> None:
    """By an event, as a WebSocket is warned."""
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "secret").chmod(0o600)
    config = WdsConfig(auth_enabled=True, keys_path="", jwt_secret_file=str(tmp_path / "secret"))
    now = NOW
    token = hs256(exp=NOW + 600)
    async with (
        running(config, clock=lambda: now) as env,
        stream(env, "alerts", Authorization=f"Bearer {token}") as reader,
    ):
        await reader.event()
        now = NOW + 580
        kind, _, words = await reader.event()
        assert (kind, words["status"], words["seconds"]) == ("expires", "token expires", 20)
        now = NOW + 700
        assert (await reader.event())[2]["code"] == TOKEN_EXPIRED
