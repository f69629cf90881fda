"""Reference values in processors that do not fetch them: with the first event, as in the one that does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from mdp.cache import paths
from mdp.roles.assembly import RoleProcess
from tests.cache.provider import Answer, serving
from tests.cache.provider import Provider as Silent
from tests.processor.processors import KEYS, Listener
from tests.processor.test_partitions import market
from tests.redis_server import RedisServer
from tests.roles.test_processor import PARTITIONS, config, live, role
from tests.roles.test_processor_reference import Provider
from tests.waiting import eventually

BEFORE_OPEN = {"market": "extended-hours", "serverTime": "2026-03-10T09:29:00-04:00"}  # the day of `market`


@asynccontextmanager
async def two(server: RedisServer, provider: Silent) -> AsyncIterator[tuple[RoleProcess, RoleProcess]]:
    """The one that fetches, and another one; half of the partitions each."""
    first, second = (RoleProcess(config(server, rest=provider.url), ["processor"]) for _ in range(2))
    try:
        await first.start()
        await eventually(lambda: role(first).reference.lease.valid())
        await second.start()
        await eventually(lambda: live(first) == live(second) == PARTITIONS // 2)
        yield first, second
    finally:
        await second.stop()
        await first.stop()


def references(process: RoleProcess) -> list[Any]:
    """What its symbols know."""
    engines = [one.engine for one in role(process).partitions.working.values()]
    return [state.reference for engine in engines for state in engine.market.symbols.values()]


async def send(server: RedisServer, seconds: int) -> None:
    """So many seconds of the market."""
    listener = Listener(server, PARTITIONS)
    await listener.start()
    try:
        await listener.send(market(seconds))
    finally:
        await listener.stop()


def status(server: RedisServer) -> Any:
    """`market:status`; an empty one before the first."""
    with server.client() as client:
        return json.loads(client.get(f"{KEYS.prefix}market:status") or "{}")


async def test_values_are_there_with_the_first_event(redis_server: RedisServer) -> None:
    """Of the day that is due by the provider's time, before any event tells the day."""
    provider = Provider()
    provider.answers[paths.STATUS] = json.dumps(BEFORE_OPEN).encode()
    async with serving(provider), two(redis_server, provider) as (_, other):
        await eventually(lambda: not status(redis_server).get("warming_up", True))
        # The status may still be of when the first one had all partitions.
        await eventually(lambda: not role(other).reference.warming_up)
        seen: list[tuple[float, tuple[str, ...]]] = []

        def look(process: RoleProcess) -> bool:
            seen.extend((known.avg_volume, known.pending) for known in references(process))
            return bool(seen)

        await asyncio.gather(send(redis_server, 1), eventually(lambda: look(other)))

        assert set(seen) == {(1_000, ())}


async def test_the_status_says_that_values_are_on_their_way(redis_server: RedisServer) -> None:
    """`warming_up` until the provider has answered, though partitions are at work and no event has come."""
    provider, answer = Provider(), asyncio.Event()
    provider.answers[paths.STATUS] = json.dumps(BEFORE_OPEN).encode()
    bars = provider.answers[paths.GROUPED]

    async def late(_request: web.Request) -> Answer:
        await answer.wait()
        assert isinstance(bars, bytes)
        return bars

    provider.answers[paths.GROUPED] = late
    async with serving(provider), two(redis_server, provider) as processes:
        await eventually(lambda: status(redis_server).get("warming_up", False))
        assert all(role(process).reference.warming_up for process in processes)
        answer.set()
        await eventually(lambda: not status(redis_server)["warming_up"])
        assert not any(role(process).reference.warming_up for process in processes)


async def test_nobody_waits_for_what_the_provider_does_not_have(redis_server: RedisServer) -> None:
    """`pending` is empty in the end, in the one that asked and in the other one: it is told."""
    provider = Silent()
    provider.answers[paths.STATUS] = json.dumps(BEFORE_OPEN).encode()
    async with serving(provider), two(redis_server, provider) as processes:
        await send(redis_server, 5)
        for process in processes:
            await eventually(lambda process=process: bool(references(process)))  # type: ignore[misc]
            await eventually(
                lambda process=process: {known.pending for known in references(process)} == {()}  # type: ignore[misc]
            )


async def test_who_joins_has_values_from_the_first_moment_on(redis_server: RedisServer) -> None:
    """Partitions that were at work elsewhere come without a moment in which closes and volumes are 0."""
    provider = Provider()
    provider.answers[paths.STATUS] = json.dumps(BEFORE_OPEN).encode()
    async with serving(provider):
        first, second = (
            RoleProcess(config(redis_server, rest=provider.url), ["processor"]) for _ in range(2)
        )
        try:
            await first.start()
            await eventually(lambda: live(first) == PARTITIONS)
            await send(redis_server, 5)
            await eventually(lambda: role(first).reference.shared and not role(first).reference.warming_up)
            seen: set[float] = set()
            role(second).partitions.on_ready.append(
                lambda _partition, engine: seen.update(
                    state.reference.avg_volume for state in engine.market.symbols.values()
                )
            )
            await second.start()
            await eventually(lambda: live(second) == PARTITIONS // 2)
            assert seen == {1_000}
        finally:
            await second.stop()
            await first.stop()
