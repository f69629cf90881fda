"""Steps end in time, also where the clock does not see what they cost."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from mdp.wds.counters import WdsCounters
from mdp.wds.pace import BYTES_A_TURN, CHECK_EVERY, PIECES_A_TURN, STEP_SECONDS, Load, Pace, own_time


class Rig:
    """A pace with time by hand, beside a task that counts the loop's turns."""

    def __init__(self) -> None:
        self.now = 0.0
        self.counters = WdsCounters()
        self.turns = 0
        self.pace = Pace(lambda: self.now, self.counters)

    async def turned(self, pieces: int, *, bytes_each: int = 0, seconds_each: float = 0.0) -> int:
        """Turns of the loop while so many pieces of work are done."""

        async def count() -> None:
            while True:
                self.turns += 1
                await asyncio.sleep(0)

        counter = asyncio.create_task(count())
        for _ in range(pieces):
            self.counters.bytes_sent += bytes_each
            self.now += seconds_each
            await self.pace.maybe_yield()
        counter.cancel()
        return self.turns


async def test_short_work_is_not_interrupted() -> None:
    """Fewer pieces than a turn has room for, little written, no time gone."""
    assert await Rig().turned(PIECES_A_TURN - 1, bytes_each=BYTES_A_TURN // PIECES_A_TURN - 1) == 0


async def test_a_long_step_gives_the_loop_back() -> None:
    """The clock is looked at every 64 pieces."""
    assert await Rig().turned(3 * CHECK_EVERY, seconds_each=STEP_SECONDS / CHECK_EVERY * 1.01) == 3


async def test_many_writes_are_spread_over_turns() -> None:
    """uvloop writes after the step: the clock stands still for it."""
    assert await Rig().turned(5 * PIECES_A_TURN) == 5


async def test_large_writes_are_spread_over_turns() -> None:
    """Ten of a fifth of what a turn may write take two turns, not one."""
    assert await Rig().turned(10, bytes_each=BYTES_A_TURN // 5 + 1) == 2


def test_load_is_the_part_of_the_time_with_a_processor() -> None:
    """Half of it; the whole after a while; little by little, so that one busy moment is no load."""
    clock, cpu = iter(range(1, 200)), [0.0]
    load = Load(lambda: float(next(clock)), lambda: cpu[0])

    def after(calls: int, worked: float) -> float:
        for _ in range(calls):
            cpu[0] += worked
            now = load.now()
        return now

    assert after(1, 1.0) == pytest.approx(0.125)
    assert after(60, 0.5) == pytest.approx(0.5, abs=0.001)
    assert after(60, 1.0) == pytest.approx(1.0, abs=0.001)
    assert after(1, 7.0) <= 1.0  # two clocks do not agree to the microsecond


def test_no_time_is_no_load() -> None:
    """Two looks at once, and a clock that was put back by nobody's fault, change nothing."""
    now = [5.0]
    load = Load(lambda: now[0], lambda: now[0])
    assert load.now() == 0.0
    now[0] = 6.0
    assert load.now() == load.now() == 0.125


class Stopwatch:
    """Time by hand: it passes only where a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def work(self, *seconds: float) -> None:
        """Steps of so many seconds, the loop given back between them."""
        for step in seconds:
            self.now += step
            await asyncio.sleep(0)

    async def hog(self) -> None:
        """Another task, whose every step takes an hour."""
        while True:
            self.now += 3_600.0
            await asyncio.sleep(0)


async def test_own_time_leaves_out_what_others_took_meanwhile() -> None:
    """Three steps of work are six seconds, however many hours others took between them."""
    watch = Stopwatch()
    other = asyncio.create_task(watch.hog())
    assert await own_time(watch.work(1.0, 2.0, 3.0), watch) == 6.0
    assert watch.now > 3 * 3_600.0
    other.cancel()


async def test_own_time_leaves_out_what_the_work_waited_for() -> None:
    """A wait for a future costs nothing, and what the future brought arrives."""
    watch, brought = Stopwatch(), list[str]()
    news: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def wait() -> None:
        watch.now += 1.0
        brought.append(await news)
        watch.now += 2.0

    timed = asyncio.ensure_future(_timed(wait(), watch))
    await asyncio.sleep(0)
    watch.now += 3_600.0
    news.set_result("a halt")
    assert await timed == 3.0
    assert brought == ["a halt"]


async def test_what_goes_wrong_in_timed_work_is_told() -> None:
    """Its own error, and one of what it waits for, which it may also take care of."""
    watch = Stopwatch()
    news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    news.set_exception(ConnectionError)

    async def fail() -> None:
        raise ValueError("of its own")

    async def pass_on() -> None:
        await news

    async def take_care() -> None:
        with pytest.raises(ConnectionError):
            await news
        watch.now += 1.0

    with pytest.raises(ValueError, match="of its own"):
        await own_time(fail(), watch)
    with pytest.raises(ConnectionError):
        await own_time(pass_on(), watch)
    assert await own_time(take_care(), watch) == 1.0


async def test_timed_work_ends_when_it_is_cancelled() -> None:
    """The cancellation reaches the work, which tidies up."""
    tidied = False

    async def work() -> None:
        nonlocal tidied
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            tidied = True

    timed = asyncio.ensure_future(_timed(work(), Stopwatch()))
    await asyncio.sleep(0)
    timed.cancel()
    with pytest.raises(asyncio.CancelledError):
        await timed
    assert tidied


async def _timed(work: Coroutine[Any, Any, None], watch: Stopwatch) -> float:
    return await own_time(work, watch)
