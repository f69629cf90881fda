"""Puts roles together in one process that meets the others in Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from importlib import import_module

import structlog

from mdp.cache.keys import Keys
from mdp.config import Config
from mdp.demo import DemoOptions
from mdp.roles import running, workers
from mdp.roles.base import Process, StartError
from mdp.roles.controls import RoleControls
from mdp.roles.parts import Shared
from mdp.roles.redis_stage import RedisStage
from mdp.sessions import CLOSED
from mdp.stage import Stage

log = structlog.get_logger(__name__)

#: Name -> module and class, in the order of starting: consumers before producers. Imported where needed: a
#: process of one role does without what the others load.
ROLES = {
    "wds": ("mdp.roles.wds", "WdsRole"),
    "scp": ("mdp.roles.scp", "ScpRole"),
    "scanner": ("mdp.roles.scanner", "ScannerRole"),
    "processor": ("mdp.roles.processor", "ProcessorRole"),
    "listener": ("mdp.roles.listener", "ListenerRole"),
}


class RoleProcess(Process):
    """Some or all of the roles, with one way to Redis, one metrics and one admin server.

    Attributes:
        shared: What the roles share.
    """

    def __init__(self, config: Config, roles: list[str]) -> None:
        """Build the roles; nothing is reached before `start`.

        Args:
            config: The settings.
            roles: Names of `ROLES`, or `all`.

        Raises:
            StartError: No such role, or one that cannot be built.
        """
        names = names_of(roles)
        unknown = [name for name in roles if name != "all" and name not in ROLES]
        if unknown or not names:
            raise StartError(
                f"--role: found {','.join(unknown)!r}; allowed: all, or some of {', '.join(ROLES)}",
                exit_code=2,
            )
        controls = RoleControls(lambda: self.shared.roles.values(), self.ports)
        super().__init__(config, roles, controls)
        keys = Keys(config.cache.key_prefix)
        redis = RedisStage("redis", config.cache)
        widget_redis = redis
        if config.cache.widget_url:
            widget_redis = RedisStage("widget_redis", config.cache, widget=True)
        self.shared = Shared(config, self.metrics, self.steps, keys, redis, widget_redis)
        for name in names:
            module, attribute = ROLES[name]
            self.shared.roles[name] = getattr(import_module(module), attribute)(self.shared)

    def parts(self) -> Iterator[Stage]:
        shared = self.shared
        yield shared.redis
        if shared.widget_redis is not shared.redis:
            yield shared.widget_redis
        for role in shared.roles.values():
            yield from role.stages()

    def vital(self) -> Iterator[Stage]:
        yield from super().vital()
        for role in self.shared.roles.values():
            yield from role.vital()

    def ports(self) -> Mapping[str, int]:
        found: dict[str, int] = {}
        for role in self.shared.roles.values():
            found |= role.ports()
        return {**found, **super().ports()}

    def session(self) -> str:
        """As the role says that knows the market; one that does not know it trades never."""
        known = (role.session() for role in self.shared.roles.values())
        return next((session for session in known if session is not None), CLOSED)

    def look(self) -> None:
        for role in self.shared.roles.values():
            role.look()

    async def finish(self, seconds: float) -> None:
        for role in reversed(self.shared.roles.values()):
            try:
                await asyncio.wait_for(role.finish(), seconds)
            except TimeoutError:
                log.warning("stop_timeout", stage=role.name)


def names_of(roles: list[str]) -> list[str]:
    """The roles of a process in the order of starting; unknown names are left out."""
    return list(ROLES) if "all" in roles else [name for name in ROLES if name in roles]


def run(config: Config, roles: list[str], demo: DemoOptions | None) -> int:
    """Run some roles until a signal. The second one ends at once.

    Returns:
        The exit code: 0 after a signal, 1 or 2 where the start failed.
    """
    if config.processor.workers > 1:
        return workers.run(config, roles)
    for name in names_of(roles):  # before there is a loop to hold, and before the collector is set up
        import_module(ROLES[name][0])
    return running.run(lambda settings: RoleProcess(settings, roles), config, demo)
