"""What the admin API can see and change: the application as `mdp.admin.controls.Controls`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from mdp import __version__
from mdp.admin.controls import UnknownSymbolError
from mdp.cache.origin import OriginOf
from mdp.roles.explanation import explained, unknown
from mdp.roles.feed_controls import FeedControls

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
            "recording": self._feed.recording(),
        }

    @property
    def _feed(self) -> FeedControls:
        return FeedControls(self._app.listener)

    def gaps(self) -> list[dict[str, Any]]:
        return self._feed.gaps()

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

    async def explain(self, symbol: str) -> dict[str, Any]:
        """See `Controls` and `mdp.roles.explanation`."""
        app = self._app
        answer = explained(
            app.engine,
            symbol,
            origin=OriginOf(app.reference, symbol),
            calendar=app.calendar,
            feed_state=app.listener.state.value,
            gaps=app.listener.gaps.entries(),
        )
        if answer is None:
            market = app.market
            raise UnknownSymbolError(
                unknown(
                    symbol, market.clock.day, lambda name: name in market.symbols or name in market.references
                )
            )
        return answer

    async def feed_start(self) -> None:
        await self._feed.feed_start()

    async def feed_stop(self) -> None:
        await self._feed.feed_stop()

    async def feed_restart(self) -> None:
        await self._feed.feed_restart()

    async def feed_configure(
        self, feed: str | None, market: str | None, subscriptions: list[str] | None
    ) -> None:
        await self._feed.feed_configure(feed, market, subscriptions)

    async def record_start(self, path: str) -> None:
        await self._feed.record_start(path)

    async def record_stop(self) -> None:
        await self._feed.record_stop()

    async def close(self) -> None:
        """End a recording that still runs, so that its file is whole. For the end of the process."""
        await self._feed.close()
