"""One rate for all processes around a real Redis. Rates are so low that a slow test changes nothing."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from mdp.cache.keys import Keys
from mdp.cache.redis_link import connect
from mdp.cache.rest import RestClient
from mdp.cache.shared_rate import SharedRate
from tests.cache.provider import Provider, serving
from tests.redis_server import RedisServer

KEYS = Keys("x:")
GAP_SECONDS = 1_000.0


def rate_of(client: Redis, burst: float = 1.0) -> SharedRate:
    """As each process makes one."""
    return SharedRate(client, KEYS, 1 / GAP_SECONDS, burst, clock=lambda: 0.0)


async def test_four_processes_start_as_many_requests_as_one(client: Redis) -> None:
    """Whoever asks, each start is a gap behind the one before."""
    rates = [rate_of(client) for _ in range(4)]

    waits = await asyncio.gather(*(rate.take() for rate in rates for _ in range(3)))

    assert sorted(waits) == pytest.approx([GAP_SECONDS * number for number in range(12)], abs=30)


async def test_after_a_pause_a_burst_starts_at_once_in_all_processes_together(client: Redis) -> None:
    """Three, not three each."""
    rates = [rate_of(client, burst=3) for _ in range(2)]

    waits = [await rates[number % 2].take() for number in range(5)]

    assert waits == pytest.approx([0, 0, 0, GAP_SECONDS, 2 * GAP_SECONDS], abs=30)


async def test_a_clock_of_redis_that_went_back_stops_nobody_for_long(
    client: Redis, redis_server: RedisServer
) -> None:
    """A start in the far future cannot have been reserved by anybody."""
    with redis_server.client() as direct:
        seconds, us = direct.time()
        direct.set(KEYS.rest, seconds * 1_000_000 + us + int(1e6 * GAP_SECONDS * 2_000))

    assert await rate_of(client).take() == pytest.approx(0, abs=30)


async def test_what_nobody_asks_for_is_forgotten(client: Redis) -> None:
    """The key goes once it says nothing any more."""
    await rate_of(client).take()

    assert 0 < await client.pttl(KEYS.rest) <= 1_000 * GAP_SECONDS + 1_000


async def test_without_redis_a_process_keeps_to_the_rate_by_itself(redis_server: RedisServer) -> None:
    """And says so."""
    lost = connect(redis_server.config())
    rate = rate_of(lost, burst=2)
    redis_server.kill()
    try:
        assert [await rate.take() for _ in range(4)] == pytest.approx([0, 0, GAP_SECONDS, 2 * GAP_SECONDS])
        assert rate.alone == 4
    finally:
        await lost.aclose()


async def test_clients_of_two_processes_wait_for_their_turns(client: Redis) -> None:
    """Every try of a request takes one, before it is sent."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    provider = Provider()
    provider.answers["/a"] = b"{}"
    async with serving(provider):
        clients = [RestClient(provider.url, turn=rate_of(client).take, sleep=sleep) for _ in range(2)]
        try:
            for number in range(4):
                await clients[number % 2].get("/a")
        finally:
            for one in clients:
                await one.close()

    assert len(provider.asked) == 4
    assert slept == pytest.approx([GAP_SECONDS, 2 * GAP_SECONDS, 3 * GAP_SECONDS], abs=30)
