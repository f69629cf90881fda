"""The control channel: says who joined and what was released, so that nobody need wait for a timer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import structlog

from mdp.cache.redis_link import REDIS_ERRORS
from mdp.cache.tasks import Background
from mdp.stage import Health

log = structlog.get_logger(__name__)

_RETRY_SECONDS = 0.5
_LOOK_SECONDS = 5.0  # a read that waits for so long begins again; notices a connection that is dead


async def listen(
    client: Any, channel: str, *, joined: Callable[[], None], heard: Callable[[bytes], None]
) -> None:
    """Hear a channel until the connection is lost.

    Args:
        client: Redis.
        channel: Its name.
        joined: Called when Redis has acknowledged: nothing is missed from then on.
        heard: Called with each message; must be quick.

    Raises:
        REDIS_ERRORS: The connection is gone.
    """
    pubsub = client.pubsub()
    try:
        await pubsub.subscribe(channel)
        while True:
            message = await pubsub.get_message(timeout=_LOOK_SECONDS)
            if message is None:
                await pubsub.ping()  # raises where the connection is gone
            elif message["type"] == "subscribe":
                joined()
            elif message["type"] == "message":
                heard(message["data"])
    finally:
        with contextlib.suppress(*REDIS_ERRORS):
            await pubsub.aclose()


class Control(Background):
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
        self._hears = asyncio.Event()

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
                await listen(self._client, self._channel, joined=self._hears.set, heard=self._tell)
            except REDIS_ERRORS as exc:
                if self._hears.is_set():
                    log.warning("control_channel_lost", error=type(exc).__name__)
            self._hears.clear()
            await asyncio.sleep(_RETRY_SECONDS)

    def _tell(self, data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        for listener in list(self.listeners):
            try:
                listener(text)
            except Exception as exc:  # one listener's defect must not make the others deaf
                log.error("control_listener_failed", message=text[:100], exc_info=exc)
