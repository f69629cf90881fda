"""One process fetches a day's reference values, the others load them: over a real Redis, leases by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import date, datetime
from typing import Any, cast
from zoneinfo import ZoneInfo

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from mdp.cache import paths, schemas
from mdp.cache.keys import Keys
from mdp.cache.leases import Lease
from mdp.cache.redis_link import connect
from mdp.cache.reference import Reference
from mdp.cache.rest import RestClient
from mdp.exchange_calendar import ExchangeCalendar
from mdp.processor.shared_reference import SharedReference
from tests.cache.market import TODAY, Market
from tests.cache.provider import hang, serving
from tests.redis_server import RedisServer
from tests.waiting import eventually

KEYS = Keys("t:")
NEWER = schemas.REFERENCE + 1
NOON_MS = (
    datetime(TODAY.year, TODAY.month, TODAY.day, 12, tzinfo=ZoneInfo("America/New_York")).timestamp() * 1e3
)


class Turn:
    """A lease that a test gives and takes."""

    def __init__(self) -> None:
        self.held = False
        self.free_in_seconds = 0.0  # when another's ends
        self.on_gained: list[Callable[[int], None]] = []

    def valid(self) -> bool:
        return self.held

    async def start(self) -> None:
        """Nothing is asked of Redis."""

    async def stop(self) -> None:
        """Nor given back."""


class Process:
    """What one process has of the reference values; looks when told to."""

    def __init__(self, client: Redis, url: str, clock: Callable[[], float]) -> None:
        self.turn = Turn()
        self.rest = RestClient(url, rate=1e6)
        self.reference = Reference(self.rest, server_ms=lambda: NOON_MS, market_day=lambda: TODAY)
        self.shared = SharedReference(
            client,
            KEYS,
            cast(Lease, self.turn),
            self.reference,
            lambda: (),
            calendar=ExchangeCalendar(),
            wall_ms=lambda: int(clock() * 1_000) + 1_700_000_000_000,
            clock=clock,
        )

    @property
    def closes(self) -> dict[str, Any]:
        return {symbol: row.prev_day_close for symbol, row in self.reference.rows.items()}


class World:
    """Two processes and a provider; time goes on by ten seconds whenever it is read."""

    def __init__(self, client: Redis, provider: Market) -> None:
        self.provider = provider
        self._now = 0.0
        self.one, self.two = (Process(client, provider.url, self._clock) for _ in range(2))

    def _clock(self) -> float:
        self._now += 10
        return self._now

    def give(self, process: Process | None) -> None:
        """Let a process have the lease; None: Redis is gone, and nobody knows."""
        for one in (self.one, self.two):
            one.turn.held = one is process
            one.turn.free_in_seconds = 2.0 if process not in (None, one) else 0.0


@asynccontextmanager
async def world(server: RedisServer) -> AsyncIterator[World]:
    client = connect(server.config())
    async with serving(Market()) as provider:
        made = World(client, cast(Market, provider))
        try:
            yield made
        finally:
            for process in (made.one, made.two):
                await process.shared.stop()
            await client.aclose()


async def fetched(made: World) -> None:
    """The first process has everything, and Redis, too."""
    made.give(made.one)
    await made.one.shared.look()
    await eventually(lambda: made.one.reference.complete)
    await made.one.shared.look()


async def test_who_has_the_lease_asks_and_the_other_loads(redis_server: RedisServer) -> None:
    """The provider hears one process."""
    async with world(redis_server) as made:
        await fetched(made)
        asked = len(made.provider.asked)

        made.two.reference.enter(TODAY)
        await made.two.shared.look()

        assert made.two.closes == made.one.closes == {"AAPL": 50, "MSFT": 50}
        assert made.two.reference.complete
        assert len(made.provider.asked) == asked


async def test_a_day_that_began_before_the_lease_is_there_for_who_joins(redis_server: RedisServer) -> None:
    """Events told the day while nobody fetched yet: who joins still has the values before its first event."""
    async with world(redis_server) as made:
        made.one.reference.enter(TODAY)
        await fetched(made)

        await made.two.shared.start()
        made.two.reference.enter(TODAY)

        assert made.two.closes == made.one.closes


async def test_a_successor_asks_for_nothing_that_is_there(redis_server: RedisServer) -> None:
    """It loads before it begins to fetch."""
    async with world(redis_server) as made:
        await fetched(made)
        asked = len(made.provider.asked)
        made.two.reference.enter(TODAY)

        made.give(made.two)
        await made.two.shared.look()
        await made.two.shared.look()

        assert made.two.reference.complete
        assert len(made.provider.asked) == asked


async def test_who_lost_the_lease_to_another_asks_no_more(redis_server: RedisServer) -> None:
    """Two would ask for everything twice from then on; what is still missing it loads like the others."""
    async with world(redis_server) as made:
        grouped, made.provider.answers[paths.GROUPED] = made.provider.answers[paths.GROUPED], hang
        made.give(made.one)
        await made.one.shared.look()
        await eventually(lambda: made.provider.count(paths.GROUPED) > 0)

        made.give(made.two)
        await made.one.shared.look()
        made.provider.answers[paths.GROUPED] = grouped
        asked = sum(made.one.rest.requests.values())
        await made.two.shared.look()
        await eventually(lambda: made.two.reference.complete)
        await made.two.shared.look()
        await made.one.shared.look()

        assert made.one.closes == made.two.closes == {"AAPL": 50, "MSFT": 50}
        assert sum(made.one.rest.requests.values()) == asked


async def test_who_lost_redis_goes_on_asking(redis_server: RedisServer) -> None:
    """Nobody else can have begun, as far as it knows, and its partitions need the values."""
    async with world(redis_server) as made:
        made.give(made.one)
        await made.one.shared.look()

        made.give(None)
        await made.one.shared.look()
        await eventually(lambda: made.one.reference.complete)

        assert made.one.closes == {"AAPL": 50, "MSFT": 50}


async def test_who_gets_the_lease_back_goes_on(redis_server: RedisServer) -> None:
    """Paused is not stopped."""
    async with world(redis_server) as made:
        made.provider.answers[paths.FLOAT] = [503, made.provider.answers[paths.FLOAT]]  # type: ignore[list-item]
        await fetched_but_floats(made)
        made.give(made.two)
        await made.one.shared.look()

        made.give(made.one)
        await made.one.shared.look()
        await eventually(lambda: made.one.reference.complete)

        assert made.one.reference.rows["AAPL"].free_float == 15_000_000_000


async def fetched_but_floats(made: World) -> None:
    """The first process waits for the floats' second try."""
    made.give(made.one)
    await made.one.shared.look()
    await eventually(lambda: bool(made.one.reference.rows) and made.provider.count(paths.FLOAT) > 0)


@pytest.mark.parametrize("day", [date(2026, 9, 22), date(2026, 9, 24)])
async def test_another_day_is_another_key(redis_server: RedisServer, day: date) -> None:
    """Values of one day are never taken for those of another."""
    async with world(redis_server) as made:
        await fetched(made)
        made.two.reference.enter(day)
        await made.two.shared.look()

        assert made.two.closes == {}


async def test_newer_values_are_left_alone_and_said_once(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old process goes on with what it has, and when it is its turn it fetches its own."""
    async with world(redis_server) as made:
        new = newer(made, monkeypatch)
        await fetched_by(made, new)
        made.two.reference.enter(TODAY)
        with capture_logs() as logs:
            for _ in range(3):
                await made.two.shared.look()

        assert made.two.closes == {}
        assert made.two.shared.refused.count == 1, "not read again while it is the same"
        assert [line["reason"] for line in logs if line["event"] == "reader_too_old"] == [
            f"reference values of version {NEWER}; this process reads up to {NEWER - 1}: upgrade it, too"
        ]
        made.give(made.two)
        await made.two.shared.look()
        await eventually(lambda: made.two.reference.complete)
        assert made.two.closes == {"AAPL": 50, "MSFT": 50}
        await new.shared.stop()


async def test_values_of_an_older_process_are_read(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider is not asked again because of an upgrade."""
    async with world(redis_server) as made:
        await fetched(made)
        asked = len(made.provider.asked)
        new = newer(made, monkeypatch)
        new.reference.enter(TODAY)
        await new.shared.look()

        assert new.closes == {"AAPL": 50, "MSFT": 50}
        assert new.shared.refused.count == 0
        assert len(made.provider.asked) == asked
        await new.shared.stop()


def newer(made: World, monkeypatch: pytest.MonkeyPatch) -> Process:
    """A process of the version after ours, beside two of ours."""
    with monkeypatch.context() as patch:
        patch.setattr(schemas, "REFERENCE", NEWER)
        return Process(made.one.shared._client, made.provider.url, made._clock)


async def fetched_by(made: World, process: Process) -> None:
    """One that is neither of the two has everything, and Redis, too."""
    process.turn.held = True
    made.give(process)
    await process.shared.look()
    await eventually(lambda: process.reference.complete)
    await process.shared.look()
