"""Lets analyzers publish what they keep: each at its own pace, or whenever the fan-out is about to send."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from mdp.processor.engine import Engine
from mdp.processor.guard import Guard

_DONE = object()
_BRIEF_SECONDS = 0.0005  # steps that take less together need no turn of the loop each


class Flushers:
    """One task for each analyzer with a pace of its own (`Analyzer.flush_seconds`).

    Args:
        engine: Whose analyzers.
        observe: Called with (`flush_{analyzer}`, seconds) after each step.

    Attributes:
        paused: Nothing is begun meanwhile, and `gather` does nothing: the state must not move.
        told: Each of those analyzers has published all that it had at the start, with `start(at_once=True)`.
    """

    def __init__(
        self, engine: Engine, observe: Callable[[str, float], None] = lambda _name, _seconds: None
    ) -> None:
        self.paused = False
        self.told = False
        self.tasks: list[asyncio.Task[None]] = []
        self._engine = engine
        self._observe = observe
        self._on_tick: list[Guard] = []
        self._running = 0  # flushes between their first step and their last
        self._untold = 0  # analyzers that have yet to say what they had at the start

    def start(self, *, at_once: bool = False) -> None:
        """Begin; before, `gather` finds nothing either.

        Args:
            at_once: The first flush is now instead of after each analyzer's seconds, and of all it has.
        """
        self._on_tick = [guard for guard in self._engine.guards if guard.analyzer.flush_on_tick]
        paced = [guard for guard in self._engine.guards if guard.analyzer.flush_seconds > 0]
        self._untold = len(paced)
        self.told = at_once and not paced
        self.tasks = [
            asyncio.create_task(self._flush(guard, at_once=at_once), name=f"flush-{guard.name}")
            for guard in paced
        ]

    async def pause(self) -> None:
        """Begin nothing any more, and return once nothing runs. End it by `paused = False`."""
        self.paused = True
        while self._running:  # noqa: ASYNC110  a few steps at most
            await asyncio.sleep(0)

    async def gather(self) -> None:
        """Let what analyzers keep for the next tick of the fan-out leave now."""
        if not self.paused:
            for guard in self._on_tick:
                await self._flush_once(guard)

    async def _flush(self, guard: Guard, *, at_once: bool) -> None:
        if at_once:
            for _ in range(guard.analyzer.flush_turns):
                await self._flush_unpaused(guard)
            self._untold -= 1
            self.told = not self._untold
        while True:
            await asyncio.sleep(guard.analyzer.flush_seconds)
            await self._flush_unpaused(guard)

    async def _flush_unpaused(self, guard: Guard) -> None:
        while self.paused:  # noqa: ASYNC110  for a few ms
            await asyncio.sleep(0.005)
        await self._flush_once(guard)

    async def _flush_once(self, guard: Guard) -> None:
        self._running += 1
        try:
            await self._steps(guard)
        finally:
            self._running -= 1

    async def _steps(self, guard: Guard) -> None:
        commit = self._engine.results.commit
        steps = guard.flush()
        name = f"flush_{guard.name}"
        began = time.perf_counter()
        while True:
            more = next(steps, _DONE) is not _DONE
            commit()
            seconds = time.perf_counter() - began
            if more and seconds < _BRIEF_SECONDS:
                continue
            self._observe(name, seconds)
            if not more:
                break
            await asyncio.sleep(0)
            began = time.perf_counter()
