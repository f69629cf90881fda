"""What a role is: a part of the platform that can run in a process of its own, meeting others in Redis."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from mdp.cache.keys import Keys
from mdp.config import Config
from mdp.observability.loop_lag import StepTimers
from mdp.observability.metrics import Metrics
from mdp.stage import Health, Stage

if TYPE_CHECKING:
    from mdp.roles.redis_stage import RedisStage


class Shared:
    """What the roles of one process share.

    Attributes:
        config: The settings.
        metrics: Where a role registers what `/metrics` shows; names are unique in a process.
        steps: Timers of steps that hold the loop.
        id: Of this process, unique among all that share Redis: owner of leases, member, interest.
        keys: Every name in Redis.
        redis: `cache.url`, where streams, leases, checkpoints and parts are: `.client`, `.link`. A stage of
            the process, not of a role.
        widget_redis: `cache.widget_url`, where everything is that clients may read. The same object where
            that is empty.
        roles: The roles of this process by name, in the order of starting; complete after all are built.
    """

    def __init__(
        self,
        config: Config,
        metrics: Metrics,
        steps: StepTimers,
        keys: Keys,
        redis: RedisStage,
        widget_redis: RedisStage,
    ) -> None:
        self.config = config
        self.metrics = metrics
        self.steps = steps
        self.id = f"{socket.gethostname()[:40]}-{os.getpid()}-{secrets.token_hex(4)}"
        self.keys = keys
        self.redis = redis
        self.widget_redis = widget_redis
        self.roles: dict[str, Role] = {}


class Runs(Protocol):
    """A stage, whatever it is called."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def health(self) -> Health: ...


class Named:
    """A stage under a name of its own in this process, so that `/readyz` tells it from the others."""

    def __init__(self, name: str, stage: Runs) -> None:
        self.name = name
        self.start, self.stop, self.health = stage.start, stage.stop, stage.health


class Role:
    """Base of all roles. Built inside the event loop, before anything starts; only stages touch Redis.

    What a role's stages report as health is what `/readyz` says the process lacks: name there what is
    missing ("no partition owned yet"), without secrets. That Redis cannot be reached, its own stage says.

    Attributes:
        name: As in `--role`.
        controls: Whatever it answers of `mdp.admin.controls.Controls`: an object with some of those
            methods (`status` excepted: that is `status` below). None: nothing.
    """

    name: ClassVar[str]

    def __init__(self, shared: Shared) -> None:
        """Build the stages.

        Raises:
            StartError: A setting, or a plug-in, that cannot be used.
        """
        self.shared = shared
        self.controls: object | None = None

    def stages(self) -> Iterable[Stage]:
        """In the order of starting; names are unique in a process (`/readyz` lists them)."""
        return ()

    def vital(self) -> Iterable[Stage]:
        """Those without which the process is to be restarted (`/healthz`)."""
        return ()

    def ports(self) -> Mapping[str, int]:
        """Where its servers listen, by section of the configuration."""
        return {}

    def status(self) -> dict[str, Any]:
        """What `GET /api/v1/status` says under the role's name."""
        return {}

    def session(self) -> str | None:
        """The market's session, where the role knows it."""
        return None

    def look(self) -> None:
        """Once a second: chores."""

    async def finish(self) -> None:
        """After all stages of the process have stopped, the link excepted; bounded by its caller."""
