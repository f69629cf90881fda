"""The callback that gives the loop back, where the client does not."""

from __future__ import annotations

import asyncio

from mdp.listener.attempt import MAX_READ_NS, yielding
from mdp.listener.connection import Burst

from .fake_provider import FakeProvider, Session, Watched, quick_config, trade


class Bursts:
    """Counts turns of the loop while frames are read without any pause, as the client does from 3.12 on."""

    def __init__(self, ns_per_frame: int) -> None:
        self.now_ns = 1
        self.turns = 0
        self.frames = 0
        self._ns_per_frame = ns_per_frame
        self._reading = True

    async def read(self, count: int) -> None:
        """Hand over `count` frames one after the other, each costing its time."""

        async def append(burst: Burst) -> None:
            self.frames += 1
            self.now_ns += self._ns_per_frame

        callback = yielding(append, lambda: self.now_ns)
        counting = asyncio.create_task(self._count())
        await asyncio.sleep(0)
        before = self.turns
        for _ in range(count):
            await callback([b"[]"])
        self.turns -= before
        self._reading = False
        await counting

    async def _count(self) -> None:
        while self._reading:
            self.turns += 1
            await asyncio.sleep(0)


async def test_loop_turns_at_least_every_two_milliseconds_of_reading() -> None:
    """1,000 buffered frames of 0.1 ms each: a turn at least after each 2 ms."""
    bursts = Bursts(ns_per_frame=100_000)
    await bursts.read(1_000)
    assert bursts.frames == 1_000
    assert bursts.turns >= 1_000 * 100_000 // MAX_READ_NS - 2


async def test_short_bursts_are_not_interrupted() -> None:
    """A turn costs more than a frame; less than 2 ms of reading goes on in one piece."""
    bursts = Bursts(ns_per_frame=10_000)
    await bursts.read(150)
    assert bursts.turns == 0


async def test_turn_of_the_loop_begins_a_new_burst() -> None:
    """Frames that come one by one, each in its own turn, never cost an extra one."""
    sleeps = 0
    now_ns = 1

    async def append(burst: Burst) -> None:
        nonlocal now_ns
        now_ns += MAX_READ_NS // 2

    callback = yielding(append, lambda: now_ns)
    for _ in range(20):
        task = asyncio.ensure_future(callback([b"[]"]))
        await asyncio.sleep(0)
        sleeps += not task.done()
        await task
        await asyncio.sleep(0)
    assert sleeps == 0


async def test_listener_works_with_a_client_that_does_not_yield() -> None:
    """The path of Python 3.12 and newer, run on whatever this is."""

    async def script(session: Session) -> None:
        await session.open()
        for number in range(200):
            await session.send(trade(number=number))
        await session.hold()

    async with FakeProvider(script) as provider:
        config = quick_config(provider.feed)
        async with Watched(config, client_yields=False) as feed:
            await feed.until(lambda: len(feed.ring) == 201)
            assert feed.frames()[1:] == [trade(number=number) for number in range(200)]
