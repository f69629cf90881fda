"""Long work in short steps: the loop is given back every few milliseconds. How much others leave of it."""

from __future__ import annotations

import asyncio
import functools
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from mdp.wds.counters import WdsCounters

STEP_SECONDS = 0.005  # the longest stretch of work before the loop is given back
CHECK_EVERY = 64  # small pieces of work between two looks at the clock
# uvloop only notes what is written, and hands it to the kernel at the end of the turn, past our clock. So a
# turn has its share of writes (5 to 20 us each) and bytes (150 to 500 a us), whatever the clock says.
PIECES_A_TURN = 4 * CHECK_EVERY
BYTES_A_TURN = 1024 * 1024
LATEST = 0.125  # the part that the latest of many measurements has in their moving average


class Pace:
    """Gives the loop back when a step got long.

    Args:
        clock: Monotonic seconds.
        counters: Know how many bytes the step wrote.
    """

    __slots__ = ("_clock", "_counters", "_left", "_pieces", "_since", "_written")

    def __init__(self, clock: Callable[[], float], counters: WdsCounters) -> None:
        self._clock = clock
        self._counters = counters
        self._left = CHECK_EVERY
        self._begin()

    def _begin(self) -> None:
        self._since = self._clock()
        self._pieces = PIECES_A_TURN
        self._written = self._counters.bytes_sent

    async def maybe_yield(self) -> None:
        """After a piece of work of microseconds: looks at the clock at every 64th call only."""
        self._left -= 1
        if not self._left or self._counters.bytes_sent - self._written >= BYTES_A_TURN:
            self._pieces -= CHECK_EVERY
            await self.check()

    async def check(self) -> None:
        """After a piece of work that may take a millisecond: yield if the step has lasted."""
        self._left = CHECK_EVERY
        if (
            self._pieces <= 0
            or self._counters.bytes_sent - self._written >= BYTES_A_TURN
            or self._clock() - self._since >= STEP_SECONDS
        ):
            await asyncio.sleep(0)
            self._begin()


class Load:
    """How much of the time a thread has worked of late, 0 to 1: a moving average over calls of `now`.

    Args:
        clock: Monotonic seconds.
        cpu_clock: Seconds for which the thread has had a processor.
    """

    __slots__ = ("_at", "_clock", "_cpu", "_cpu_clock", "_load")

    def __init__(self, clock: Callable[[], float], cpu_clock: Callable[[], float]) -> None:
        self._clock, self._cpu_clock = clock, cpu_clock
        self._at, self._cpu = clock(), cpu_clock()
        self._load = 0.0

    def now(self) -> float:
        """The load, with what has been since the last call as one part in eight."""
        at, cpu = self._clock(), self._cpu_clock()
        if at > self._at:
            self._load += (min((cpu - self._cpu) / (at - self._at), 1.0) - self._load) * LATEST
            self._at, self._cpu = at, cpu
        return self._load


@types.coroutine
def own_time(work: Coroutine[Any, Any, object], clock: Callable[[], float]) -> Generator[Any, Any, float]:
    """Do work, and say how long its own steps took, in seconds: not what it waited for, nor others' steps."""
    seconds = 0.0
    step: Callable[[], Any] = functools.partial(work.send, None)
    try:
        while True:
            began = clock()
            try:
                awaited = step()
            except StopIteration:
                return seconds + clock() - began
            seconds += clock() - began
            try:
                answer = yield awaited
            except BaseException as error:
                step = functools.partial(work.throw, error)
            else:
                step = functools.partial(work.send, answer)
    finally:
        del step  # it may hold an error, whose traceback holds this frame
