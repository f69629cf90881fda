"""Many things at once: some in each turn of the loop, in order."""

from __future__ import annotations

import asyncio
import functools

from mdp.config import WdsConfig
from mdp.wds import turns as turns_module
from mdp.wds.turns import UNITS_A_TURN, Turns
from tests.wds.doubles import running, until
from tests.wds.wire import CLOSE, Wire, frame


async def done_by_turn(turns: Turns, done: list[int], wanted: int) -> list[int]:
    """How many things were done before each turn's end."""
    counts = [len(done)]
    while len(done) < wanted:
        await asyncio.sleep(0)
        counts.append(len(done))
    return counts


async def test_a_few_things_are_done_at_once() -> None:
    """Nobody waits for a turn who need not."""
    turns, done = Turns(asyncio.get_running_loop()), list[int]()
    for number in range(3):
        turns.do(1, functools.partial(done.append, number))
    await turns.take(1)
    assert done == [0, 1, 2]


async def test_many_things_are_spread_over_turns_in_order() -> None:
    """In no turn more than it has units for, and none is passed by a cheaper one."""
    turns, done = Turns(asyncio.get_running_loop()), list[int]()
    cheap, dear = 1, UNITS_A_TURN // 4
    costs = [dear if number % 3 else cheap for number in range(60)]
    for number, cost in enumerate(costs):
        turns.do(cost, functools.partial(done.append, number))
    counts = await done_by_turn(turns, done, len(costs))
    assert done == sorted(done)
    steps = [sum(costs[one:two]) for one, two in zip([0, *counts], counts, strict=False)]
    assert max(steps) <= UNITS_A_TURN
    assert len([step for step in steps if step]) > 5


async def test_tasks_wait_for_their_turn_behind_what_came_before() -> None:
    """A cancelled one takes its turn silently."""
    turns, done = Turns(asyncio.get_running_loop()), list[int]()

    async def go(number: int) -> None:
        await turns.take(UNITS_A_TURN)
        done.append(number)

    tasks = [asyncio.create_task(go(number)) for number in range(4)]
    await asyncio.sleep(0)
    tasks[2].cancel()
    await asyncio.wait(tasks)
    assert done == [0, 1, 3]


async def test_clients_that_leave_together_leave_in_turn() -> None:
    """Whether they say goodbye or are just gone: no turn ends more of them than it has units for."""
    config = WdsConfig(max_clients_per_address=0)
    async with running(config) as env:
        service = env.service
        for word in (frame(CLOSE, b"\x03\xe8"), b""):
            wires = [await Wire.connect(service.port) for _ in range(3 * UNITS_A_TURN)]
            await until(lambda: len(service._clients) == 3 * UNITS_A_TURN)
            for wire in wires:
                wire.send(word) if word else wire.writer.transport.abort()
            left, most = len(service._clients), 0
            while left:
                await asyncio.sleep(0)
                most, left = max(most, left - len(service._clients)), len(service._clients)
            assert most <= 2 * UNITS_A_TURN  # what began in one turn may end beside that of the next
            for wire in wires:
                await wire.close()


async def test_connections_are_cut_in_turn() -> None:
    """Clients who do not take their close are cut at the same moment, a few in each turn."""
    most_cuts = UNITS_A_TURN // turns_module.CUT
    config = WdsConfig(max_clients_per_address=0)
    async with running(config, close_seconds=0.05) as env:
        wires = [await Wire.connect(env.service.port) for _ in range(4 * most_cuts)]
        await until(lambda: len(env.service._clients) == 4 * most_cuts)
        for client in list(env.service._clients):
            client.close(4008, "too slow")
        counters, cut, most = env.service.counters, 0, 0
        while cut < 4 * most_cuts:
            await asyncio.sleep(0)
            most, cut = max(most, counters.aborted - cut), counters.aborted
        assert most <= most_cuts
        for wire in wires:
            await wire.close()
