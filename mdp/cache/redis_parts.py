"""Hands over what the outputs of a process contribute to feeds of the whole market, and learns how much of it
is wanted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from redis.exceptions import ResponseError

from mdp.cache.keys import Keys
from mdp.cache.redis_link import REDIS_ERRORS, Link
from mdp.cache.redis_output import RedisOutput
from mdp.cache.redis_scripts import PARTS
from mdp.cache.tasks import Background
from mdp.feeds import MARKET_STATUS, Family
from mdp.stage import Health

log = structlog.get_logger(__name__)

_FLUSH_SECONDS = 0.25
_LIMITS_SECONDS = 1.0


class PartsWriter(Background):
    """A stage: writes parts four times a second, those that changed, with one script a feed.

    Args:
        client: Redis, where parts are.
        keys: Names.
        outputs: Those of the process, by name.
        link: Told how commands went.
        clock: Monotonic seconds.

    Attributes:
        limited: Feeds of which the publisher says how many rows it wants of each output.
    """

    name = "redis_parts"

    def __init__(
        self,
        client: Any,
        keys: Keys,
        outputs: Mapping[str, RedisOutput],
        *,
        link: Link,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limited: tuple[Family, ...] = ()
        self._client = client
        self._keys = keys
        self._outputs = outputs
        self._link = link
        self._clock = clock
        self._limits_at = -1e9
        self._known: set[tuple[str, int, str]] = set()  # (output, epoch, feed) that Redis has
        self._lock = asyncio.Lock()
        self.failures = 0

    def health(self) -> Health:
        """Good while Redis takes everything."""
        return self._link.health()

    async def _run(self) -> None:
        while True:
            try:
                await self.flush()
            except REDIS_ERRORS:
                await self._link.pause()
                continue
            except Exception as error:  # a defect must not end it for good
                self.failures += 1
                if self.failures.bit_count() == 1:
                    log.error("redis_parts_failed", failures=self.failures, exc_info=error)
            await asyncio.sleep(_FLUSH_SECONDS)

    async def flush(self) -> None:
        """Write what changed, and read what is wanted where that is due.

        Raises:
            REDIS_ERRORS: All parts are written again the next time.
        """
        async with self._lock:
            try:
                await self._write()
                await self._read_limits()
            except REDIS_ERRORS as error:
                self._link.bad(error)
                for output in self._outputs.values():
                    output.parts = {**output.last_parts, **output.parts}
                raise
            self._link.good()

    async def _write(self) -> None:
        feeds: dict[str, list[RedisOutput]] = {}
        for output in self._outputs.values():
            if not output.refused and not output.silent and output.valid():
                for feed in output.parts:
                    feeds.setdefault(feed, []).append(output)
        # The status last: it says that the parts of the holder before are over (`Contributors.admit`).
        for feed, all_owners in sorted(feeds.items(), key=lambda one: one[0] == MARKET_STATUS.name):
            owners = [one for one in all_owners if feed in one.parts]  # a lease may have gone meanwhile
            if not owners:
                continue
            args: list[Any] = [len(owners)]
            parts: list[Any] = []
            for output in owners:
                args += (output.name, output.epoch)
                parts += (output.name, output.parts.pop(feed))
            answers, errors = await PARTS.run(
                self._client, [self._keys.fence(feed), self._keys.parts(feed)], args + parts
            )
            if errors:
                raise ResponseError(errors[0].decode("utf-8", "replace"))
            for answer, output in zip(answers, owners, strict=True):
                known = (output.name, output.epoch, feed)
                if answer == b"old":
                    output.refuse()
                elif answer == b"new" and known in self._known:  # Redis was restarted empty
                    self._known = {one for one in self._known if one[0] != output.name}
                    output.parts = {**output.last_parts, **output.parts}
                self._known.add(known)
            if len(self._known) > 100_000:
                self._known.clear()

    async def _read_limits(self) -> None:
        now = self._clock()
        if now - self._limits_at < _LIMITS_SECONDS or not self._outputs:
            return
        self._limits_at = now
        for family in self.limited:
            limits = await self._client.hgetall(self._keys.limits(family.name))
            for name, rows in limits.items():
                output = self._outputs.get(name.decode("utf-8", "replace"))
                if output is not None and rows.isdigit():
                    output.limits(family, int(rows))
