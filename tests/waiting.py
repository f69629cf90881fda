"""Waiting for what should come at once, without the imports of a whole application."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

PATIENCE_SECONDS = 60.0  # only a failing test takes it


async def eventually(condition: Callable[[], bool], *, seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until a condition holds; fails by time-out where it never does."""
    held = False
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while not (held := condition()):  # noqa: ASYNC110  conditions of many kinds, none with an event
                await asyncio.sleep(0.01)
    assert held, "it never did"
