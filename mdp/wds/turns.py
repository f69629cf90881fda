"""Many connections that end at once, a few in each turn of the loop.

Ending one costs little, but a thousand can end together: a proxy restarts, a deadline comes for all of them,
a burst of events is too much for all slow clients in the same tick. The loop runs all that is ready in one
turn, and those who stay would wait for it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

UNITS_A_TURN = 32
LEAVE = 1  # connection that ended: 50 to 100 us for aiohttp's and our own memory of it
CUT = 8  # connection cut: up to 1 ms, for each of its thousands of waiting writes is called off


class Turns:
    """Does things in order, as many in a turn as it has units for; at once as long as there are some left."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._left = UNITS_A_TURN
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()
        self._scheduled = False

    def do(self, units: int, thing: Callable[[], None]) -> None:
        """Do a thing now, or in one of the next turns. It must not raise.

        Args:
            units: What it costs, `UNITS_A_TURN` at most.
            thing: Still right if it comes some milliseconds later.
        """
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._next)
        if self._waiting or units > self._left:
            self._waiting.append((units, thing))
        else:
            self._left -= units
            thing()

    async def take(self, units: int) -> None:
        """Go on now, or in one of the next turns."""
        turn = self._loop.create_future()

        def now() -> None:
            if not turn.done():  # its task was cancelled
                turn.set_result(None)

        self.do(units, now)
        if not turn.done():
            await turn

    def _next(self) -> None:
        self._left = UNITS_A_TURN
        waiting = self._waiting
        self._scheduled = bool(waiting)
        if waiting:
            self._loop.call_soon(self._next)
        while waiting and waiting[0][0] <= self._left:
            units, thing = waiting.popleft()
            self._left -= units
            thing()
