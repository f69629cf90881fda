"""The life of a process of the platform, whatever its roles: start, readiness, chores, stop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping

import structlog

from mdp.admin.controls import Controls
from mdp.admin.server import AdminServer
from mdp.collector import Collector
from mdp.config import Config
from mdp.observability.loop_lag import LoopLag, StepTimers
from mdp.observability.metrics import Metrics
from mdp.observability.server import MetricsServer
from mdp.sessions import CLOSED
from mdp.stage import Health, Stage

log = structlog.get_logger(__name__)

_STOP_SECONDS = 1.8  # for all stages together; Ctrl-C is to end within 2 s
_LATE_SECONDS = 0.2  # after it, for all that are left, in even parts


class StartError(Exception):
    """The process cannot start: one line that says what to change.

    Attributes:
        exit_code: 2 where a setting is wrong, 1 where the machine refuses (an address in use).
    """

    def __init__(self, reason: str, *, exit_code: int = 1) -> None:
        super().__init__(reason)
        self.exit_code = exit_code


class Process:
    """Starts stages, looks after them, and stops them in order. Build it inside the running event loop.

    Subclasses say which stages there are (`parts`). Attributes are the stages that every process has.
    """

    def __init__(self, config: Config, roles: list[str], controls: Controls) -> None:
        self.config = config
        self.roles = roles
        self.metrics = Metrics()
        self.loop_lag = LoopLag(self.metrics)
        self.steps = StepTimers(self.metrics)
        self.metrics_server = MetricsServer(config.metrics, self.metrics, live=self.live, ready=self.ready)
        self.admin = AdminServer(config.admin, controls)
        self._started: list[Stage] = []
        self._chores: asyncio.Task[None] | None = None

    # What subclasses say.

    def parts(self) -> Iterator[Stage]:
        """The stages in the order of starting: whoever produces comes after its consumers."""
        yield from ()

    def vital(self) -> Iterator[Stage]:
        """Stages without which the process does not work at all, so that a supervisor should restart it."""
        yield self.loop_lag

    def ports(self) -> Mapping[str, int]:
        """Where the servers listen, by section of the configuration."""
        return {"metrics": self.metrics_server.port, "admin": self.admin.port}

    def session(self) -> str:
        """The market's session now, for what is done while nobody trades."""
        return CLOSED

    def started(self) -> None:
        """All stages have started."""

    def look(self) -> None:
        """Once a second: what belongs to no stage."""

    async def finish(self, seconds: float) -> None:
        """After all stages have stopped; takes about that long at most."""

    # Life.

    def stages(self) -> Iterator[Stage]:
        """In the order of starting. Probes and the control API answer first and longest."""
        yield self.loop_lag
        yield self.metrics_server
        yield self.admin
        yield from self.parts()

    async def start(self) -> None:
        """Start all stages; stops those that run where one cannot.

        Raises:
            StartError: E.g. an address is in use: one line.
        """
        for stage in self.stages():
            try:
                await stage.start()
            except (OSError, StartError) as exc:
                await self.stop()
                if isinstance(exc, StartError):
                    raise
                reason = str(exc.strerror or exc).removeprefix(f"{stage.name}: ")
                raise StartError(f"{stage.name}: {reason}") from None
            self._started.append(stage)
        self.started()
        self._chores = asyncio.create_task(self._look_after(), name="chores")

    async def stop(self) -> None:
        """Stop in the reverse order: no more input, then work off what waits, then say goodbye."""
        if self._chores is not None:
            self._chores.cancel()
            self._chores = None
        until = time.monotonic() + _STOP_SECONDS
        least = _LATE_SECONDS * 0.75 / max(1, len(self._started))
        while self._started:
            stage = self._started.pop()
            try:
                await asyncio.wait_for(stage.stop(), max(least, until - time.monotonic()))
            except TimeoutError:
                log.warning("stop_timeout", stage=stage.name)
            except Exception as exc:  # the others must be stopped all the same
                log.error("stop_failed", stage=stage.name, exc_info=exc)
        await self.finish(max(_LATE_SECONDS * 0.25, until - time.monotonic()))

    def live(self) -> Health:
        """Whether the process works at all; a supervisor restarts it where not."""
        for stage in self.vital():
            health = stage.health()
            if not health.ok and stage in self._started:
                return Health(False, f"{stage.name}: {health.detail}")
        return Health(True, "works")

    def ready(self) -> list[tuple[str, Health]]:
        """Each part and whether it can serve: ready is who is live and warmed up."""
        parts = [(stage.name, stage.health()) for stage in self.stages()]
        started = {stage.name for stage in self._started}
        return [
            (name, health if name in started else Health(False, "not started yet")) for name, health in parts
        ]

    async def _look_after(self) -> None:
        collector = Collector(self.session)
        failures = 0
        while True:
            await asyncio.sleep(1)
            try:
                self.look()
                collector.look()
            except Exception as exc:  # a defect must not end the chores for good
                failures += 1
                if failures.bit_count() == 1:  # the 1st, 2nd, 4th, 8th ... time
                    log.error("chores_failed", failures=failures, exc_info=exc)
