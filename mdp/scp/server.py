"""The Service Control Plane: pages, and what they need to find the data service."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Awaitable, Callable
from importlib.resources import files

from aiohttp import web

from mdp.cache.base import encode_json
from mdp.config import ScpConfig
from mdp.observability.http import HttpServer

#: Everything the page is made of, by path. A fixed list: no path of a request reaches the file system.
_PAGES: dict[str, tuple[str, str]] = {
    "/": ("index.html", "text/html"),
    "/static/app.js": ("app.js", "text/javascript"),
    "/static/format.js": ("format.js", "text/javascript"),
    "/static/mdp-client.js": ("mdp-client.js", "text/javascript"),
    "/static/style.css": ("style.css", "text/css"),
    "/static/icon.svg": ("icon.svg", "image/svg+xml"),
}
_HOST = re.compile(r"(?P<name>[A-Za-z0-9.\-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:\d{1,5})?")
_LOOPBACK_ORIGINS = ("localhost", "127.0.0.1", "[::1]")

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ControlPlane(HttpServer):
    """Serves the live page, its files, and `/config.json`. It holds no secret and no market data. A stage."""

    def __init__(
        self, config: ScpConfig, *, wds_port: Callable[[], int], auth_required: bool = False
    ) -> None:
        """Prepare; nothing is bound before `start`.

        Args:
            config: The address.
            wds_port: The port of the data service, asked at each page load (0: not known yet).
            auth_required: Whether the data service wants a key, so that the page asks for one.
        """
        self._config = config
        self._wds_port = wds_port
        self._auth_required = auth_required
        app = web.Application(middlewares=[self._guard])
        static = files("mdp.scp") / "static"
        for path, (name, content_type) in _PAGES.items():
            app.router.add_get(path, _page((static / name).read_bytes(), content_type))
        app.router.add_get("/config.json", self._config_json)
        super().__init__("scp", config.host, config.port, app)

    def origins(self) -> set[str]:
        """The origins this page has in a browser, for the data service's check of origins.

        A host of `*` stands for whatever address of this machine a connection comes in at.
        """
        return origins_of(self._config, self.port) if self.port else set()

    async def _config_json(self, request: web.Request) -> web.Response:
        body = encode_json({"wds_port": self._wds_port(), "auth_required": self._auth_required})
        return web.Response(body=body, content_type="application/json", headers={"Cache-Control": "no-store"})

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Put the security headers on every answer, those of errors included."""
        name = _HOST.fullmatch(request.headers.get("Host", ""))
        if name is None:
            return web.Response(status=400, text="Bad Host header.\n")
        try:
            response = await handler(request)
        except web.HTTPException as error:
            response = web.Response(status=error.status, text=f"{error.status} {error.reason}\n")
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
        response.headers.update(self._security_headers(name["name"]))
        return response

    def _security_headers(self, host: str) -> dict[str, str]:
        # The page may connect to the data service at the host it came from, and to nothing else.
        service = f"{host}:{self._wds_port()}"
        policy = {
            "default-src": "'none'",
            "script-src": "'self'",
            "style-src": "'self'",
            "img-src": "'self'",
            "connect-src": f"'self' ws://{service} wss://{service}",
            "base-uri": "'none'",
            "form-action": "'none'",
            "frame-ancestors": "'none'",
        }
        return {
            "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
        }


def origins_of(config: ScpConfig, port: int) -> set[str]:
    """The origins that pages served by a control plane have in a browser; see `ControlPlane.origins`."""
    host = config.host
    if _unspecified(host):
        names: tuple[str, ...] = ("*",)
    elif host in ("localhost", "127.0.0.1", "::1"):
        names = _LOOPBACK_ORIGINS
    else:
        names = (f"[{host}]" if ":" in host else host,)
    return {f"http://{name}:{port}" for name in names}


def _page(body: bytes, content_type: str) -> _Handler:
    async def serve(request: web.Request) -> web.Response:
        # no-cache: a new version of the program shows at the next load.
        return web.Response(
            body=body, content_type=content_type, charset="utf-8", headers={"Cache-Control": "no-cache"}
        )

    return serve


def _unspecified(host: str) -> bool:
    if not host:
        return True
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
