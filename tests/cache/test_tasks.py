"""Tasks that none dies unheard, and that end for certain."""

from __future__ import annotations

import asyncio
import gc
import weakref
from itertools import pairwise

import pytest
from structlog.testing import capture_logs

from mdp.cache.tasks import Background, Part, begin, end, next_turn


async def test_a_task_that_raises_is_told_of() -> None:
    """By name, with what it raised."""

    async def work() -> None:
        raise ValueError("defect")

    with capture_logs() as logs:
        task = begin(work(), "some-work")
        await asyncio.wait({task})
        await asyncio.sleep(0)
    (line,) = logs
    assert (line["event"], line["task"], str(line["exc_info"])) == ("task_died", "some-work", "defect")


async def test_a_task_that_is_ended_or_returns_is_not() -> None:
    """That is how tasks end."""

    async def wait() -> None:
        await asyncio.Event().wait()

    async def done() -> None:
        pass

    with capture_logs() as logs:
        waiting, finished = begin(wait(), "waits"), begin(done(), "is done")
        await asyncio.wait({finished})
        await end(waiting, finished, None)
    assert waiting.cancelled()
    assert not logs


async def test_a_task_that_takes_a_cancellation_for_something_else_ends_all_the_same() -> None:
    """As one does whose time-out ends in the same step."""
    ignored = 0

    async def stubborn() -> None:
        nonlocal ignored
        while ignored < 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ignored += 1
        await asyncio.Event().wait()

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    await end(task)
    assert task.cancelled()
    assert ignored == 2


async def test_a_stage_of_one_task_begins_once_and_ends_whenever() -> None:
    """Started twice it runs once; stopped before its start, and twice, nothing happens."""

    class Counting(Background):
        name = "counting"
        runs = 0

        async def _run(self) -> None:
            self.runs += 1
            await asyncio.Event().wait()

    stage = Counting()
    await stage.stop()
    await stage.start()
    await stage.start()
    await asyncio.sleep(0)
    await stage.stop()
    await stage.stop()
    assert stage.runs == 1
    await stage.start()
    await asyncio.sleep(0)
    assert stage.runs == 2
    await stage.stop()


class Looker(Part):
    """One that looks, until a defect ends it."""

    name = "looker"

    def __init__(self) -> None:
        self.began = 0
        self.defect = asyncio.Event()

    async def _run(self) -> None:
        self.began += 1
        await self.defect.wait()
        raise ValueError("defect")


async def test_a_part_begins_once_and_ends_twice() -> None:
    """Nothing happens before `start`, and `stop` is safe at any time."""
    part = Looker()
    await part.stop()
    part.start()
    part.start()
    await asyncio.sleep(0)
    assert part.began == 1
    await part.stop()
    await part.stop()
    assert not part.died


async def test_a_part_that_a_defect_ended_says_so() -> None:
    """Whoever it belongs to is not healthy then."""
    part = Looker()
    part.start()
    assert not part.died
    with capture_logs() as logs:
        part.defect.set()
        assert part._task is not None
        await asyncio.wait({part._task})
        await asyncio.sleep(0)
    assert part.died
    await part.stop()
    assert [line["task"] for line in logs] == ["looker"]


async def test_one_step_a_turn_however_many_tasks_work() -> None:
    """Everybody else waits for one step at a time; and no task is left behind."""
    turn, turns = 0, list[int]()
    done = False

    async def count() -> None:
        nonlocal turn
        while not done:
            turn += 1
            await asyncio.sleep(0)

    async def work() -> None:
        for _ in range(20):
            await next_turn()
            turns.append(turn)

    counting = asyncio.create_task(count())
    await asyncio.gather(*(work() for _ in range(4)))
    done = True
    await counting
    assert len(turns) == 80
    assert len(set(turns)) == 80


async def test_a_cancelled_step_keeps_nobody_waiting() -> None:
    """Whoever waits for its turn and is ended leaves the turn to the next."""
    waiting = [asyncio.create_task(next_turn()) for _ in range(3)]
    await asyncio.sleep(0)
    await end(waiting[0], waiting[1])
    await asyncio.wait_for(waiting[2], 30)


async def test_between_two_steps_the_loop_is_others_for_twice_as_long() -> None:
    """Whichever task comes next."""
    loop = asyncio.get_running_loop()
    steps: list[tuple[float, float]] = []

    async def work() -> None:
        for _ in range(5):
            await next_turn()
            began = loop.time()
            while loop.time() < began + 0.002:
                pass
            steps.append((began, loop.time()))
        await next_turn()  # how long a step took is known when its task is here again

    await asyncio.gather(work(), work())
    assert len(steps) == 10
    for (began, ended), (following, _) in pairwise(steps):
        assert following - ended >= 2 * min(ended - began, 0.01) - 1e-3


def test_a_closed_loop_is_freed() -> None:
    """Whose steps were taken in turns; and what the last task held."""

    class Answer:
        """Large."""

    async def work() -> None:
        answer = Answer()
        held.append(weakref.ref(answer))
        await next_turn()
        raise ValueError("garbage")

    async def main() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        with pytest.raises(ValueError, match="garbage"):
            await asyncio.create_task(work())

    held: list[weakref.ref[Answer]] = []
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []
    asyncio.run(main())
    gc.collect()
    assert (held[0](), loops[0]()) == (None, None)
