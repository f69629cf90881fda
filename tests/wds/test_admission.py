"""Connections before they are clients: floods, silence, requests byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, cast

import pytest

from mdp.config import WdsConfig
from mdp.wds import server
from mdp.wds.admission import Admission
from mdp.wds.counters import WdsCounters
from mdp.wds.limits import Networks
from tests.wds.doubles import Running, ask, running, until


class Peer:
    """A transport of a connection that was accepted."""

    def __init__(self, host: str = "10.0.0.1") -> None:
        self.host = host
        self.aborted = False

    def get_extra_info(self, name: str) -> Any:
        """Its address."""
        return (self.host, 40_000) if name == "peername" else None

    def abort(self) -> None:
        """Cut."""
        self.aborted = True

    def as_transport(self) -> asyncio.Transport:
        """Itself, under the type that is asked for."""
        return cast(asyncio.Transport, self)


def admission(**options: Any) -> tuple[Admission, WdsCounters]:
    """With room for ten, if nothing else is said."""
    counters = WdsCounters()
    options = {"most": 10, "per_address": 0, "unlimited": Networks([]), **options}
    return Admission(counters, **options), counters


def test_connections_in_total_are_limited() -> None:
    """One too many is cut; one that leaves makes room."""
    door, counters = admission(most=2)
    peers = [Peer(f"10.0.0.{number}") for number in range(3)]
    assert [door.enter(peer.as_transport()) for peer in peers] == [True, True, False]
    assert [peer.aborted for peer in peers] == [False, False, True]
    assert counters.rejected == {"connections": 1}
    door.leave(peers[0].as_transport(), "10.0.0.0")
    assert door.enter(Peer().as_transport())


def test_connections_of_an_address_are_limited() -> None:
    """Of one, not of another; an IPv6 customer is one; unlimited networks are not counted against."""
    door, counters = admission(per_address=2, unlimited=Networks(["127.0.0.0/8"]))
    hosts = ["10.0.0.1"] * 3 + ["10.0.0.2", "2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:1::1"]
    admitted = [door.enter(Peer(host).as_transport()) for host in hosts]
    assert admitted == [True, True, False, True, True, True, False, True]
    assert counters.rejected == {"address": 2}
    door, _ = admission(per_address=2, unlimited=Networks(["127.0.0.0/8"]))
    assert all(door.enter(Peer("127.0.0.1").as_transport()) for _ in range(5))


def test_the_oldest_that_proved_nothing_makes_room() -> None:
    """Never one that is a client, however old."""
    door, counters = admission(most_pending=2)
    client, slow, slower, new = Peer(), Peer(), Peer(), Peer()
    for peer in (client, slow):
        door.enter(peer.as_transport())
    door.settle(client.as_transport())
    for peer in (slower, new):
        door.enter(peer.as_transport())
    assert [peer.aborted for peer in (client, slow, slower, new)] == [False, True, False, False]
    assert counters.rejected == {"pending": 1}


def test_nothing_is_kept_of_who_left() -> None:
    """Neither the connection nor the address."""
    door, _ = admission()
    for number in range(8):
        peer = Peer(f"10.0.0.{number}")
        door.enter(peer.as_transport())
        if number % 2:
            door.settle(peer.as_transport())
        door.leave(peer.as_transport(), f"10.0.0.{number}")
    assert (door.total, door._open, door._pending) == (0, {}, {})


async def raw(env: Running) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which nothing was sent."""
    return await asyncio.open_connection("127.0.0.1", env.service.port)


async def ended(reader: asyncio.StreamReader) -> bool:
    """Wait for the end of a connection; what comes before it is dropped."""
    async with asyncio.timeout(60):
        with contextlib.suppress(ConnectionError):
            while await reader.read(65_536):
                pass
    return True


async def served(env: Running) -> None:
    """Somebody else is served."""
    client = await env.connect()
    assert (await ask(client, action="get", cache="halts"))["data"] == []
    await client.close()


@pytest.mark.parametrize("sent", [b"", b"GET /ws HT", b"GET /ws HTTP/1.1\r\nHost: x\r\nA: "])
async def test_a_request_that_does_not_come_to_its_end_is_cut(sent: bytes) -> None:
    """Nothing at all, half a line, headers without an end: the same time for all of it."""
    async with running(header_seconds=0.2) as env:
        reader, writer = await raw(env)
        writer.write(sent)
        await served(env)
        assert await ended(reader)
        await until(lambda: env.service.admission.total <= 1)
        writer.close()


async def test_a_byte_now_and_then_does_not_buy_time() -> None:
    """The time is for the whole of the headers."""
    async with running(header_seconds=0.3) as env:
        reader, writer = await raw(env)
        end = asyncio.ensure_future(ended(reader))
        for byte in b"GET /ws HTTP/1.1\r\nHost: " + b"x" * 5_000:
            if end.done():
                break
            with contextlib.suppress(ConnectionError):
                writer.write(bytes([byte]))
            await asyncio.sleep(0.02)
        assert end.done()
        writer.close()


async def test_a_connected_client_outlives_the_time_for_headers() -> None:
    """The time ends with the request."""
    async with running(header_seconds=0.1) as env:
        client = await env.connect()
        await asyncio.sleep(0.3)
        assert (await ask(client, action="get", cache="halts"))["data"] == []


async def test_large_headers_are_refused() -> None:
    """A field, their number: memory per connection is bounded before anything is known of it."""
    async with running() as env:
        for head in (b"A: " + b"x" * 20_000 + b"\r\n", b"".join(b"A%d: x\r\n" % n for n in range(200))):
            reader, writer = await raw(env)
            writer.write(b"GET /ws HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n")
            async with asyncio.timeout(60):
                assert b" 400 " in await reader.readline()
            writer.close()
        await served(env)


async def test_a_flood_above_the_limits_is_cut_and_clients_are_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two thousand connections at once that never say a word; who is a client notices nothing."""
    monkeypatch.setattr(server, "SPARE", 40)
    async with running(WdsConfig(max_clients=10)) as env:
        client = await env.connect()
        silent = []
        for start in range(0, 2_000, 100):
            some = await asyncio.gather(*(raw(env) for _ in range(100)), return_exceptions=True)
            silent += [one for one in some if not isinstance(one, BaseException)]
            assert (await ask(client, action="get", cache="halts"))["data"] == []
            assert env.service.admission.total <= 50, start
        await until(lambda: env.service.counters.rejected.get("connections", 0) >= len(silent) - 50)
        for _, writer in silent:
            writer.close()
        await until(lambda: env.service.admission.total == 1)
        await served(env)


async def test_one_address_cannot_take_all_places() -> None:
    """Its connection above the limit is reset before a request is read."""
    async with running(WdsConfig(max_clients_per_address=2, unlimited_addresses=[])) as env:
        first, second = await env.connect(), await env.connect()
        reader, writer = await raw(env)
        assert await ended(reader)
        writer.close()
        await first.close()
        await until(lambda: env.service.admission.total == 1)
        await served(env)
        await second.close()


async def test_clients_without_a_login_make_room_for_others() -> None:
    """Upgraded but not authorized is not settled: the oldest of them goes first."""
    config = WdsConfig(auth_enabled=True, api_keys=["right-key"])
    async with running(config) as env:
        env.service.admission._most_pending = 2
        good = await env.connect()
        assert (await ask(good, action="auth", api_key="right-key"))["status"] == "authorized"
        idle = [await env.connect() for _ in range(4)]
        await until(lambda: env.service.counters.clients == 3)
        assert env.service.counters.rejected == {"pending": 2}
        assert (await ask(good, action="get", cache="halts"))["data"] == []
        assert (await ask(idle[3], action="auth", api_key="right-key"))["status"] == "authorized"
