"""Flushing that can be paused: while the state must not move, no analyzer is let at it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, ClassVar

from mdp.analyzers.base import Analyzer
from mdp.analyzers.state import Market
from mdp.cache.memory import MemoryBus, MemoryCache
from mdp.processor.engine import Engine
from mdp.processor.flushers import Flushers
from mdp.processor.results import Results


class Steps(Analyzer):
    """Notes each step of its flush; every other one lasts."""

    name: ClassVar[str] = "steps"
    flush_seconds: ClassVar[float] = 0.001

    def __init__(self, market: Market, out: Any) -> None:
        super().__init__(market, out)
        self.steps: list[str] = []

    def flush(self) -> Iterator[None]:
        self.steps.append("begin")
        for _ in range(50):
            yield
        self.steps.append("end")


class OnTick(Steps):
    name: ClassVar[str] = "on_tick"
    flush_seconds: ClassVar[float] = 0.0
    flush_on_tick: ClassVar[bool] = True


def made(kind: type[Steps]) -> tuple[Flushers, Steps]:
    bus = MemoryBus()
    results = Results(bus, MemoryCache(bus))
    market = Market()
    analyzer = kind(market, results)
    return Flushers(Engine(market, results, [analyzer], max_failures=1)), analyzer


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  a condition without an event
            await asyncio.sleep(0.001)


async def test_a_pause_begins_when_the_last_flush_is_through() -> None:
    """Not in the middle of one: what it wrote so far belongs to what follows."""
    flushers, analyzer = made(Steps)
    flushers.start()
    await until(lambda: analyzer.steps)

    await flushers.pause()
    assert analyzer.steps.count("begin") == analyzer.steps.count("end")
    before = len(analyzer.steps)
    await asyncio.sleep(0.02)
    assert len(analyzer.steps) == before

    flushers.paused = False
    await until(lambda: len(analyzer.steps) > before)
    for task in flushers.tasks:
        task.cancel()


async def test_nothing_is_gathered_during_a_pause() -> None:
    """The fan-out is told at its next tick."""
    flushers, analyzer = made(OnTick)
    flushers.start()
    await flushers.pause()
    await flushers.gather()
    assert analyzer.steps == []
    flushers.paused = False
    await flushers.gather()
    assert analyzer.steps == ["begin", "end"]


class Turns(Steps):
    """Says what it has in three turns, and then nothing for an hour."""

    name: ClassVar[str] = "turns"
    flush_seconds: ClassVar[float] = 3_600.0
    flush_turns: ClassVar[int] = 3


async def test_what_is_there_at_the_start_is_told_at_once_where_that_is_asked_for() -> None:
    """All its turns, without waiting for the analyzer's pace; told when the last one is through."""
    flushers, analyzer = made(Turns)
    assert not flushers.told
    flushers.start(at_once=True)
    assert not flushers.told
    await until(lambda: flushers.told)
    assert analyzer.steps == ["begin", "end"] * 3
    for task in flushers.tasks:
        task.cancel()


async def test_otherwise_the_first_flush_is_at_the_analyzers_pace() -> None:
    """Nothing comes before its seconds are over."""
    flushers, analyzer = made(Turns)
    flushers.start()
    await asyncio.sleep(0.01)
    assert analyzer.steps == []
    for task in flushers.tasks:
        task.cancel()


async def test_where_nobody_has_a_pace_all_is_told_from_the_start() -> None:
    """There is nothing to wait for."""
    flushers, _ = made(OnTick)
    flushers.start(at_once=True)
    assert flushers.told
