"""The control channel: says who joined and what was released, so that nobody need wait for a timer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import structlog

from mdp.cache.redis_link import REDIS_ERRORS
from mdp.cache.tasks import end
from mdp.stage import Health

log = structlog.get_logger(__name__)

_RETRY_SECONDS = 0.5
_LOOK_SECONDS = 5.0  # a read that waits for so long begins again; notices a connection that is dead


class Control:
    """A stage: hears the channel while Redis is there. What is said while it is not is lost.

    Nothing may rest on a message alone, then: it saves waiting, a timer does the same later.

    Args:
        client: Redis (`redis.asyncio.Redis` or its cluster).
        channel: `Keys.control`.

    Attributes:
        listeners: Called with each message, e.g. `released publisher`; must be quick.
    """

    name = "control_channel"

    def __init__(self, client: Any, channel: str) -> None:
        self.listeners: list[Callable[[str], None]] = []
        self._client = client
        self._channel = channel
        self._task: asyncio.Task[None] | None = None
        self._hears = asyncio.Event()

    async def start(self) -> None:
        """Begin to listen; returns at once."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=self.name)

    async def stop(self) -> None:
        """End. Safe to call twice, or before `start`."""
        task, self._task = self._task, None
        await end(task)

    def health(self) -> Health:
        """Always good: without it everything works, slower."""
        return Health(True, "listens" if self._hears.is_set() else "waits for Redis")

    async def ready(self) -> None:
        """Return once Redis has acknowledged the subscription."""
        await self._hears.wait()

    async def say(self, message: str) -> None:
        """Tell everybody, also ourselves. Never raises: a timer will do where nobody hears it."""
        with contextlib.suppress(*REDIS_ERRORS):
            await self._client.publish(self._channel, message)

    async def _run(self) -> None:
        while True:
            try:
                await self._listen()
            except REDIS_ERRORS as exc:
                if self._hears.is_set():
                    log.warning("control_channel_lost", error=type(exc).__name__)
            self._hears.clear()
            await asyncio.sleep(_RETRY_SECONDS)

    async def _listen(self) -> None:
        pubsub = self._client.pubsub()
        try:
            await pubsub.subscribe(self._channel)
            while True:
                message = await pubsub.get_message(timeout=_LOOK_SECONDS)
                if message is None:
                    await pubsub.ping()  # raises where the connection is gone
                elif message["type"] == "subscribe":
                    self._hears.set()
                elif message["type"] == "message":
                    self._tell(message["data"])
        finally:
            with contextlib.suppress(*REDIS_ERRORS):
                await pubsub.aclose()

    def _tell(self, data: bytes | str) -> None:
        text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
        for listener in list(self.listeners):
            try:
                listener(text)
            except Exception as exc:  # one listener's defect must not make the others deaf
                log.error("control_listener_failed", message=text[:100], exc_info=exc)
