"""Relays and writers of two versions around a real Redis: an older one misreads nothing of a newer one's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from structlog.testing import capture_logs

from mdp.cache import schemas
from mdp.cache.relay import Relay
from mdp.cache.relay_cache import Unanswered
from mdp.feeds import HOD_ALERT, LOD_ALERT, QUOTE, TOP_VOLUME
from tests.redis_server import RedisServer

from .relays import Heard, eventually, relay_to
from .writer_rig import Rig

NEWER = schemas.FEEDS + 1


@contextmanager
def version(number: int) -> Iterator[None]:
    """What is made meanwhile is of this version."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schemas, "FEEDS", number)
        yield


def rig_of(server: RedisServer, number: int) -> Rig:
    """A writer of a version."""
    with version(number):
        return Rig(server)


async def say(rig: Rig, epoch: int, price: int) -> None:
    """A quote, a board and an alert, wherever they are kept."""
    output = rig.writer.open("all", epoch)
    await rig.interest.look()
    output.publish(QUOTE, "A", {"price": price})
    output.publish(TOP_VOLUME, "", [{"price": price}])
    output.push(HOD_ALERT, "", {"price": price})
    await rig.turn()


async def test_an_old_relay_leaves_alone_what_a_newer_writer_says(redis_server: RedisServer) -> None:
    """Nothing of it reaches a client, as a message or a value; it is counted, and said once."""
    new = rig_of(redis_server, NEWER)
    with capture_logs() as logs:
        async with relay_to(redis_server, wall_ms=new.wall_ms) as relay:
            heard = Heard()
            for pattern in ("quote:*", TOP_VOLUME.name, HOD_ALERT.name):
                relay.bus.subscribe(pattern, heard.append)
            await relay.channels.join(["mdp:bus:quote:*", "mdp:bus:scanners:top_volume"])
            with redis_server.client() as client:
                await eventually(lambda: client.scard("mdp:interest:wds-1") >= 2)
            await say(new, 5, 100)
            await say(new, 6, 101)
            await eventually(lambda: relay.counters.newer == 4 and relay.events.counters.newer == 2)

            assert heard == []
            for feed in ("quote:A", TOP_VOLUME.name):
                with pytest.raises(Unanswered, match=f"version {NEWER}"):
                    await relay.cache.get(feed)
            assert (await relay.cache.get(HOD_ALERT.name)).value == []  # type: ignore[union-attr]
            assert not relay.health().ok
            assert "upgrade it" in relay.health().detail
    await new.close()
    assert [line["event"] for line in logs].count("reader_too_old") == 1


async def test_a_newer_relay_hands_on_what_old_writers_say(redis_server: RedisServer) -> None:
    """And what newer ones say, side by side."""
    old, new = rig_of(redis_server, NEWER - 1), rig_of(redis_server, NEWER)
    await say(old, 5, 100)
    with version(NEWER):
        reading = relay_to(redis_server, wall_ms=new.wall_ms)
        relay = await reading.__aenter__()
    try:
        heard = Heard()
        assert [(await value(relay, feed)) for feed in ("quote:A", TOP_VOLUME.name, HOD_ALERT.name)] == [
            {"price": 100},
            [{"price": 100}],
            [{"price": 100}],
        ]
        relay.bus.subscribe(HOD_ALERT.name, heard.append)
        await say(new, 6, 101)
        await eventually(lambda: len(heard) == 1)

        assert [(await value(relay, feed)) for feed in ("quote:A", TOP_VOLUME.name, HOD_ALERT.name)] == [
            {"price": 101},
            [{"price": 101}],
            [{"price": 101}, {"price": 100}],
        ]
        assert relay.health().ok
    finally:
        await reading.__aexit__(None, None, None)
        await old.close()
        await new.close()


async def test_a_relay_serves_again_once_the_newer_writer_is_gone(redis_server: RedisServer) -> None:
    """An upgrade that was taken back needs no restart of who read."""
    now = [0.0]
    old, new = rig_of(redis_server, NEWER - 1), rig_of(redis_server, NEWER)
    async with relay_to(redis_server, wall_ms=new.wall_ms) as relay:
        relay.versions._clock = lambda: now[0]
        await say(new, 5, 100)
        await relay.versions.look()
        assert not relay.health().ok
        await say(old, 6, 101)
        with redis_server.client() as client:
            assert 0 < client.ttl("mdp:schema") <= 10
            client.delete("mdp:schema")  # as it expires
        await relay.versions.look()
        now[0] += 11

        assert relay.health().ok
        assert await value(relay, "quote:A") == {"price": 101}
        assert await value(relay, TOP_VOLUME.name) == [{"price": 101}]
    await old.close()
    await new.close()


async def test_this_version_costs_nothing(redis_server: RedisServer) -> None:
    """No key says it, nothing is longer for it."""
    rig = rig_of(redis_server, 1)
    with redis_server.client() as client:
        client.sadd("mdp:interest:x", LOD_ALERT.name, "quote:*")
        await say(rig, 5, 100)

        assert not client.exists("mdp:schema")
        [(_, fields)] = client.xrange("mdp:events:{daily_range_hod_alert}")
        assert set(fields) == {b"e", b"s", b"t", b"d"}
    await rig.close()


async def value(relay: Relay, feed: str) -> object:
    """What is known of a feed."""
    found = await relay.cache.get(feed)
    assert found is not None
    return found.value
