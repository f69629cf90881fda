"""Partitions over processors, against a real Redis: all held, by one each, evenly, handed over at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from mdp.cache.control import Control
from mdp.cache.keys import Keys
from mdp.cache.leases import Lease
from mdp.cache.members import Members, share
from mdp.cache.redis_link import connect
from mdp.cache.tasks import end
from mdp.config import CacheConfig
from mdp.processor.spread import Spread
from tests.redis_server import RedisServer
from tests.tcp_proxy import TcpProxy
from tests.waiting import eventually

KEYS = Keys("t:")
PARTITIONS = 8
SLOW: dict[str, Any] = {"seconds": 1_200.0, "renew_seconds": 300.0, "margin_seconds": 300.0}  # no timer helps
QUICK: dict[str, Any] = {"seconds": 0.6, "renew_seconds": 0.1, "margin_seconds": 0.2}


class Work:
    """What a processor does with its partitions, written down."""

    def __init__(self) -> None:
        self.working: dict[int, Lease] = {}
        self.log: list[tuple[str, int]] = []
        self.refuse: set[int] = set()
        self.slow = asyncio.Event()  # cleared: takes and gives wait
        self.slow.set()

    async def take(self, partition: int, lease: Lease) -> None:
        assert lease.valid()
        await self.slow.wait()
        if partition in self.refuse:
            raise ValueError("cannot")
        self.working[partition] = lease
        self.log.append(("take", partition))

    async def give(self, partition: int) -> None:
        await self.slow.wait()
        self.log.append(("give", partition))
        assert partition not in self.working or self.working[partition].valid(), "written under the lease"

    def drop(self, partition: int) -> None:
        self.working.pop(partition, None)
        self.log.append(("drop", partition))


class Node:
    """One processor."""

    def __init__(
        self, client: Redis, member: str, *, only: Collection[int] | None = None, **times: Any
    ) -> None:
        self.control = Control(client, KEYS.control)
        self.work = Work()
        self.spread = Spread(
            client, KEYS, self.control, self.work, member=member, partitions=PARTITIONS, only=only, **times
        )

    async def start(self) -> None:
        await self.control.start()
        await self.control.ready()
        await self.spread.start()

    async def stop(self) -> None:
        await self.spread.stop()
        await self.control.stop()

    async def crash(self) -> None:
        """As `kill -9`, as far as Redis sees it."""
        assert self.spread._task is not None
        await end(self.spread._task)

    @property
    def working(self) -> set[int]:
        return set(self.work.working)


@asynccontextmanager
async def nodes(server: RedisServer) -> AsyncIterator[Any]:
    clients: list[Redis] = []
    made: list[Node] = []

    async def join(member: str, *, port: int = 0, **settings: Any) -> Node:
        client = connect(CacheConfig(url=f"redis://127.0.0.1:{port}/0") if port else server.config())
        clients.append(client)
        node = Node(client, member, **settings)
        made.append(node)
        await node.start()
        return node

    try:
        yield join
    finally:
        for node in made:
            await node.stop()
        for client in clients:
            await client.aclose()


def spread_out(*members: Node) -> bool:
    """Every partition is worked on by exactly one, and nobody has more than a share."""
    held = [node.working for node in members]
    return (
        sum(map(len, held)) == PARTITIONS
        and set().union(*held) == set(range(PARTITIONS))
        and max(map(len, held)) <= share(PARTITIONS, len(members))
    )


@given(partitions=st.integers(1, 1_024), members=st.integers(1, 1_100))
def test_shares_cover_all_partitions_and_none_is_larger_than_needed(partitions: int, members: int) -> None:
    """So many members with a share each hold everything; with one partition less each, they could not."""
    each = share(partitions, members)
    assert each * members >= partitions
    assert (each - 1) * members < partitions


async def test_one_processor_takes_everything_and_a_second_gets_half_at_once(
    redis_server: RedisServer,
) -> None:
    """The surplus is finished first, then released; no timer is waited for."""
    async with nodes(redis_server) as join:
        first = await join("a", **SLOW)
        await eventually(lambda: spread_out(first))
        second = await join("b", **SLOW)

        await eventually(lambda: spread_out(first, second))

        for partition in second.working:
            at = first.work.log.index(("give", partition))
            assert ("drop", partition) in first.work.log[at:], "given before it was dropped"


async def test_whoever_has_enough_knows_what_is_anothers(redis_server: RedisServer) -> None:
    """Else it would keep an old state of such a partition, and go on from it where Redis came back empty."""
    async with nodes(redis_server) as join:
        first = await join("a")
        second = await join("b")
        await eventually(lambda: spread_out(first, second))

        def known(node: Node) -> set[int]:
            return {p for p, lease in node.spread.leases.items() if lease.free_in_seconds > 0}

        await eventually(lambda: known(first) == second.working and known(second) == first.working)


async def test_whoever_stops_hands_everything_over_at_once(redis_server: RedisServer) -> None:
    """Those who stay learn that there are fewer of them before they hear what is free."""
    async with nodes(redis_server) as join:
        members = [await join(name, **SLOW) for name in "abc"]
        await eventually(lambda: spread_out(*members))
        had = members[0].working

        await members[0].stop()

        await eventually(lambda: spread_out(*members[1:]))
        assert {p for word, p in members[0].work.log if word == "give"} >= had
        assert members[0].working == set()


async def test_what_a_crashed_processor_held_is_taken_when_its_leases_end(redis_server: RedisServer) -> None:
    """By the others, evenly, without a word from it; its own writes are refused from then on."""
    async with nodes(redis_server) as join:
        # Long enough for a busy machine to renew them: a lease is to end for one reason only.
        times = {"seconds": 2.0, "renew_seconds": 0.2, "margin_seconds": 0.5}
        members = [await join(name, **times) for name in "abc"]
        await eventually(lambda: spread_out(*members))
        late = dict(members[0].work.working)

        await members[0].crash()

        await eventually(lambda: spread_out(*members[1:]))
        for partition, lease in late.items():
            assert not lease.valid()
            successor = next(node for node in members[1:] if partition in node.working)
            assert successor.work.working[partition].epoch > lease.epoch


async def test_a_processor_without_redis_stops_before_its_leases_end_and_goes_on_afterwards(
    redis_server: RedisServer,
) -> None:
    """It drops everything while Redis is frozen, and takes it again."""
    async with nodes(redis_server) as join:
        node = await join("a", **QUICK)
        await eventually(lambda: spread_out(node))

        redis_server.freeze()
        await eventually(lambda: not node.working)
        assert not node.spread.health().ok
        redis_server.thaw()

        await eventually(lambda: spread_out(node))
        assert node.spread.health().ok


@pytest.mark.parametrize("again", [False, True], ids=["once", "again"])
async def test_a_redis_that_came_back_empty_gives_each_what_it_had(
    redis_server: RedisServer, again: bool
) -> None:
    """Whoever is back first leaves the others, while a lease lasts, what only they remember.

    Also where it was empty before: the time that was waited then does not count.
    """
    ahead = [0.0]
    times = {**QUICK, "seconds": 4.0, "clock": lambda: time.monotonic() + ahead[0]}
    async with nodes(redis_server) as join, TcpProxy(redis_server.port) as proxy:
        first, second = await join("a", **times), await join("b", port=proxy.port, **times)
        await eventually(lambda: spread_out(first, second))
        if again:
            # What it noted then of partitions that their last owner took a moment later.
            first.spread._new_since = dict.fromkeys(second.working, time.monotonic())
        had = first.working, second.working
        proxy.cut()
        redis_server.kill()
        ahead[0] = 5.0  # all leases are over
        await eventually(lambda: not first.working and not second.working)
        redis_server.start()
        await eventually(lambda: first.working >= had[0] and first.spread.members == ["a"])
        proxy.mend()
        await eventually(lambda: spread_out(first, second))
        assert (first.working, second.working) == had
        assert ("take", min(had[1])) not in first.work.log[first.work.log.index(("drop", min(had[0]))) :]


async def test_what_an_empty_redis_does_not_know_is_taken_where_nobody_comes_for_it(
    redis_server: RedisServer,
) -> None:
    """When a lease would be over, its last owner counts as gone."""
    async with nodes(redis_server) as join:
        first, second = await join("a", **QUICK), await join("b", **QUICK)
        await eventually(lambda: spread_out(first, second))
        await second.crash()
        redis_server.restart()
        await eventually(lambda: spread_out(first))


async def test_leases_are_renewed_while_a_partition_takes_long_to_load_or_to_finish(
    redis_server: RedisServer,
) -> None:
    """Loading a checkpoint may take seconds: other leases, and this one, go on."""
    async with nodes(redis_server) as join:
        node = Node(connect(redis_server.config()), "a", **QUICK)
        node.work.slow.clear()
        await node.start()
        await eventually(lambda: len(node.spread.held) == PARTITIONS)
        await asyncio.sleep(QUICK["seconds"] * 1.5)
        assert all(lease.valid() for lease in node.spread.leases.values())
        assert all(lease.acquisitions == 1 for lease in node.spread.leases.values())
        node.work.slow.set()
        await eventually(lambda: spread_out(node))

        node.work.slow.clear()
        stopping = asyncio.create_task(node.stop())
        await asyncio.sleep(QUICK["seconds"] * 1.5)
        assert len(node.spread.held) == PARTITIONS
        node.work.slow.set()
        await stopping
        assert node.spread.held == []
        heir = await join("b", **SLOW)
        await eventually(lambda: spread_out(heir))


async def test_a_static_assignment_is_kept_whoever_else_is_there(redis_server: RedisServer) -> None:
    """Each takes its own partitions and no others, also while those are free."""
    async with nodes(redis_server) as join:
        low = await join("a", only=range(3), **SLOW)
        await eventually(lambda: low.working == {0, 1, 2})
        high = await join("b", only=range(3, PARTITIONS), **SLOW)

        await eventually(lambda: high.working == set(range(3, PARTITIONS)))

        assert low.working == {0, 1, 2}


async def test_a_partition_that_cannot_be_worked_on_is_released(redis_server: RedisServer) -> None:
    """Another may be able to: it gets it at once, and there is no race for it."""
    async with nodes(redis_server) as join:
        node = Node(connect(redis_server.config()), "a", **SLOW)
        node.work.refuse = {5}
        await node.start()
        await eventually(lambda: node.working == set(range(PARTITIONS)) - {5} and 5 not in node.spread.held)

        other = await join("b", only={5}, **SLOW)
        await eventually(lambda: other.working == {5})

        assert node.spread.leases[5].acquisitions == 1
        await node.stop()


@pytest.mark.parametrize("gone", ["leaves", "falls silent"])
async def test_members_are_those_with_a_recent_sign_of_life(redis_server: RedisServer, gone: str) -> None:
    """By Redis's clock; who leaves is gone at once."""
    client = connect(redis_server.config())
    key = KEYS.members
    one = Members(client, key, "one", alive_seconds=0.3)
    two = Members(client, key, "two", alive_seconds=0.3)
    assert await one.sign() == ["one"]
    assert await two.sign() == ["one", "two"]

    if gone == "leaves":
        await one.leave()
    else:
        await asyncio.sleep(0.35)

    assert await two.sign() == ["two"]
    await client.aclose()


async def test_a_partition_whose_epoch_is_refused_is_taken_again_with_a_newer_one(
    redis_server: RedisServer,
) -> None:
    """It would else be held, renewed, and worked on by nobody."""
    async with nodes(redis_server) as join:
        node = await join("a", **QUICK)
        await eventually(lambda: node.working == set(range(PARTITIONS)))
        before = node.spread.leases[3].epoch

        node.spread.refused(3)

        assert 3 not in node.working, "at once"
        await eventually(lambda: node.working == set(range(PARTITIONS)))
        assert node.spread.leases[3].epoch > before


async def test_what_is_not_finished_in_time_is_let_go(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends in two seconds; its leases are free, and nothing is written under them any more."""
    monkeypatch.setattr("mdp.processor.spread._FINISH_SECONDS", 0.02)
    client = connect(redis_server.config())
    node = Node(client, "a", **SLOW)
    await node.start()
    try:
        await eventually(lambda: len(node.work.working) == PARTITIONS)
        node.work.slow.clear()
        await node.stop()
        assert sorted(p for what, p in node.work.log if what == "drop") == list(range(PARTITIONS))
        assert not [p for what, p in node.work.log if what == "give"]
        assert await client.keys("t:mdp:lease:*") == []
    finally:
        await client.aclose()
