"""Ending tasks that talk to Redis."""

from __future__ import annotations

import asyncio
from typing import Any

_AGAIN_SECONDS = 0.05


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
