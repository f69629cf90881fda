"""What the admin API can see and change: the application as `mdp.admin.controls.Controls`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from mdp import __version__
from mdp.admin.controls import UnknownSymbolError
from mdp.analyzers.explain import Origin, explain, lost_at
from mdp.analyzers.halt_state import HaltState
from mdp.analyzers.halts import Halts
from mdp.cache.origin import OriginOf
from mdp.roles.feed_controls import FeedControls
from mdp.sessions import TradingDay

if TYPE_CHECKING:
    from mdp.app import App

_MAX_GAPS = 50  # in one answer


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

    def explain(self, symbol: str) -> dict[str, Any]:
        """See `Controls`. With `reference` (where its values came from) and `trust` (what was lost)."""
        app = self._app
        market = app.market
        origin = OriginOf(app.reference, symbol)
        answer = explain(
            market,
            symbol,
            halt=self._halt(symbol),
            origins=self._origins(origin),
            split_ratio=origin.split_ratio,
        )
        if answer is None:
            raise UnknownSymbolError(self._unknown(symbol))
        fields = answer["fields"]
        answer["reference"] = origin.describe()
        answer["trust"] = {
            "stale": fields["stale"]["value"] if fields else None,
            "lost_at": lost_at(market, symbol) or None,
            "uncertain_since": market.trust.uncertain_since(symbol),
            "pending": list(getattr(market.references.get(symbol, market.unreferenced), "pending", ())),
            "feed_state": app.listener.state.value,
            "gaps": _gaps_of(app.listener.gaps.entries(), symbol, market.clock.day),
        }
        return answer

    def _halt(self, symbol: str) -> HaltState | None:
        for guard in self._app.engine.guards:
            if isinstance(guard.analyzer, Halts):
                return guard.analyzer.known(symbol)
        return None

    def _origins(self, origin: OriginOf) -> dict[str, Origin]:
        """With the time that the values are of: the end of the previous session."""
        book = origin.book
        if book is None:
            return {}
        ended = TradingDay.of(book.previous, self._app.calendar).close_ms
        return {
            field: Origin(source, fetched_ms, None if field in ("free_float", "pending") else ended)
            for field, (source, fetched_ms) in origin.fields.items()
        }

    def _unknown(self, symbol: str) -> str:
        market = self._app.market
        upper = symbol.upper()
        if upper != symbol and (upper in market.symbols or upper in market.references):
            return f"nothing is known of {symbol!r}: symbols are case-sensitive, {upper!r} is known"
        day = market.clock.day
        if day is None:
            return f"nothing is known of {symbol!r}: no event has come yet; GET /api/v1/status has the feed"
        return (
            f"nothing is known of {symbol!r} on trading day {day.day}: check its spelling, whether it traded "
            "since 04:00 New York time, and the subscriptions of the feed (GET /api/v1/status)"
        )

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


def _gaps_of(entries: list[dict[str, Any]], symbol: str, day: TradingDay | None) -> list[dict[str, Any]]:
    """Entries of the gap ledger that may be of a symbol's trading day, the last ones.

    One whose market time is unknown may be of any day, one that names only some of its symbols of any symbol.
    """
    touching = []
    for gap in entries:
        named = gap.get("symbols")
        if named is not None and symbol not in named and gap.get("symbols_count") == len(named):
            continue
        begin, end = gap.get("market_start_ms"), gap.get("market_end_ms")
        if day is None or ((begin or 0) < day.end_ms and (end or day.start_ms) >= day.start_ms):
            touching.append(gap)
    return touching[-_MAX_GAPS:]
