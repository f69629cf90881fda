"""The simulator's own endpoints: what was sent, and faults at run time. For the same machine only."""

from __future__ import annotations

import math
from typing import Any, Protocol

from aiohttp import web

from .faults import Faults


class Controlled(Protocol):
    """What the endpoints control."""

    faults: Faults

    def set_fault(self, name: str, value: object = True) -> None:
        """Switch a fault on or off."""

    def stats(self) -> dict[str, Any]:
        """What was sent and what went wrong."""


class ControlApi:
    """`GET /sim/stats`, `POST /sim/faults` and `DELETE /sim/faults`, without a key."""

    def __init__(self, simulator: Controlled) -> None:
        self._simulator = simulator

    def add_routes(self, app: web.Application) -> None:
        """Add the endpoints to an application."""
        app.router.add_get("/sim/stats", self._get_stats)
        app.router.add_post("/sim/faults", self._post_faults)
        app.router.add_delete("/sim/faults", self._delete_faults)

    async def _get_stats(self, request: web.Request) -> web.Response:
        _only_local(request)
        return web.json_response(self._simulator.stats())

    async def _post_faults(self, request: web.Request) -> web.Response:
        _only_local(request)
        try:
            wanted = await request.json()
            if not isinstance(wanted, dict) or not wanted:
                raise ValueError('expected an object such as {"stall": 5, "late_bars": 0.1}')
            before = {name: value for name, value in wanted.items() if not _is_finite(value)}
            if before:
                raise ValueError(f"not a number: {', '.join(map(str, before))}")
            for name, value in wanted.items():
                self._simulator.set_fault(name, value)
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)
        return web.json_response(
            {"on": self._simulator.faults.on, "injected": dict(self._simulator.faults.injected)}
        )

    async def _delete_faults(self, request: web.Request) -> web.Response:
        _only_local(request)
        self._simulator.faults.clear()
        return web.json_response({"on": self._simulator.faults.on})


def _is_finite(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and math.isfinite(value))


def _only_local(request: web.Request) -> None:
    """Control is for the same machine, whatever address the simulator listens on."""
    if request.remote not in ("127.0.0.1", "::1"):
        raise web.HTTPForbidden(text="loopback only")
