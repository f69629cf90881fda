"""The metrics and health server: GET only, nothing to change, nothing secret to see."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog
from aiohttp import web

from mdp.config import MetricsConfig
from mdp.observability.http import HttpServer
from mdp.observability.metrics import CONTENT_TYPE, Metrics
from mdp.stage import Health

log = structlog.get_logger(__name__)

PATHS = ("/metrics", "/healthz", "/readyz")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class MetricsServer(HttpServer):
    """`/metrics` for Prometheus, `/healthz` and `/readyz` for whoever restarts and routes. A stage.

    Args:
        config: Where to listen.
        metrics: What to show.
        live: Whether the process works at all; a supervisor restarts it when it does not.
        ready: Each part's name and whether it can serve now; ready is who has them all.
    """

    def __init__(
        self,
        config: MetricsConfig,
        metrics: Metrics,
        *,
        live: Callable[[], Health],
        ready: Callable[[], list[tuple[str, Health]]],
    ) -> None:
        self._metrics, self._live, self._ready = metrics, live, ready
        app = web.Application(middlewares=[_one_line_errors], client_max_size=1024)
        # Without HEAD: what is documented as GET only answers nothing else.
        app.router.add_get("/metrics", self._show_metrics, allow_head=False)
        app.router.add_get("/healthz", self._show_live, allow_head=False)
        app.router.add_get("/readyz", self._show_ready, allow_head=False)
        super().__init__("metrics", config.host, config.port, app)

    async def _show_metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    async def _show_live(self, _request: web.Request) -> web.Response:
        try:
            health = self._live()
        except Exception as exc:  # a probe that fails must say so, not look like a bug of the server
            log.warning("health_check_failed", error=repr(exc))
            health = Health(False, "the health check itself failed")
        return _json({"ok": health.ok, "detail": health.detail}, health.ok)

    async def _show_ready(self, _request: web.Request) -> web.Response:
        try:
            parts = self._ready()
        except Exception as exc:
            log.warning("readiness_check_failed", error=repr(exc))
            parts = [("readiness", Health(False, "the readiness check itself failed"))]
        ready = all(health.ok for _, health in parts)
        listed = [{"name": name, "ok": health.ok, "detail": health.detail} for name, health in parts]
        return _json({"ready": ready, "parts": listed}, ready)


def _json(body: dict[str, Any], ok: bool) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(body),
        status=200 if ok else 503,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


@web.middleware
async def _one_line_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPNotFound:
        return web.Response(status=404, text=f"not found; here are {' '.join(PATHS)}\n")
    except web.HTTPMethodNotAllowed:
        return web.Response(status=405, text="only GET is allowed here\n", headers={"Allow": "GET"})
    except web.HTTPException:
        raise
    except Exception as exc:
        log.error("metrics_request_failed", path=request.path, error=repr(exc))
        return web.Response(status=500, text="internal error; the log has the cause\n")
