"""The data service in a process of its own: a relay in front, which is bus and cache to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from mdp.cache.redis_link import Link
from mdp.cache.relay import Relay
from mdp.observability.clients import show_clients
from mdp.observability.relay import show_relay
from mdp.roles.parts import Role, Shared
from mdp.scp.server import origins_of
from mdp.stage import Stage
from mdp.wds.server import WidgetDataService


class WdsRole(Role):
    """See the module. Any number of replicas serve the same with the same `(epoch, seq)`.

    Attributes:
        relay: Bus and cache.
        service: The server.
    """

    name: ClassVar[str] = "wds"

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared)
        config = shared.config
        client, link = shared.widget_redis.client, Link("relay", config.cache)
        self.relay = Relay(client, shared.keys, shared.id, link)
        self.service = WidgetDataService(
            config.wds, self.relay.bus, self.relay.cache, own_origins=self._own_origins
        )
        self.relay.events.on_missed.append(self.service.missed)
        show_clients(self.service, shared.metrics)
        show_relay(self.relay, shared.metrics)

    def stages(self) -> Iterable[Stage]:
        yield self.relay
        yield self.service

    def ports(self) -> Mapping[str, int]:
        return {"wds": self.service.port}

    def status(self) -> dict[str, Any]:
        counters = self.service.counters
        return {
            "clients": counters.clients,
            "subscriptions": counters.subscriptions,
            "patterns": len(self.relay.demand),
            "redis": self.relay.health().detail,
        }

    def _own_origins(self) -> set[str]:
        """Of the pages, in this process or, as configured, in another one."""
        scp = self.shared.roles.get("scp")
        port = scp.ports().get("scp", 0) if scp is not None else self.shared.config.scp.port
        return origins_of(self.shared.config.scp, port) if port else set()
