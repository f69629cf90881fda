"""The way to Redis as a stage: checked at the start, looked at once a second, closed at the end."""

from __future__ import annotations

import asyncio
import contextlib

import structlog
from redis.asyncio import Redis

from mdp.cache.redis_link import REDIS_ERRORS, Link, RedisUnavailable, check, connect
from mdp.cache.tasks import begin, end
from mdp.config import CacheConfig
from mdp.roles.base import StartError
from mdp.stage import Health

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 1.0


class RedisStage:
    """Client and link to one Redis, for all roles of a process.

    A Redis that does not answer is no reason not to start: the roles wait for it as they do when it goes
    later, and `/readyz` says what is missing.

    Attributes:
        client: Commands of the roles go through it; connected when needed.
        link: What is known of it: tell it how commands went.
    """

    def __init__(self, name: str, config: CacheConfig, *, widget: bool = False) -> None:
        """Prepare; nothing is reached.

        Raises:
            StartError: The file of certificates cannot be read.
        """
        self.name = name
        self._config = config
        self._widget = widget
        self.link = Link(name, config)
        try:
            self.client: Redis = connect(config, widget=widget)
        except RedisUnavailable as error:
            raise StartError(str(error), exit_code=2) from None
        self._checked = False
        self._missing = "not reached yet"
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Check how Redis is set up; where it does not answer, later."""
        await self._look()
        self._task = begin(self._run(), self.name)

    async def stop(self) -> None:
        """Close the connections. Safe to call twice."""
        task, self._task = self._task, None
        await end(task)
        with contextlib.suppress(*REDIS_ERRORS):
            await self.client.aclose()

    def health(self) -> Health:
        """Whether it answers."""
        return self.link.health() if self._checked else Health(False, self._missing)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            await self._look()

    async def _look(self) -> None:
        if self._checked:
            try:
                await self.client.ping()
            except REDIS_ERRORS as error:
                self.link.bad(error)
            else:
                self.link.good()
            return
        try:
            server = await check(self.client, self._config, widget=self._widget)
        except RedisUnavailable as error:
            if str(error) != self._missing:
                self._missing = str(error)
                log.warning("redis_unavailable", link=self.name, reason=self._missing, hint="waiting for it")
            return
        self._checked = True
        self.link.good()
        log.info("redis", link=self.name, server=server.name, version=server.version)
        for warning in server.warnings:
            log.warning("redis_setup", link=self.name, warning=warning)
