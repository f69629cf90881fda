"""Which requests become a WebSocket: decided by their headers, before the upgrade."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Callable
from http import HTTPStatus

from aiohttp import web

from mdp.config import WdsConfig
from mdp.wds.auth import hosts_of, origin_allowed
from mdp.wds.counters import WdsCounters
from mdp.wds.protocol2 import SUBPROTOCOL


class Origins:
    """Whose pages may read from the service."""

    def __init__(
        self, config: WdsConfig, own_origins: Callable[[], set[str]], port: Callable[[], int]
    ) -> None:
        """
        Args:
            config: The address that we listen at, and the origins allowed.
            own_origins: Those of our own pages, asked at each request.
            port: Where we listen.
        """
        self._config = config
        self._own_origins = own_origins
        self._port = port

    def allow(self, request: web.Request) -> bool:
        """Whether a request comes from no page, or from one of an origin that is allowed."""
        config = self._config
        scheme = "https" if config.tls_cert else "http"
        hosts = hosts_of(config.host) or {"*"}
        own = {f"{scheme}://{_bracketed(host)}:{self._port()}" for host in hosts}
        origin, local_ip = request.headers.get("Origin"), _local_ip(request)
        return origin_allowed(origin, own | self._own_origins(), config.allowed_origins, local_ip)


def refusal(
    request: web.Request, config: WdsConfig, counters: WdsCounters, *, origins: Origins, stopping: bool
) -> web.Response | None:
    """The answer to a request that is not upgraded, counted; None for one that is."""
    if stopping:
        reason, status, text = "stopping", HTTPStatus.SERVICE_UNAVAILABLE, "The service is stopping."
    elif not origins.allow(request):
        reason, status = "origin", HTTPStatus.FORBIDDEN
        text = "Pages of this origin may not connect. Add it to wds.allowed_origins to allow it."
    elif not web.WebSocketResponse(protocols=(SUBPROTOCOL,)).can_prepare(request):
        reason, status = "not_websocket", HTTPStatus.UPGRADE_REQUIRED
        text = "This address speaks WebSocket (version 13) only."
    elif counters.clients >= config.max_clients:
        reason, status = "full", HTTPStatus.SERVICE_UNAVAILABLE
        text = "All places are taken (wds.max_clients). Try again later."
    else:
        return None
    counters.reject(reason)
    headers = {"Upgrade": "websocket"} if status == HTTPStatus.UPGRADE_REQUIRED else {}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = "5"
    return web.Response(status=status, text=text + "\n", headers=headers)


def wants_version_2(request: web.Request) -> bool:
    """Whether a client offers the subprotocol of version 2, among others or alone."""
    offered = request.headers.get("Sec-WebSocket-Protocol", "").split(",")
    return SUBPROTOCOL in [name.strip() for name in offered]


def _local_ip(request: web.Request) -> str:
    """The address of ours at which a connection came in; empty where the transport knows none."""
    name = request.transport.get_extra_info("sockname") if request.transport is not None else None
    if not isinstance(name, tuple):
        return ""
    return _plain_ip(name[0])


@functools.lru_cache(maxsize=64)
def _plain_ip(text: str) -> str:
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
