"""What the admin API can see and change: the application as `mdp.admin.controls.Controls`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from mdp import __version__
from mdp.config import ConfigError
from mdp.listener.recorder import Recorder, RecorderError

if TYPE_CHECKING:
    from mdp.app import App


class AppControls:
    """See `mdp.admin.controls.Controls`."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._started = time.monotonic()

    def status(self) -> dict[str, Any]:
        app = self._app
        return {
            "version": __version__,
            "roles": app.roles,
            "uptime_seconds": round(time.monotonic() - self._started, 1),
            "ports": dict(app.ports()),
            "feed": app.listener.status(),
            "market": app.status_feed.payload(),
            "recording": self._recording(),
        }

    def gaps(self) -> list[dict[str, Any]]:
        return self._app.listener.gaps.entries()

    def queues(self) -> dict[str, Any]:
        return self._app.accounting()

    def analyzers(self) -> list[dict[str, Any]]:
        return [
            {
                "name": guard.name,
                "queues": list(guard.analyzer.queues),
                "enabled": not guard.disabled,
                "failures": guard.failures,
                "lost_events": guard.lost_events,
                "ignored": dict(getattr(guard.analyzer, "ignored", {})),
            }
            for guard in self._app.engine.guards
        ]

    async def feed_start(self) -> None:
        await self._app.listener.start_feed()

    async def feed_stop(self) -> None:
        await self._app.listener.stop_feed()

    async def feed_restart(self) -> None:
        await self._app.listener.restart_feed()

    async def feed_configure(
        self, feed: str | None, market: str | None, subscriptions: list[str] | None
    ) -> None:
        try:
            await self._app.listener.configure(feed=feed, market=market, subscriptions=subscriptions)
        except ConfigError as exc:
            raise ValueError(str(exc)) from None

    async def record_start(self, path: str) -> None:
        listener = self._app.listener
        if listener.recorder is not None and listener.recorder.active:
            raise ValueError(f"a recording runs already: {listener.recorder.path}")
        recorder = Recorder(path)
        try:
            await recorder.start()
        except (RecorderError, OSError) as exc:
            raise ValueError(str(exc)) from None
        listener.recorder = recorder

    async def record_stop(self) -> None:
        listener = self._app.listener
        recorder = listener.recorder
        if recorder is None:
            raise ValueError("no recording runs")
        listener.recorder = None
        await recorder.stop()

    async def close(self) -> None:
        """End a recording that still runs, so that its file is whole. For the end of the process."""
        if self._app.listener.recorder is not None:
            await self.record_stop()

    def _recording(self) -> dict[str, Any] | None:
        recorder = self._app.listener.recorder
        if recorder is None:
            return None
        counters = recorder.counters
        return {
            "path": str(recorder.path),
            "frames": counters.written,
            "dropped": counters.dropped,
            "error": recorder.error,
        }
