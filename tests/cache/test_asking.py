"""Values that have no key: asked of their owner, over a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from mdp.cache import asking
from mdp.cache.asking import Asker, Unheard
from mdp.cache.keys import Keys
from mdp.cache.redis_interest import InterestWatch
from mdp.cache.redis_link import Link, connect
from mdp.cache.redis_output import RedisOutput
from mdp.cache.redis_writer import RedisWriter
from mdp.feeds import HALT, QUOTES, TRADES
from tests.cache.relays import eventually, relay_to
from tests.redis_server import RedisServer

KEYS = Keys()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take longer than clients are to wait; less than the Redis client's own limit."""
    monkeypatch.setattr(asking, "WAIT_SECONDS", 0.9)


class Owner:
    """A processor's end: interest, writer, one output."""

    def __init__(self, writer: RedisWriter, output: RedisOutput) -> None:
        self.writer, self.output = writer, output
        self.looked: list[str] = []
        self.values: dict[str, Any] = {}
        output.provide(TRADES, self._provide)

    def _provide(self, symbol: str) -> Generator[None, None, Any]:
        self.looked.append(symbol)
        yield
        return self.values.get(symbol)


@asynccontextmanager
async def owning(server: RedisServer) -> AsyncIterator[Owner]:
    """An owner of all symbols that begin with A."""
    config = server.config()
    client: Any = connect(config)
    interest = InterestWatch(client, KEYS, Link("interest", config))
    writer = RedisWriter(
        client, client, KEYS, interest, link=Link("values", config), parts_link=Link("parts", config)
    )
    output = writer.open("partition:0", 1, owns=lambda symbol: symbol.startswith("A"))
    await interest.start()
    await writer.start()
    with server.client() as plain:
        await eventually(lambda: bool(plain.pubsub_numsub(KEYS.interest_channel)[0][1]))
    try:
        yield Owner(writer, output)
    finally:
        await writer.stop()
        await interest.stop()
        await client.aclose()


async def test_a_row_of_halts_is_of_the_moment_at_which_it_is_asked_for(redis_server: RedisServer) -> None:
    """Its key is of the last change of a halt or band; price and time went on since."""
    async with owning(redis_server) as owner, relay_to(redis_server) as relay:
        with redis_server.client() as client:
            client.set("halt:A1", '{"last_price":7}')
            client.set("halt:B1", '{"last_price":3}')
        owner.output.provide(HALT, {"A1": {"last_price": 8}}.get)
        ours, nobodys = await relay.cache.get("halt:A1"), await relay.cache.get("halt:B1")

        assert ours is not None
        assert nobodys is not None
        assert (ours.value, nobodys.value) == ({"last_price": 8}, {"last_price": 3})


async def test_a_value_that_nobody_subscribes_to_is_had_from_its_owner(redis_server: RedisServer) -> None:
    """As its provider works it out at that moment; nothing is left behind, nobody's interest begins."""
    async with owning(redis_server) as owner, relay_to(redis_server) as relay:
        owner.values["A1"] = {"price": 7.5}
        first = await relay.cache.get("stocks:trades:A1")
        owner.values["A1"] = {"price": 8.5}
        second = await relay.cache.get("stocks:trades:A1")

        assert first is not None
        assert second is not None
        assert (first.value, first.epoch, first.seq) == ({"price": 7.5}, 0, 0)
        assert second.value == {"price": 8.5}
        assert not owner.output.wants
        with redis_server.client() as client:
            assert client.keys("mdp:answer:*") == []
            assert client.keys("stocks:*") == []


async def test_that_there_is_none_is_an_answer(redis_server: RedisServer) -> None:
    """What is under the key is older then, and not given."""
    async with owning(redis_server) as owner, relay_to(redis_server) as relay:
        with redis_server.client() as client:
            client.set("stocks:trades:A1", '{"price":1}')

        assert await relay.cache.get("stocks:trades:A1") is None
        assert owner.looked == ["A1"]
        assert relay.asker.unheard == 0


async def test_without_an_owner_the_key_has_to_do(redis_server: RedisServer) -> None:
    """Older processors do not answer; nor does anybody for a symbol that is nobody's."""
    async with owning(redis_server) as owner, relay_to(redis_server) as relay:
        with redis_server.client() as client:
            client.set("stocks:trades:B1", '{"price":1}')

        found = await relay.cache.get("stocks:trades:B1")

        assert found is not None
        assert found.value == {"price": 1}
        assert owner.looked == []
        assert relay.asker.unheard == 1


@pytest.mark.parametrize("why", ["silent", "lease lost", "refused"])
async def test_who_may_not_speak_does_not_answer(redis_server: RedisServer, why: str) -> None:
    """During its replay, or where the partition may be another's."""
    async with owning(redis_server) as owner, relay_to(redis_server) as relay:
        owner.values["A1"] = {"price": 7.5}
        match why:
            case "silent":
                owner.output.silent = True
            case "lease lost":
                owner.output.valid = lambda: False
            case _:
                owner.output.refused = True

        with pytest.raises(Unheard):
            await relay.asker.ask("stocks:trades:A1")
        assert owner.looked == []


async def test_all_who_ask_at_once_have_one_answer(redis_server: RedisServer) -> None:
    """One question for a hundred clients that open the same page; whoever leaves takes it from nobody."""
    async with owning(redis_server) as owner, relay_to(redis_server) as relay:
        owner.values["A1"] = {"price": 7.5}
        tasks = [asyncio.create_task(relay.asker.ask("stocks:trades:A1")) for _ in range(100)]
        await asyncio.sleep(0)
        tasks[0].cancel()

        answers = await asyncio.gather(*tasks, return_exceptions=True)

        assert isinstance(answers[0], asyncio.CancelledError)
        assert answers[1:] == [b'{"price":7.5}'] * 99
        assert owner.looked == ["A1"]


async def test_many_symbols_are_asked_for_at_the_same_time(redis_server: RedisServer) -> None:
    """More than there are connections."""
    async with owning(redis_server) as owner, relay_to(redis_server) as relay:
        feeds = [f"stocks:trades:A{number}" for number in range(12)]
        owner.values.update({f"A{number}": number for number in range(12)})

        assert await asyncio.gather(*map(relay.asker.ask, feeds)) == [str(n).encode() for n in range(12)]


@pytest.mark.parametrize(
    "word",
    ["", " ", "n", "n nonsense", "n quote:A1", "{n} stocks:trades:A1", f"{'n' * 101} stocks:trades:A1",
     " stocks:trades:A1", "n stocks:quotes:A1"],
)  # fmt: skip
async def test_what_is_no_question_for_us_is_left_alone(redis_server: RedisServer, word: str) -> None:
    """Other families have keys; names are not let through to Redis as they come."""
    async with owning(redis_server) as owner:
        owner.values["A1"] = 1
        owner.writer.answerer.heard(word)
        await asyncio.sleep(0)

        assert owner.looked == []


async def test_an_asker_that_ends_leaves_nobody_waiting(redis_server: RedisServer) -> None:
    """Its questions end with it."""
    client: Any = connect(redis_server.config())
    asker = Asker(client, KEYS, "wds-1")
    task = asyncio.create_task(asker.ask(QUOTES.feed("A1")))
    await asyncio.sleep(0.01)

    await asker.stop()

    with pytest.raises(asyncio.CancelledError):
        await task
    await client.aclose()
