"""Bus and cache while Redis is gone, comes back empty, refuses writes or does not answer."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from mdp.cache.redis_link import connect
from mdp.cache.relay_cache import Unanswered
from mdp.feeds import HOD_ALERT
from tests.redis_server import RedisServer

from .redis_publisher import Publisher
from .relays import BOARD, OWN_BOARD, Heard, eventually, relay_to, subscribed_at


async def test_without_redis_what_is_known_is_answered_and_the_rest_is_not(
    redis_server: RedisServer, publisher: Publisher
) -> None:
    """Clients are told the last there was, or that it is not known now: never that there is nothing."""
    async with relay_to(redis_server) as relay:
        relay.bus.subscribe(BOARD, Heard().append)
        await relay.cache.get(BOARD)
        await publisher.publish(BOARD, ["last"])
        await eventually(lambda: relay.bus.place(BOARD)[1] == 1)
        redis_server.kill()
        await eventually(lambda: not relay.channels.up)
        assert not relay.health().ok
        entry = await relay.cache.get(BOARD)
        assert entry is not None
        assert entry.value == ["last"]
        with pytest.raises(Unanswered):
            await relay.cache.get("quote:AAPL")


async def test_a_redis_that_comes_back_empty_is_taken_up(redis_server: RedisServer) -> None:
    """Subscriptions, interest and event feeds go on by themselves, with new epochs."""
    heard = Heard()
    async with relay_to(redis_server) as relay:
        for pattern in (BOARD, "quote:*", HOD_ALERT.name):
            relay.bus.subscribe(pattern, heard.append)
        await relay.cache.get(BOARD)
        client = connect(redis_server.config())
        before = Publisher(client)
        await before.publish(BOARD, 1)
        await before.emit(HOD_ALERT.name, 2)
        await eventually(lambda: len(heard) == 2)
        await client.aclose()

        redis_server.restart()
        client = connect(redis_server.config())
        with redis_server.client() as plain:
            await eventually(lambda: plain.smembers("mdp:interest:wds-1") == {BOARD.encode(), b"quote:*"})
        await eventually(lambda: relay.channels.joined("mdp:bus:quote:*"))
        after = Publisher(client, epoch=2_000)
        await after.publish(BOARD, 3)
        await after.publish("quote:AAPL", 4)
        await after.emit(HOD_ALERT.name, 5)
        await eventually(lambda: len(heard) == 5)
        assert sorted(heard.values()) == [1, 2, 3, 4, 5]
        assert relay.bus.place(HOD_ALERT.name) == (2_000, 1)
        assert relay.bus.since(HOD_ALERT.name, 1_000, 1) is None, "nobody goes on over that"
        await client.aclose()


async def test_what_changed_while_the_connection_was_lost_is_read(
    redis_server: RedisServer, publisher: Publisher, client: Redis
) -> None:
    """A value with a place is handed on as if it came now; an event feed goes on without a hole."""
    heard = Heard()
    async with relay_to(redis_server) as relay:
        relay.bus.subscribe(BOARD, heard.append)
        relay.bus.subscribe(HOD_ALERT.name, heard.append)
        await relay.cache.get(BOARD)
        await publisher.publish(BOARD, 1)
        await publisher.emit(HOD_ALERT.name, 1)
        await eventually(lambda: len(heard) == 2)
        own = await client.client_id()
        with redis_server.client() as plain:
            for one in plain.client_list():
                if one["id"] not in (str(own), str(plain.client_id())):
                    plain.client_kill_filter(_id=one["id"])
        for n in (2, 3):
            await publisher.emit(HOD_ALERT.name, n)
        await publisher.publish(BOARD, 2)
        await eventually(lambda: len(heard) >= 5)
        assert heard.places(BOARD) == [(1_000, 1), (1_000, 2)]
        assert heard.places(HOD_ALERT.name) == [(1_000, 1), (1_000, 2), (1_000, 3)]
        assert relay.counters.lines == 1


async def test_a_symbol_does_not_go_back_after_an_outage(
    redis_server: RedisServer, publisher: Publisher
) -> None:
    """Its key in Redis is up to five seconds older than the last message; the message counts."""
    async with relay_to(redis_server) as relay:
        relay.bus.subscribe("quote:AAPL", Heard().append)
        await relay.cache.get("quote:AAPL")
        await publisher.keep("quote:AAPL", "older")
        await publisher.publish("quote:AAPL", "newer", keep=False)
        await eventually(lambda: relay.bus.place("quote:AAPL")[1] == 1)
        with redis_server.client() as plain:
            plain.client_kill_filter(_type="pubsub")
        await eventually(lambda: relay.channels.line == 2 and relay.channels.up)
        entry = await relay.cache.get("quote:AAPL")
        assert entry is not None
        assert entry.value == "newer"


async def test_a_board_does_not_go_back_for_who_left_where_writes_were_refused(
    redis_server: RedisServer, publisher: Publisher
) -> None:
    """Messages left, the key stayed behind them: who comes back is told the message, and what follows it."""
    async with relay_to(redis_server) as relay:
        subscription = relay.bus.subscribe(OWN_BOARD, Heard().append)
        await relay.cache.get(OWN_BOARD)
        await publisher.publish(OWN_BOARD, ["kept"], seq=8)
        await publisher.publish(OWN_BOARD, ["refused"], seq=12, keep=False)
        await eventually(lambda: relay.bus.place(OWN_BOARD)[1] == 12)
        subscription.close()
        heard = Heard()
        relay.bus.subscribe(OWN_BOARD, heard.append)
        entry = await relay.cache.get(OWN_BOARD)
        assert entry is not None
        assert (entry.value, entry.seq) == (["refused"], 12)
        await publisher.publish(OWN_BOARD, ["next"], seq=13)
        await eventually(lambda: heard.values() == [["next"]])


async def test_a_board_that_was_left_is_as_new_as_its_key(
    redis_server: RedisServer, publisher: Publisher
) -> None:
    """What was published while nobody subscribed is told to who comes back, not what was heard last."""
    async with relay_to(redis_server) as relay:
        subscription = relay.bus.subscribe(OWN_BOARD, Heard().append)
        await relay.cache.get(OWN_BOARD)
        await publisher.publish(OWN_BOARD, ["heard"])
        await eventually(lambda: relay.bus.place(OWN_BOARD)[1] == 1)
        subscription.close()
        await eventually(lambda: OWN_BOARD not in subscribed_at(redis_server))
        await publisher.publish(OWN_BOARD, ["unheard"])
        relay.bus.subscribe(OWN_BOARD, Heard().append)
        entry = await relay.cache.get(OWN_BOARD)
        assert entry is not None
        assert (entry.value, entry.seq) == (["unheard"], 2)


async def test_a_board_is_heard_though_nobody_subscribes_to_it(
    redis_server: RedisServer, publisher: Publisher
) -> None:
    """While writes are refused its key stays behind: who had newer ones elsewhere is told no older one."""
    async with relay_to(redis_server) as relay:
        await publisher.publish(BOARD, ["kept"], seq=8)
        await publisher.publish(BOARD, ["refused"], seq=12, keep=False)
        await eventually(lambda: relay.bus.place(BOARD)[1] == 12)
        assert len(relay.demand) == 0
        subscription = relay.bus.subscribe(BOARD, Heard().append)
        entry = await relay.cache.get(BOARD)
        assert entry is not None
        assert (entry.value, entry.seq) == (["refused"], 12)
        subscription.close()
        await publisher.publish(BOARD, ["next"], seq=13, keep=False)
        await eventually(lambda: relay.bus.place(BOARD)[1] == 13)
        assert BOARD in subscribed_at(redis_server)


async def test_a_redis_that_does_not_answer_is_given_up_and_found_again(
    redis_server: RedisServer, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frozen server holds connections open: only silence tells."""
    monkeypatch.setattr("mdp.cache.relay_channels._PING_SECONDS", 0.1)
    monkeypatch.setattr("mdp.cache.relay_channels._DEAD_SECONDS", 0.4)
    heard = Heard()
    async with relay_to(redis_server) as relay:
        relay.bus.subscribe(BOARD, heard.append)
        await relay.cache.get(BOARD)
        redis_server.freeze()
        try:
            await eventually(lambda: not relay.channels.up)
        finally:
            redis_server.thaw()
        await eventually(lambda: relay.health().ok and relay.channels.joined(f"mdp:bus:{BOARD}"))
        await publisher.publish(BOARD, 1)
        await eventually(lambda: heard.values() == [1])


async def test_a_redis_without_memory_is_told_what_is_wanted(
    redis_server: RedisServer, publisher: Publisher, client: Redis
) -> None:
    """The set is refused; words and messages need no memory, and what is kept is not lost."""
    await publisher.publish(BOARD, ["kept"])
    words = client.pubsub()
    await words.subscribe("mdp:interest")
    await words.get_message(timeout=30)
    heard = Heard()
    async with relay_to(redis_server) as relay:
        with redis_server.client() as plain:
            plain.config_set("maxmemory", "1mb")
            relay.bus.subscribe(BOARD, heard.append)
            assert (await words.get_message(timeout=30) or {}).get("data") == b"+" + BOARD.encode()
            entry = await relay.cache.get(BOARD)
            assert entry is not None
            assert entry.value == ["kept"]
            await client.publish(f"mdp:bus:{BOARD}", b"1000 2 0\n[2]")
            await eventually(lambda: heard.values() == [[2]])
            assert plain.exists("mdp:interest:wds-1") == 0
            plain.config_set("maxmemory", 0)
            await eventually(lambda: plain.exists("mdp:interest:wds-1") == 1)
    await words.aclose()  # type: ignore[no-untyped-call]
