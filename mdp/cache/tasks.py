"""Tasks of stages: begun so that none dies unheard, ended for certain."""

from __future__ import annotations

import asyncio
import weakref
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import Any

import structlog

log = structlog.get_logger(__name__)

_AGAIN_SECONDS = 0.05
_REST = 2.0  # times as long as the step before
_LONGEST_STEP_SECONDS = 0.01  # beyond it, somebody waited for something else meanwhile


def begin(work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    """Start a task that is to run until it is ended; one that raises instead is told of in the log."""
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_tell)
    return task


def _tell(task: asyncio.Task[None]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        log.error("task_died", task=task.get_name(), exc_info=error)


class _Turns:
    """Whose step is next, in one event loop."""

    def __init__(self) -> None:
        self.next = asyncio.Lock()
        #: Whose step was the last one. Weak: a task knows its loop, which is to be freed when it is closed.
        self.last: weakref.ref[asyncio.Task[Any]] | None = None
        self.began = 0.0  # when, in loop time
        self.rest_until = 0.0


_turns: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Turns] = weakref.WeakKeyDictionary()


async def next_turn() -> None:
    """Give the loop back between two steps; of all tasks that call this, only one at a time goes on.

    After each step but a task's last (how long one took is known when its task comes again), the loop is
    everybody else's for twice as long. An event passes through a dozen turns of the loop on its way to a
    client; where each of them held a step of 2 ms, it came 30 ms later.
    """
    loop = asyncio.get_running_loop()
    turns = _turns.get(loop)
    if turns is None:
        turns = _turns[loop] = _Turns()
    task = asyncio.current_task()
    assert task is not None
    now = loop.time()
    if turns.last is not None and turns.last() is task:
        turns.last = None
        turns.rest_until = now + _REST * min(now - turns.began, _LONGEST_STEP_SECONDS)
    async with turns.next:
        await asyncio.sleep(max(0.0, turns.rest_until - loop.time()))
        turns.last, turns.began = weakref.ref(task), loop.time()


async def end(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel tasks until they have ended, whatever they raise.

    Once is not enough: a cancellation that comes in the very step in which a time-out inside the Redis client
    ends is now and then taken for that time-out, and the task goes on.
    """
    left = {task for task in tasks if task is not None and not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_AGAIN_SECONDS)
    for ended in tasks:
        if ended is not None and not ended.cancelled():
            ended.exception()  # looked at: what ended it is not to be logged as never retrieved


class Part(ABC):
    """Base of parts of a stage that are one task each: subclasses say what it does (`_run`)."""

    name: str
    _task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin. A second call changes nothing."""
        if self._task is None:
            self._task = begin(self._run(), self.name)

    async def stop(self) -> None:
        """End. Safe to call twice, or before `start`."""
        task, self._task = self._task, None
        await end(task)

    @property
    def died(self) -> bool:
        """Whether its task ended by itself, which only a defect can do."""
        return self._task is not None and self._task.done()

    @abstractmethod
    async def _run(self) -> None:
        """What it does until it is cancelled."""


class Background(ABC):
    """Base of stages that are one task: subclasses say what it does (`_run`), and their health."""

    name: str
    _task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin; returns at once. A second call changes nothing."""
        if self._task is None:
            self._task = begin(self._run(), self.name)

    async def stop(self) -> None:
        """End. Safe to call twice, or before `start`."""
        task, self._task = self._task, None
        await end(task)

    @abstractmethod
    async def _run(self) -> None:
        """What the stage does until it is cancelled."""
