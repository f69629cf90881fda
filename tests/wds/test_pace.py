"""Steps end in time, also where the clock does not see what they cost."""

from __future__ import annotations

import asyncio

from mdp.wds.counters import WdsCounters
from mdp.wds.pace import BYTES_A_TURN, CHECK_EVERY, PIECES_A_TURN, STEP_SECONDS, Pace


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
