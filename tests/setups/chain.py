"""The whole chain as processes over some setup of Redis, with a client that judges what it is sent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mdp.client import WdsClient
from tests.failures.cluster import Cluster
from tests.failures.recorder import EVENT_FEEDS, Recorder
from tests.setups.servers import Several

BOARD = "scanners:top_volume"
_SYMBOLS = 10
_PATIENCE_SECONDS = 60.0
_ROLES = ("listener-a", "processor-a", "processor-b", "scanner-a", "wds-a")


class Chain(Cluster):
    """All roles, a simulated market, and one client. Made by `chained`.

    Attributes:
        recorder: The client: a board, the market's status, events, quotes and ranges of some symbols.
    """

    def __init__(self, folder: Path, redis: Several, roles: tuple[str, ...] = _ROLES) -> None:
        super().__init__(folder, roles=roles, start="2026-03-10T09:35:00")
        self.redis = redis  # type: ignore[assignment]  # as much of it as is used
        self._several = redis
        self.recorder = Recorder("client", lambda: [], [])

    def _environment(self, name: str) -> dict[str, str]:
        return {**super()._environment(name), **self._several.environment}

    async def begin(self) -> None:
        """Start everything; returns once the client gets all it subscribed to."""
        await self.start()
        feeds = [BOARD, "market:status", *EVENT_FEEDS]
        feeds += [f"{kind}:{name}" for name in await self.busiest() for kind in ("quote", "daily_range")]
        self.recorder = Recorder("client", self.wds_urls("wds-a"), feeds)
        await self.recorder.start()
        await self.flowing()

    async def busiest(self) -> list[str]:
        """Symbols of the board."""
        async with WdsClient(self.wds_urls("wds-a")()[0]) as client:
            until = time.monotonic() + _PATIENCE_SECONDS
            while len(rows := await client.get(BOARD, _SYMBOLS) or []) < _SYMBOLS:
                assert time.monotonic() < until, "no board"
                await asyncio.sleep(0.2)
        return [row["symbol"] for row in rows]

    async def flowing(self) -> float:
        """Wait for a new board, and new quotes of half of the symbols; returns how long it took (s)."""
        since = time.monotonic()
        while True:
            news = {s.feed for s in self.recorder.judge.seen[-4_000:] if s.fresh and s.arrival > since}
            if BOARD in news and sum(feed.startswith("quote:") for feed in news) >= _SYMBOLS // 2:
                return time.monotonic() - since
            assert time.monotonic() < since + _PATIENCE_SECONDS, f"the client hears {news}"
            await asyncio.sleep(0.05)

    async def wildcard(self) -> dict[str, Any]:
        """The first value of all quotes, by symbol, as one who subscribes to `quote:*` is told."""
        found: dict[str, Any] = {}
        async with WdsClient(self.wds_urls("wds-a")()[0]) as client, asyncio.timeout(_PATIENCE_SECONDS):
            async for update in client.subscribe("quote:*"):
                found[update.feed] = update.value
                if len(found) >= 3 * _SYMBOLS:
                    break
        return found

    async def shutdown(self) -> None:
        """Let the client go; raises where it met what must not happen."""
        await self.recorder.stop()


@asynccontextmanager
async def chained(folder: Path, redis: Several, roles: tuple[str, ...] = _ROLES) -> AsyncIterator[Chain]:
    """A chain whose client gets all it wants."""
    chain = Chain(folder, redis, roles)
    async with chain:
        try:
            await chain.begin()
            yield chain
        finally:
            await chain.shutdown()
