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
    async with asyncio.timeout(10):
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
