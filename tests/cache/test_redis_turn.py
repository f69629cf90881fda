"""One turn of an output: how long a step lasts, and what it gives back. Without Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from mdp.cache.keys import Keys
from mdp.cache.redis_output import RedisOutput
from mdp.cache.redis_turn import MOST, Pace, Turn
from mdp.feeds import HALT, QUOTE, TRADES, Family, Target

from .writer_rig import unaccounted


class Clock:
    """Moves a millisecond whenever somebody looks."""

    def __init__(self) -> None:
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return self.looks / 1_000


def made(output: RedisOutput, pace: Pace) -> Turn:
    return Turn(output, Keys(), wall_ms=lambda: 5, pace=pace, plain_keys=True, plain_channels=False)


def wanted(*families: Family) -> RedisOutput:
    """An output of which somebody wants everything."""
    output = RedisOutput("partition:0", 7, wall_ms=lambda: 5, packers={})
    for family in families:
        output.want(Target(family, None), True)
    return output


async def test_the_loop_is_given_back_every_few_milliseconds() -> None:
    """However many outputs there are: the time of all of them counts together."""
    clock = Clock()
    pace, turns = Pace(clock), 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    for _ in range(20):
        output = wanted(QUOTE)
        for n in range(50):
            output.publish(QUOTE, f"S{n}", n)
        await made(output, pace).fill(None, 0.02, keep=False)
    task.cancel()
    # A thousand values are 31 looks at the clock, a millisecond each; four of them are a step.
    assert 6 <= turns <= 10


async def test_one_turn_takes_a_bounded_share() -> None:
    """Events first, then values; the rest waits."""
    output = wanted(QUOTE, TRADES)
    for n in range(MOST):
        output.publish(QUOTE, f"S{n}", n)
        if n < 100:
            output.publish(TRADES, "AAPL", n)
    turn = made(output, Pace(Clock()))
    await turn.fill(None, 0.02, keep=False)
    assert len(turn.messages) == 2 * MOST
    assert not output.raw
    assert len(output.states) == 100
    assert turn.messages[1] == b"7 1 5\n0"


async def test_what_redis_did_not_take_waits_unless_something_newer_does() -> None:
    """Values and messages; where the messages left all the same, the values alone."""
    for said in (False, True):
        output = wanted(QUOTE)
        output.publish(QUOTE, "AAA", 1)
        output.publish(QUOTE, "BBB", 1)
        output.publish(HALT, "AAA", 1)
        turn = made(output, Pace(Clock()))
        await turn.fill(None, 0.02, keep=True)
        assert not output.states
        output.publish(QUOTE, "AAA", 2)
        turn.take_back(said=said)
        assert output.states == ({(QUOTE, "AAA"): 2} if said else {(QUOTE, "AAA"): 2, (QUOTE, "BBB"): 1})
        assert output.values[HALT, "AAA"] == 1


async def test_raw_events_are_counted_by_what_became_of_them() -> None:
    """Sent, lost with Redis, or left where the lease is another's; a turn that is over takes nothing back."""
    for fate in ("sent", "lost", "said", "refused"):
        output = wanted(TRADES)
        for n in range(3):
            output.publish(TRADES, "AAPL", n)
        turn = made(output, Pace(Clock()))
        assert (output.waiting, output.counters.raw_sent) == (3, 0)
        await turn.fill(None, 0.02, keep=False)
        assert (output.waiting, unaccounted(output)) == (0, 0)
        if fate in ("sent", "refused"):
            turn.settle(refused=fate == "refused")
            turn.take_back(said=False)  # another output's part failed
        else:
            turn.take_back(said=fate == "said")
        counts = output.counters
        lost = {"lost": (3, 0), "refused": (0, 3)}.get(fate, (0, 0))
        assert (counts.dropped, counts.left) == lost
        assert counts.raw_sent == 3 - sum(lost)
        assert unaccounted(output) == 0
        assert output.refused == (fate == "refused")


async def test_a_turn_without_anything_to_say_is_none() -> None:
    """Nothing is sent for it."""

    class Nothing:
        families = frozenset[str]()

        def due(self, seconds: float) -> Iterable[tuple[Family, str, Any]]:
            assert seconds == 0.02
            return ()

        def forget(self) -> None: ...

    turn = made(wanted(QUOTE), Pace(Clock()))
    await turn.fill(Nothing(), 0.02, keep=True)
    assert not turn
