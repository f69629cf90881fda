"""What a stage is: a part of the process that starts, runs, reports its health and stops."""

from __future__ import annotations

from typing import Protocol

import msgspec


class Health(msgspec.Struct, frozen=True):
    """What a stage says of itself in `/readyz` and the admin API."""

    ok: bool
    detail: str  # one line for a person, without secrets


class Stage(Protocol):
    """One pluggable part of a role.

    The application starts stages in the order data flows against (consumers first) and
    stops them in the reverse order, so nothing is produced that nobody takes.
    """

    name: str

    async def start(self) -> None:
        """Acquire what is needed and begin; raises when it cannot (the process then ends)."""

    async def stop(self) -> None:
        """Stop within the stage's own bound of time. Safe to call twice, or before `start`."""

    def health(self) -> Health:
        """Whether it can do its work now. Cheap, never raises, never waits."""
