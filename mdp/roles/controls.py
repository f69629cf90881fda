"""The control API of a process with some of the roles: each question goes to the role that can answer it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from mdp import __version__
from mdp.admin.controls import NotHereError

if TYPE_CHECKING:
    from mdp.roles.parts import Role


class RoleControls:
    """See `mdp.admin.controls.Controls`.

    Args:
        roles: Those of this process.
        ports: Where its servers listen.
    """

    def __init__(self, roles: Callable[[], Iterable[Role]], ports: Callable[[], Mapping[str, int]]) -> None:
        self._roles = roles
        self._ports = ports
        self._started = time.monotonic()

    def status(self) -> dict[str, Any]:
        roles = list(self._roles())
        return {
            "version": __version__,
            "roles": [role.name for role in roles],
            "uptime_seconds": round(time.monotonic() - self._started, 1),
            "ports": dict(self._ports()),
            **{role.name: role.status() for role in roles},
        }

    def gaps(self) -> list[dict[str, Any]]:
        gaps: list[dict[str, Any]] = self._ask("gaps", "listener or --role processor")()
        return gaps

    def queues(self) -> dict[str, Any]:
        """By role, where several count queues; where one does, as it counts them."""
        found = {
            role.name: role.controls.queues()
            for role in self._roles()
            if role.controls is not None and hasattr(role.controls, "queues")
        }
        if not found:
            raise self._not_here("listener or --role processor")
        return next(iter(found.values())) if len(found) == 1 else found

    def analyzers(self) -> list[dict[str, Any]]:
        analyzers: list[dict[str, Any]] = self._ask("analyzers", "processor")()
        return analyzers

    async def explain(self, symbol: str) -> dict[str, Any]:
        answer: dict[str, Any] = await self._ask("explain", "processor")(symbol)
        return answer

    async def feed_start(self) -> None:
        await self._ask("feed_start", "listener")()

    async def feed_stop(self) -> None:
        await self._ask("feed_stop", "listener")()

    async def feed_restart(self) -> None:
        await self._ask("feed_restart", "listener")()

    async def feed_configure(
        self, feed: str | None, market: str | None, subscriptions: list[str] | None
    ) -> None:
        await self._ask("feed_configure", "listener")(feed, market, subscriptions)

    async def record_start(self, path: str) -> None:
        await self._ask("record_start", "listener")(path)

    async def record_stop(self) -> None:
        await self._ask("record_stop", "listener")()

    def _ask(self, method: str, where: str) -> Callable[..., Any]:
        """The method of the role that has it.

        Raises:
            NotHereError: None has.
        """
        for role in self._roles():
            found = getattr(role.controls, method, None)
            if found is not None:
                answer: Callable[..., Any] = found
                return answer
        raise self._not_here(where)

    def _not_here(self, where: str) -> NotHereError:
        mine = ",".join(role.name for role in self._roles())
        return NotHereError(f"this process is --role {mine}; ask one that runs --role {where}")
