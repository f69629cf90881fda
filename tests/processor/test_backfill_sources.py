"""Turns with the provider, and the one snapshot: who is next, and who asks."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from mdp.cache.rest import RestError
from mdp.exchange_calendar import ExchangeCalendar
from mdp.processor import backfill_sources as module
from mdp.processor.backfill_sources import SharedSnapshot, Turns
from mdp.sessions import MarketClock, TradingDay
from tests.analyzers.rig import at


def day_of(ms: int) -> TradingDay:
    clock = MarketClock(calendar=ExchangeCalendar())
    clock.set(ms)
    assert clock.day is not None
    return clock.day


DAY = day_of(at(12))


async def test_so_many_have_a_turn_and_the_lowest_place_is_next() -> None:
    """Whoever waited longer comes first among equals."""
    turns, order, most, now = Turns(2), list[str](), 0, 0
    free = asyncio.Event()

    async def ask(name: str, place: float) -> None:
        nonlocal most, now
        async with turns.turn(place):
            now += 1
            most = max(most, now)
            order.append(name)
            await free.wait()
            now -= 1

    places = {"a": 5.0, "b": 4.0, "c": 3.0, "d": 1.0, "e": 3.0}
    tasks = [asyncio.create_task(ask(name, place)) for name, place in places.items()]
    await asyncio.sleep(0)
    assert order == ["a", "b"]
    free.set()
    await asyncio.gather(*tasks)
    assert (order, most) == (["a", "b", "d", "c", "e"], 2)


async def test_a_turn_is_not_lost_with_who_waited_for_it() -> None:
    """Cancelled while waiting, or in the very moment in which it was given; or failed within."""
    turns = Turns(1)
    held = turns.turn(0)
    await held.__aenter__()
    waiting = [asyncio.create_task(turns.turn(place).__aenter__()) for place in range(2)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    await held.__aexit__(None, None, None)
    waiting[1].cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    with pytest.raises(ValueError, match="within"):
        async with turns.turn(0):
            raise ValueError("within")
    async with asyncio.timeout(60), turns.turn(0):
        pass


class Provider:
    """Answers with volumes, or fails."""

    def __init__(self) -> None:
        self.now = 10.0
        self.error: RestError | None = None
        self.volumes: dict[str, float] = {f"S{n}": float(n) for n in range(1_200)}
        self.snapshot = SharedSnapshot(self.ask, lambda symbol: int(symbol[1:]) % 2, clock=lambda: self.now)

    async def ask(self, _day: TradingDay) -> Mapping[str, float]:
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return self.volumes


async def test_all_partitions_share_one_snapshot() -> None:
    """Each gets its own symbols; also those that ask while it is on its way."""
    provider = Provider()
    even, odd = await asyncio.gather(*[provider.snapshot.of(p, DAY, 9.0) for p in (0, 1)])
    assert provider.snapshot.asked == 1
    assert len(even) == len(odd) == 600
    assert even["S4"] == 4.0
    assert await provider.snapshot.of(7, DAY, 9.0) == {}


async def test_one_of_before_the_loss_was_over_is_no_use() -> None:
    """Nor one of another day."""
    provider = Provider()
    await provider.snapshot.of(0, DAY, 9.0)
    provider.now = 20.0
    await provider.snapshot.of(0, DAY, 15.0)
    assert provider.snapshot.asked == 2
    await provider.snapshot.of(0, day_of(at(12) + 86_400_000), 15.0)
    assert provider.snapshot.asked == 3


async def test_a_failure_is_everybodys_until_another_is_wanted() -> None:
    """Sixteen partitions do not ask sixteen times a provider that has none."""
    provider = Provider()
    provider.error = RestError("/v2", "HTTP 500", status=500)
    for partition in (0, 1):
        with pytest.raises(RestError):
            await provider.snapshot.of(partition, DAY, 9.0)
    assert provider.snapshot.asked == 1
    provider.error, provider.now = None, 20.0
    assert await provider.snapshot.of(0, DAY, 20.0)


async def test_it_is_forgotten_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Megabytes that nobody needs between two outages; and a question that was cut off is no answer."""
    monkeypatch.setattr(module, "KEEP_SECONDS", 0.0)
    provider = Provider()
    await provider.snapshot.of(0, DAY, 9.0)
    await asyncio.sleep(0.01)
    assert await provider.snapshot.of(0, DAY, 9.0)
    assert provider.snapshot.asked == 2
    await asyncio.sleep(0.01)
    asking = asyncio.create_task(provider.snapshot.of(0, DAY, 9.0))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert await provider.snapshot.of(0, DAY, 9.0)
