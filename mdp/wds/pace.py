"""Long work in short steps: the loop is given back every few milliseconds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

STEP_SECONDS = 0.005  # the longest stretch of work before the loop is given back
CHECK_EVERY = 64  # small pieces of work between two looks at the clock


class Pace:
    """Gives the loop back when a step got long.

    Args:
        clock: Monotonic seconds.
    """

    __slots__ = ("_clock", "_left", "_since")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._left = CHECK_EVERY
        self._since = clock()

    async def maybe_yield(self) -> None:
        """After a piece of work of microseconds: looks at the clock at every 64th call only."""
        self._left -= 1
        if not self._left:
            await self.check()

    async def check(self) -> None:
        """After a piece of work that may take a millisecond: yield if the step has lasted."""
        self._left = CHECK_EVERY
        if self._clock() - self._since >= STEP_SECONDS:
            await asyncio.sleep(0)
            self._since = self._clock()
