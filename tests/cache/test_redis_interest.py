"""What subscribers of all replicas want, as publishers learn it."""

from __future__ import annotations

import asyncio

import pytest

from mdp.cache.keys import Keys
from mdp.cache.redis_link import REDIS_ERRORS
from mdp.feeds import QUOTE, TOP_VOLUME, TRADES, Target
from tests.redis_server import RedisServer

from .writer_rig import Rig


def begun(rig: Rig) -> list[Target]:
    """Collects what begins from now on."""
    found: list[Target] = []
    rig.interest.on_begin.append(found.append)
    return found


async def test_patterns_of_all_replicas_are_wanted(rig: Rig) -> None:
    """Each replica's set is found, whatever its name; what names nothing of ours is left out."""
    await rig.client.sadd("mdp:interest:one", "quote:AAPL", "stocks:*:MSFT")
    await rig.client.sadd("mdp:interest:two", "quote:*", "no such feed")
    await rig.interest.look()
    quotes = rig.interest.of(QUOTE)
    assert (quotes.all, quotes.symbols) == (True, {"AAPL"})
    assert rig.interest.of(TRADES).symbols == {"MSFT"}


async def test_an_interest_ends_with_the_last_replica_that_has_it(rig: Rig) -> None:
    """A set that expired, or a pattern that was taken out; another's word on the channel ends nothing."""
    changes: list[tuple[str | None, bool]] = []
    rig.interest.on_change.append(lambda target, wanted: changes.append((target.symbol, wanted)))
    await rig.client.sadd("mdp:interest:one", "quote:AAPL")
    await rig.client.sadd("mdp:interest:two", "quote:AAPL", "quote:MSFT")
    await rig.interest.look()
    await rig.client.delete("mdp:interest:one")
    rig.interest.heard("-quote:AAPL")
    await rig.interest.look()
    assert rig.interest.of(QUOTE).symbols == {"AAPL", "MSFT"}
    await rig.client.srem("mdp:interest:two", "quote:AAPL")
    await rig.interest.look()
    assert rig.interest.of(QUOTE).symbols == {"MSFT"}
    await rig.client.delete("mdp:interest:two")
    await rig.interest.look()
    assert not rig.interest.of(QUOTE)
    assert sorted(changes[:2]) == [("AAPL", True), ("MSFT", True)]
    assert changes[2:] == [("AAPL", False), ("MSFT", False)]


async def test_a_symbol_wanted_in_two_ways_is_wanted_until_both_end(rig: Rig) -> None:
    """By its name, and as one of a wildcard's feeds of that symbol."""
    await rig.client.sadd("mdp:interest:one", "stocks:trades:AAPL", "stocks:*:AAPL")
    await rig.interest.look()
    await rig.client.srem("mdp:interest:one", "stocks:*:AAPL")
    await rig.interest.look()
    assert rig.interest.of(TRADES).symbols == {"AAPL"}


async def test_a_word_on_the_channel_counts_at_once_and_for_ten_seconds(rig: Rig) -> None:
    """By then it is in its replica's set, or the replica is gone."""
    rig.interest.heard("+quote:AAPL")
    assert rig.interest.of(QUOTE).symbols == {"AAPL"}
    rig.time += 9
    await rig.interest.look()
    assert rig.interest.of(QUOTE).symbols == {"AAPL"}
    rig.time += 2
    await rig.interest.look()
    assert not rig.interest.of(QUOTE)


async def test_nonsense_on_the_channel_is_ignored(rig: Rig) -> None:
    """Whoever may publish there must not be able to break the publisher."""
    for message in ("", "+", "quote:AAPL", "+no such feed", "+quote:" + "A" * 100):
        rig.interest.heard(message)
    assert list(rig.interest.targets()) == []


async def test_each_replica_that_begins_is_told_the_present_value(rig: Rig) -> None:
    """Heard or found, but not twice for the same beginning."""
    found = begun(rig)
    target = Target(QUOTE, "AAPL")
    await rig.client.sadd("mdp:interest:one", "quote:AAPL")
    rig.interest.heard("+quote:AAPL")
    await rig.interest.look()
    assert found == [target]
    await rig.client.sadd("mdp:interest:two", "quote:AAPL")  # and its word was lost
    rig.time += 11
    for _ in range(6):
        await rig.interest.look()
    assert found == [target, target]


async def test_new_replicas_are_found_within_five_looks(rig: Rig) -> None:
    """Or at the next one, where one was heard of; the keys are not searched with every look."""
    await rig.interest.look()
    await rig.client.sadd("mdp:interest:one", "quote:AAPL")
    for _ in range(5):
        await rig.interest.look()
    assert rig.interest.of(QUOTE).symbols == {"AAPL"}
    await rig.client.sadd("mdp:interest:two", "scanners:top_volume")
    rig.interest.heard("+scanners:top_volume")
    await rig.interest.look()
    await rig.interest.look()
    rig.time += 11
    await rig.interest.look()
    assert rig.interest.of(TOP_VOLUME)


async def test_many_keys_cost_few_commands(rig: Rig, redis_server: RedisServer) -> None:
    """A search of 20,000 keys is a dozen commands, and happens every fifth look."""
    await rig.client.mset({f"quote:S{n}": "1" for n in range(20_000)})
    await rig.client.sadd("mdp:interest:one", "quote:AAPL")
    redis_server.reset_commands()
    for _ in range(5):
        await rig.interest.look()
    calls = redis_server.commands()
    assert calls["scan"] <= 20
    assert calls["smembers"] == 5


async def test_what_is_known_stays_while_redis_is_gone(rig: Rig, redis_server: RedisServer) -> None:
    """Subscribers are still there; their symbols are published again when Redis is."""
    await rig.client.sadd("mdp:interest:one", "quote:AAPL")
    await rig.interest.look()
    redis_server.kill()
    with pytest.raises(REDIS_ERRORS):
        await rig.interest.look()
    assert rig.interest.of(QUOTE).symbols == {"AAPL"}


async def test_a_prefix_with_wildcards_finds_its_own_sets_alone(redis_server: RedisServer) -> None:
    """`*` in a prefix is a character."""
    rig = Rig(redis_server, prefix="a*[x]:")
    await rig.client.sadd(Keys("a*[x]:").interest("one"), "quote:AAPL")
    await rig.client.sadd(Keys("abx:").interest("one"), "quote:MSFT")
    await rig.interest.look()
    assert rig.interest.of(QUOTE).symbols == {"AAPL"}
    await rig.close()


async def test_the_stage_hears_and_looks(rig: Rig, redis_server: RedisServer) -> None:
    """Also after Redis was away."""
    await rig.interest.start()

    async def heard(pattern: str, symbol: str) -> None:
        async with asyncio.timeout(60):
            while symbol not in rig.interest.of(QUOTE).symbols:
                with redis_server.client() as client:
                    client.publish("mdp:interest", pattern)
                await asyncio.sleep(0.02)

    await heard("+quote:AAPL", "AAPL")
    redis_server.restart()
    await heard("+quote:MSFT", "MSFT")
    await rig.interest.stop()
    await rig.interest.stop()
