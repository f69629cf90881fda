"""Bus and cache over a real Redis: in step with publishers."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from redis.asyncio import Redis

from mdp.cache.keys import Keys
from mdp.cache.redis_link import Link, connect
from mdp.cache.relay import Relay
from mdp.cache.tasks import end
from mdp.feeds import HOD_ALERT, QUOTE, TTA
from tests.ports import free_port
from tests.redis_server import RedisServer

from .redis_publisher import Publisher, now_ms, publishing
from .relays import BOARD, OWN_BOARD, Heard, eventually, relay_to, subscribed_at

# --- values and messages ---


async def test_a_message_keeps_the_place_and_time_of_its_publisher(
    redis_server: RedisServer, publisher: Publisher
) -> None:
    """So that all replicas say the same of it; its JSON goes through as it came."""
    heard = Heard()
    async with relay_to(redis_server) as relay:
        relay.bus.subscribe("quote:AAPL", heard.append)
        await relay.cache.get("quote:AAPL")
        await publisher.publish("quote:AAPL", {"price": 1.50}, seq=7)
        await eventually(lambda: len(heard) == 1)
        message = heard[0]
        assert (message.feed, message.family, message.epoch, message.seq) == ("quote:AAPL", QUOTE, 1_000, 7)
        assert abs(message.ts - now_ms()) < 60_000
        assert message.json() == b'{"price": 1.5}'
        assert message.value == {"price": 1.5}
        assert relay.bus.place("quote:AAPL") == (1_000, 7)
        entry = await relay.cache.get("quote:AAPL")
        assert entry is not None
        assert (entry.value, entry.epoch, entry.seq) == ({"price": 1.5}, 1_000, 7)


async def test_a_value_without_a_subscription_is_read_with_its_place(
    redis_server: RedisServer, publisher: Publisher
) -> None:
    """Those of the whole market have one; those of symbols are before every message."""
    await publisher.publish(BOARD, [{"symbol": "A", "rank": 1}], seq=5)
    await publisher.keep("quote:AAPL", {"price": 2})
    async with relay_to(redis_server) as relay:
        board = await relay.cache.get(BOARD)
        assert board is not None
        assert (board.value, board.epoch, board.seq) == ([{"symbol": "A", "rank": 1}], 1_000, 5)
        quote = await relay.cache.get("quote:AAPL")
        assert quote is not None
        assert (quote.value, quote.epoch, quote.seq) == ({"price": 2}, 0, 0)
        assert await relay.cache.get("quote:NONE") is None
        assert await relay.cache.get("nothing of ours") is None
        assert relay.bus.place("quote:AAPL") == (0, 0)


async def test_what_is_no_json_is_no_value(redis_server: RedisServer, client: Redis) -> None:
    """Whoever wrote it: it is counted, and clients are told that there is nothing."""
    await client.set("quote:AAPL", b"{broken")
    async with relay_to(redis_server) as relay:
        assert await relay.cache.get("quote:AAPL") is None
        assert relay.counters.undecoded == 1


async def test_joining_under_load_has_no_hole_and_no_repeat(
    redis_server: RedisServer, publisher: Publisher
) -> None:
    """Snapshot, then every message behind it, whenever somebody joins."""
    busy = publishing(publisher, OWN_BOARD, lambda n: [n])
    async with busy, relay_to(redis_server) as relay:
        for _ in range(20):
            heard = Heard()
            subscription = relay.bus.subscribe(OWN_BOARD, heard.append)
            entry = await relay.cache.get(OWN_BOARD)
            await eventually(lambda heard=heard: len(heard) > 20)  # type: ignore[misc]
            subscription.close()
            assert entry is not None
            assert entry.value == [entry.seq]
            news = [message for message in heard if message.seq > entry.seq]
            assert [message.seq for message in news] == list(
                range(entry.seq + 1, entry.seq + 1 + len(news))
            ), "no hole, no repeat"
            assert all(message.value == [message.seq] for message in heard)
            await eventually(lambda: not relay.channels.joined(f"mdp:bus:{OWN_BOARD}"))


async def test_joining_a_symbol_under_load_never_goes_back(
    redis_server: RedisServer, publisher: Publisher
) -> None:
    """Its key has no place: what is told first is not newer than what follows."""
    busy = publishing(publisher, "quote:AAPL", lambda n: n)
    async with busy, relay_to(redis_server) as relay:
        for _ in range(30):
            heard = Heard()
            subscription = relay.bus.subscribe("quote:AAPL", heard.append)
            entry = await relay.cache.get("quote:AAPL")
            had = len(heard)
            await eventually(lambda heard=heard: len(heard) > 10)  # type: ignore[misc]
            subscription.close()
            assert entry is not None
            after = heard.values()[had:]
            assert after[0] > entry.value or entry.seq == heard[had].seq
            assert after == list(range(after[0], after[0] + len(after)))
            assert after[0] <= entry.value + 1, "no hole"


async def test_lower_places_are_ignored(
    redis_server: RedisServer, publisher: Publisher, client: Redis
) -> None:
    """A publisher that lost its lease, and what came by two ways, change nothing."""
    old = Publisher(client, epoch=900)
    heard = Heard()
    async with relay_to(redis_server) as relay:
        relay.bus.subscribe(BOARD, heard.append)
        await relay.cache.get(BOARD)
        await publisher.publish(BOARD, ["new"])
        await old.publish(BOARD, ["old"], seq=99)
        await publisher.publish(BOARD, ["again"], seq=1)
        await publisher.publish(BOARD, ["newer"])
        await client.publish("mdp:bus:" + BOARD, b"nonsense")
        await eventually(lambda: relay.counters.malformed == 1)
        assert heard.values() == [["new"], ["newer"]]
        assert (relay.counters.outdated, relay.counters.repeated) == (1, 1)


async def test_a_new_epoch_is_followed(
    redis_server: RedisServer, publisher: Publisher, client: Redis
) -> None:
    """Its numbers begin anew."""
    heard = Heard()
    async with relay_to(redis_server) as relay:
        relay.bus.subscribe(BOARD, heard.append)
        await relay.cache.get(BOARD)
        await publisher.publish(BOARD, [], seq=500)
        await Publisher(client, epoch=1_001).publish(BOARD, [])
        await eventually(lambda: len(heard) == 2)
        assert heard.places() == [(1_000, 500), (1_001, 1)]


async def test_a_feed_named_twice_is_heard_once(redis_server: RedisServer, publisher: Publisher) -> None:
    """By its name and by a wildcard, Redis sends it twice."""
    heard = Heard()
    async with relay_to(redis_server) as relay:
        relay.bus.subscribe("quote:*", heard.append)
        relay.bus.subscribe("quote:AAPL", heard.append)
        await relay.cache.get("quote:AAPL")
        await eventually(lambda: relay.channels.joined("mdp:bus:quote:*"))
        for n in range(3):
            await publisher.publish("quote:AAPL", n)
        await publisher.publish("quote:MSFT", 9)
        await eventually(lambda: len(heard) == 4)
        assert heard.values() == [0, 1, 2, 9]


async def test_what_a_subscriber_raises_costs_it_alone(
    redis_server: RedisServer, publisher: Publisher
) -> None:
    """The connection stays, the next message comes."""
    seen = []

    def sink(message: object) -> None:
        seen.append(message)
        raise RuntimeError("a defect")

    async with relay_to(redis_server) as relay:
        relay.bus.subscribe(BOARD, sink)
        await relay.cache.get(BOARD)
        await publisher.publish(BOARD, [1])
        await publisher.publish(BOARD, [2])
        await eventually(lambda: len(seen) == 2)
        assert (relay.counters.failures, relay.counters.lines) == (2, 0)


async def test_after_the_last_subscription_nothing_is_asked_for(
    redis_server: RedisServer, publisher: Publisher
) -> None:
    """Redis carries what somebody wants: each subscription counts, and closing twice is closing."""
    async with relay_to(redis_server) as relay:
        first = relay.bus.subscribe("quote:AAPL", Heard().append)
        second = relay.bus.subscribe("quote:AAPL", Heard().append)
        await relay.cache.get("quote:AAPL")
        await publisher.publish("quote:AAPL", 1)
        await eventually(lambda: relay.bus.place("quote:AAPL") == (1_000, 1))
        first.close()
        first.close()
        assert "quote:AAPL" in subscribed_at(redis_server)
        second.close()
        assert len(relay.demand) == 0
        await eventually(lambda: "quote:AAPL" not in subscribed_at(redis_server))
        assert relay.bus.place("quote:AAPL") == (0, 0), "what is not followed is not known"


async def test_publishing_and_writing_are_refused(redis_server: RedisServer) -> None:
    """A relay hands on; a program that writes to it is wrong and told so."""
    async with relay_to(redis_server) as relay:
        with pytest.raises(RuntimeError):
            relay.bus.publish(QUOTE, "AAPL", 1)
        with pytest.raises(RuntimeError):
            relay.cache.set(QUOTE, "AAPL", 1)
        with pytest.raises(RuntimeError):
            relay.cache.push(HOD_ALERT, "", 1)
        with pytest.raises(RuntimeError):
            relay.cache.provide(QUOTE, lambda _: 1)
        with pytest.raises(ValueError, match="no feed matches"):
            relay.bus.subscribe("nothing:of:ours", Heard().append)
        assert len(relay.demand) == 0


class Alert(msgspec.Struct):
    """As an analyzer publishes one."""

    symbol: str
    price: float


async def test_payloads_are_decoded_as_their_types(redis_server: RedisServer, publisher: Publisher) -> None:
    """Subscribers that want structs name the types; what they see is what was published."""
    heard = Heard()
    types = {HOD_ALERT.name: Alert, QUOTE.name: Alert}
    async with relay_to(redis_server, types=types) as relay:
        relay.bus.subscribe(HOD_ALERT.name, heard.append)
        relay.bus.subscribe("quote:AAPL", heard.append)
        await relay.cache.get("quote:AAPL")
        await publisher.emit(HOD_ALERT.name, {"symbol": "A", "price": 1})
        await eventually(lambda: len(heard) == 1)
        await publisher.publish("quote:AAPL", {"symbol": "AAPL", "price": 2})
        await eventually(lambda: len(heard) == 2)
        assert heard.values() == [Alert("A", 1.0), Alert("AAPL", 2.0)]
        with pytest.raises(AttributeError):
            heard[0].value = 3


async def test_everything_is_under_the_prefix(redis_server: RedisServer, client: Redis) -> None:
    """Two platforms share a Redis and do not hear each other, whatever characters the prefix has."""
    mine, other = Publisher(client, Keys("a[1]*:")), Publisher(client, Keys("a1x:"))
    heard = Heard()
    async with relay_to(redis_server, prefix="a[1]*:") as relay:
        relay.bus.subscribe("quote:*", heard.append)
        relay.bus.subscribe(HOD_ALERT.name, heard.append)
        await eventually(lambda: relay.channels.joined(r"a\[1\]\*:mdp:bus:quote:*"))
        for one in (other, mine):
            await one.publish("quote:AAPL", one.keys.prefix)
            await one.emit(HOD_ALERT.name, one.keys.prefix)
        await eventually(lambda: len(heard) == 2)
        assert set(heard.values()) == {"a[1]*:"}
        with redis_server.client() as plain:
            await eventually(lambda: plain.smembers("a[1]*:mdp:interest:wds-1") == {b"quote:*"})


# --- wildcards ---


async def test_a_wildcard_knows_what_there_is(redis_server: RedisServer, publisher: Publisher) -> None:
    """Values from before are read together, messages since go before them."""
    for n in range(1_200):
        await publisher.keep(f"quote:S{n}", n)
    await publisher.keep("quote", "not of the family")
    heard = Heard()
    async with relay_to(redis_server) as relay:
        await eventually(lambda: len(relay.cache.symbols(QUOTE)) == 1_200)
        relay.bus.subscribe("quote:*", heard.append)
        first = await relay.cache.get("quote:S7")
        assert first is not None
        assert (first.value, first.seq) == (7, 0)
        redis_server.reset_commands()
        values = [await relay.cache.get(f"quote:S{n}") for n in range(1_200)]
        assert [entry.value for entry in values if entry is not None] == list(range(1_200))
        assert redis_server.commands().get("get", 0) == 0, "one look for all of them"
        await publisher.publish("quote:S7", "news")
        await publisher.publish("quote:NEW", "listed")
        await eventually(lambda: len(heard) == 2)
        again = await relay.cache.get("quote:S7")
        assert again is not None
        assert (again.value, again.seq) == ("news", 1)
        assert relay.cache.peek(QUOTE, "S7") == "news"
        assert relay.cache.peek(QUOTE, "S8") == 8
        assert relay.cache.peek(QUOTE, "NONE") is None
        assert "NEW" in relay.cache.symbols(QUOTE)
        assert relay.cache.symbols(TTA) == []


async def test_a_wildcard_that_is_left_leaves_nothing(
    redis_server: RedisServer, publisher: Publisher
) -> None:
    """Memory is for what somebody subscribes to; what is named besides stays."""
    async with relay_to(redis_server) as relay:
        wild = relay.bus.subscribe("quote:*", Heard().append)
        relay.bus.subscribe("quote:A", Heard().append)
        await relay.cache.get("quote:A")
        await eventually(lambda: relay.channels.joined("mdp:bus:quote:*"))
        await publisher.publish("quote:A", 1)
        await publisher.publish("quote:B", 2)
        await eventually(lambda: relay.bus.place("quote:B") == (1_000, 1))
        wild.close()
        assert relay.bus.place("quote:B") == (0, 0)
        assert relay.bus.place("quote:A") == (1_000, 1)
        assert relay.cache.peek(QUOTE, "B") is None


async def test_a_wildcard_over_kinds_names_one_symbol_of_each(
    redis_server: RedisServer, publisher: Publisher
) -> None:
    """`stocks:*:AAPL` is all of AAPL's raw feeds, and of nobody else's."""
    heard = Heard()
    async with relay_to(redis_server) as relay:
        relay.bus.subscribe("stocks:*:AAPL", heard.append)
        await relay.cache.get("stocks:agg:AAPL")
        await eventually(lambda: relay.channels.joined("mdp:bus:stocks:luld:AAPL"))
        for feed in ("stocks:trades:AAPL", "stocks:trades:MSFT", "stocks:quotes:AAPL"):
            await publisher.publish(feed, feed, keep=False)
        await eventually(lambda: len(heard) == 2)
        assert set(heard.values()) == {"stocks:trades:AAPL", "stocks:quotes:AAPL"}


# --- interest ---


async def test_interest_is_said_at_once_and_kept(redis_server: RedisServer, client: Redis) -> None:
    """After the subscription is acknowledged, so that what publishers send at once is heard."""
    words = client.pubsub()
    await words.subscribe("mdp:interest")
    await words.get_message(timeout=30)
    async with relay_to(redis_server, "wds-9") as relay:
        subscription = relay.bus.subscribe("quote:AAPL", Heard().append)
        assert (await words.get_message(timeout=30) or {}).get("data") == b"+quote:AAPL"
        assert relay.channels.joined("mdp:bus:quote:AAPL")
        with redis_server.client() as plain:
            assert plain.smembers("mdp:interest:wds-9") == {b"quote:AAPL"}
            assert 0 < plain.ttl("mdp:interest:wds-9") <= 10
            subscription.close()
            assert (await words.get_message(timeout=30) or {}).get("data") == b"-quote:AAPL"
            await eventually(lambda: plain.smembers("mdp:interest:wds-9") == set())
            relay.bus.subscribe("quote:MSFT", Heard().append)
            await eventually(lambda: plain.exists("mdp:interest:wds-9") == 1)
            await relay.stop()
            assert plain.exists("mdp:interest:wds-9") == 0, "who leaves says so"
    await words.aclose()  # type: ignore[no-untyped-call]


async def test_interest_that_redis_lost_is_said_again(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its renewal, without a connection being lost."""
    monkeypatch.setattr("mdp.cache.relay_interest.RENEW_SECONDS", 0.1)
    async with relay_to(redis_server) as relay:
        relay.bus.subscribe("quote:AAPL", Heard().append)
        with redis_server.client() as plain:
            await eventually(lambda: plain.exists("mdp:interest:wds-1") == 1)
            plain.flushall()
            await eventually(lambda: plain.smembers("mdp:interest:wds-1") == {b"quote:AAPL"})


async def test_a_cluster_is_a_redis_like_any_other(tmp_path: Path) -> None:
    """Where keys of one command share a slot, and streams of several slots are not read by one command."""
    server = RedisServer(tmp_path, "--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    server.start()
    try:
        server.form_cluster()
        config = server.config(timeout_seconds=1.0)
        config.url = f"redis+cluster://127.0.0.1:{server.port}"
        client = connect(config)
        relay = Relay(client, Keys(), "wds-1", Link("relay", config))
        heard = Heard()
        with server.client() as plain:
            plain.set("quote:A", "1")
            plain.set("quote:B", "2")
            plain.set(BOARD, "[]")
            plain.hset("mdp:place:{" + BOARD + "}", mapping={"epoch": 7, "seq": 3, "ts": 1})
            await relay.start()
            try:
                await eventually(lambda: relay.health().ok)
                relay.bus.subscribe("quote:*", heard.append)
                relay.bus.subscribe(HOD_ALERT.name, heard.append)
                relay.bus.subscribe(BOARD, heard.append)
                entries = [await relay.cache.get(f"quote:{symbol}") for symbol in "AB"]
                assert [entry.value for entry in entries if entry is not None] == [1, 2]
                board = await relay.cache.get(BOARD)
                assert board is not None
                assert (board.epoch, board.seq) == (7, 3)
                plain.publish("mdp:bus:quote:A", f"8 1 {now_ms()}\n3")
                plain.xadd("mdp:events:{" + HOD_ALERT.name + "}", {"e": 8, "s": 1, "t": now_ms(), "d": "4"})
                await eventually(lambda: sorted(heard.values()) == [3, 4])
            finally:
                await relay.stop()
                await client.aclose()
    finally:
        server.stop()


@pytest.mark.parametrize("part", ["channels", "events", "interests", "index"])
async def test_a_part_that_died_is_no_good_health(redis_server: RedisServer, part: str) -> None:
    """Only a defect ends one: the process must not look as if it served."""
    async with relay_to(redis_server) as relay:
        assert relay.health().ok
        await end(getattr(relay, part)._task)
        assert (relay.health().ok, relay.health().detail) == (False, "does not run")
