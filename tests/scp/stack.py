"""A data service, the server of the page, and a tab of a real browser."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeVar

from mdp import feeds
from mdp.cache.memory import MemoryBus, MemoryCache
from mdp.config import ScpConfig, WdsConfig
from mdp.scp.server import ControlPlane
from mdp.wds.server import WidgetDataService
from tests.scp.browser import Page, browser


class Stack:
    """Services on free ports, and what feeds them."""

    def __init__(self, page: Page, config: WdsConfig) -> None:
        self.page = page
        self.config = config
        self.bus = MemoryBus(epoch=1)
        self.cache = MemoryCache(self.bus)
        self.plane = ControlPlane(
            ScpConfig(port=0), wds_port=lambda: self.service.port, auth_required=config.auth_enabled
        )
        self.service = self.new_service()

    def new_service(self) -> WidgetDataService:
        """A data service that is not started."""
        return WidgetDataService(self.config, self.bus, self.cache, own_origins=self.plane.origins)

    def publish(self, family: feeds.Family, symbol: str, value: Any) -> None:
        """Into the cache and onto the bus."""
        if family.kind == feeds.EVENT:
            self.cache.push(family, symbol, value)
        else:
            self.cache.set(family, symbol, value)
        self.bus.publish(family, symbol, value)


S = TypeVar("S", bound=Stack)


@contextlib.asynccontextmanager
async def serving(kind: type[S], profile: Path, config: WdsConfig | None = None) -> AsyncIterator[S]:
    """All of it runs; nothing is loaded yet."""
    async with browser(profile) as page:
        env = kind(page, config or WdsConfig(port=0))
        await env.service.start()
        await env.plane.start()
        try:
            yield env
        finally:
            await env.plane.stop()
            await env.service.stop()
