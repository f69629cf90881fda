"""The connection for subscriptions: what is wanted is subscribed, and acknowledged before it counts."""

from __future__ import annotations

import asyncio
import fnmatch
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from mdp.cache.redis_link import Link, connect
from mdp.cache.relay_channels import Channels, glob
from tests.redis_server import RedisServer

from .relays import eventually


class Rig:
    """Channels and what they told."""

    def __init__(self, server: RedisServer) -> None:
        config = server.config(timeout_seconds=1.0)
        self.client = connect(config)
        self.heard: list[tuple[bytes, bytes]] = []
        self.joined: list[str] = []
        self.lost = 0
        self.link = Link("test", config)
        self.channels = Channels(
            self.client,
            self.link,
            on_message=lambda channel, data: self.heard.append((channel, data)),
            on_joined=self.joined.append,
            on_lost=self._lose,
        )

    def _lose(self) -> None:
        self.lost += 1


@pytest.fixture
async def rig(redis_server: RedisServer) -> AsyncIterator[Rig]:
    """Started."""
    made = Rig(redis_server)
    made.channels.start()
    await eventually(lambda: made.channels.up)
    yield made
    await made.channels.stop()
    await made.client.aclose()


async def test_what_is_published_after_the_acknowledgement_is_heard(
    rig: Rig, redis_server: RedisServer
) -> None:
    """By channel and by pattern; nothing of what is not wanted."""
    rig.channels.want("a", pattern=False)
    rig.channels.want("b*", pattern=True)
    async with asyncio.timeout(60):
        await rig.channels.join(["a", "b*"])
    with redis_server.client() as plain:
        for channel in ("a", "b", "b1", "c"):
            plain.publish(channel, channel.upper())
    await rig.channels.barrier()
    assert rig.heard == [(b"a", b"A"), (b"b", b"B"), (b"b1", b"B1")]
    assert sorted(rig.joined) == ["a", "b*"]


async def test_thousands_are_subscribed_in_a_few_commands(rig: Rig, redis_server: RedisServer) -> None:
    """A replica that comes back does not hold up Redis."""
    redis_server.reset_commands()
    names = [f"feed:{n}" for n in range(2_000)]
    for name in names:
        rig.channels.want(name, pattern=False)
    async with asyncio.timeout(60):
        await rig.channels.join(names)
    assert redis_server.commands()["subscribe"] <= 8
    for name in names:
        rig.channels.drop(name)
    with redis_server.client() as plain:
        await eventually(lambda: plain.pubsub_channels() == [])


@pytest.mark.parametrize("wait", [False, True])
async def test_what_is_dropped_and_wanted_again_is_joined_again(rig: Rig, *, wait: bool) -> None:
    """Whether or not Redis was told in between."""
    for _ in range(5):
        rig.channels.want("a", pattern=False)
        async with asyncio.timeout(60):
            await rig.channels.join(["a"])
        rig.channels.drop("a")
        assert not rig.channels.joined("a")
        if wait:
            await rig.channels.barrier()


async def test_who_waits_over_a_lost_connection_is_told_of_the_next_one(
    rig: Rig, redis_server: RedisServer
) -> None:
    """An acknowledgement counts for its connection only."""
    rig.channels.want("a", pattern=False)
    await rig.channels.join(["a"])
    redis_server.freeze()
    rig.channels.want("b", pattern=False)
    waiting = asyncio.create_task(rig.channels.join(["b"]))
    barrier = asyncio.create_task(rig.channels.barrier())
    await asyncio.sleep(0.05)
    redis_server.restart()
    with pytest.raises(ConnectionError):
        await barrier
    async with asyncio.timeout(60):
        await waiting
        await rig.channels.join(["a"])
    assert (rig.lost, rig.channels.line) == (1, 2)
    assert rig.link.outages >= 1


async def test_nothing_can_be_awaited_where_nothing_is_connected(rig: Rig, redis_server: RedisServer) -> None:
    """It says so at once."""
    redis_server.kill()
    await eventually(lambda: not rig.channels.up)
    with pytest.raises(ConnectionError):
        await rig.channels.barrier()


def test_globs_mean_their_text() -> None:
    """Characters that Redis takes for wildcards are escaped."""
    assert glob("quote:", "") == "quote:*"
    assert glob("a[1]?\\*", ":x") == r"a\[1\]\?\\\**:x"
    assert fnmatch.fnmatchcase("tta:A:widget", glob("tta:", ":widget"))


async def test_who_waits_for_what_is_wanted_no_more_is_let_go(rig: Rig, redis_server: RedisServer) -> None:
    """It will never be joined."""
    redis_server.freeze()
    rig.channels.want("a", pattern=False)
    waiting = asyncio.create_task(rig.channels.join(["a"]))
    await asyncio.sleep(0)
    rig.channels.drop("a")
    async with asyncio.timeout(60):
        await waiting
    assert not rig.channels.joined("a")
    redis_server.thaw()


async def test_who_may_not_subscribe_asks_ever_more_rarely(redis_server: RedisServer) -> None:
    """A user without the right to the channels: told of once, and no flood of connections."""
    pauses: list[float] = []
    with redis_server.client() as plain:
        plain.execute_command("ACL", "SETUSER", "deaf", "on", ">p", "~*", "+@all", "resetchannels")
    config = redis_server.config(timeout_seconds=1.0)
    config.url = config.url.replace("redis://", "redis://deaf:p@")
    client = connect(config)

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await asyncio.sleep(0)

    link = Link("test", config, sleep=sleep)
    channels = Channels(
        client, link, on_message=lambda *_: None, on_joined=lambda _: None, on_lost=lambda: None
    )
    channels.want("a", pattern=False)
    with capture_logs() as logs:
        channels.start()
        await eventually(lambda: len(pauses) >= 6)
    await channels.stop()
    await client.aclose()
    assert min(pauses[5:]) >= 0.5
    assert [line["event"] for line in logs] == ["redis_failed"]


async def test_the_clients_connection_is_made_of_what_is_read_past_it(redis_server: RedisServer) -> None:
    """`Channels._read` takes the asyncio stream out of redis-py's connection, which it keeps under a private
    name, and parses with hiredis itself, because redis-py's way costs three times as much a message. A
    version of redis-py that keeps it elsewhere, or has read ahead after connecting, must fail here."""
    client = connect(redis_server.config())
    connection = client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
    await connection.connect()
    try:
        stream = connection._reader
        assert isinstance(stream, asyncio.StreamReader)
        await connection.send_packed_command(connection.pack_command("PING", "x"), check_health=False)
        assert await stream.read(100) == b"$1\r\nx\r\n"
    finally:
        await connection.disconnect(nowait=True)
        await client.aclose()
