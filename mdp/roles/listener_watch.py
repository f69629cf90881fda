"""Hears the active listener, for the partitions of a processor: its gaps, and its silence."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

import structlog

from mdp.cache.control import Control
from mdp.cache.keys import Keys
from mdp.cache.redis_link import REDIS_ERRORS
from mdp.cache.tasks import end
from mdp.listener.announcement import Announcement, read_announcement
from mdp.stage import Health

log = structlog.get_logger(__name__)

LOOK_SECONDS = 1.0
#: So long without a new word while Redis answers, and data may be missing: an announcement comes each second.
SILENT_SECONDS = 5.0
#: Said on the control channel when an outage begins or ends, so that nobody waits for a look.
GAPS_CHANGED = "gaps"


class ListenerWatch:
    """A stage. See the module.

    Args:
        client: Redis, where the announcement is.
        keys: Names.
        control: Says when there is something to hear; started by whoever made it.
        hear: Called with (announcement, whether the listener is silent) about once a second.
        clock: Monotonic seconds.

    Attributes:
        silent: Nobody has said anything new for some time.
        feed_state: Of the provider's connection, as it was said last; "down" where nobody speaks.
    """

    name = "listener_watch"

    def __init__(
        self,
        client: Any,
        keys: Keys,
        control: Control,
        hear: Callable[[Announcement, bool], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._key = keys.listener
        self._control = control
        self._hear = hear
        self._clock = clock
        self._last: tuple[int, str, int] = (0, "", 0)  # epoch, id and time of the last word
        self._spoke = self._answered = clock()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.silent = False
        self.feed_state = "down"  # as `feed_fields` says it

    async def start(self) -> None:
        """Begin to hear."""
        if self._task is None:
            self._control.listeners.append(self._heard)
            self._task = asyncio.create_task(self._run(), name=self.name)

    async def stop(self) -> None:
        """End. Safe to call twice, or before `start`."""
        task, self._task = self._task, None
        if task is not None:
            self._control.listeners.remove(self._heard)
            await end(task)

    def health(self) -> Health:
        """Always good; with what is known of the listener."""
        return Health(True, "no listener says anything" if self.silent else "a listener speaks")

    def _heard(self, message: str) -> None:
        if message == GAPS_CHANGED:
            self._wake.set()

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self.look()
            except REDIS_ERRORS:
                pass
            except Exception as exc:  # a defect must not end it for good
                log.error("listener_watch_failed", exc_info=exc)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._wake.wait()

    async def look(self) -> None:
        """Hear the newest word once.

        Raises:
            REDIS_ERRORS: Nothing was heard, which says nothing of the listener.
        """
        said = read_announcement(await self._client.hgetall(self._key))
        now = self._clock()
        word = (said.epoch, said.id, said.ts)
        if word != self._last or now - self._answered > SILENT_SECONDS:
            # Also where Redis did not answer for so long: the listener could not speak either.
            self._last, self._spoke = word, now
        self._answered = now
        self.silent = now - self._spoke > SILENT_SECONDS
        self.feed_state = "down" if self.silent else said.state or "down"
        self._hear(said, self.silent)
