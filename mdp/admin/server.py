"""The control API over HTTP: JSON under `/api/v1`; GET reads, POST changes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
import structlog
from aiohttp import web

from mdp.admin.controls import Controls, NotHereError, NotYetError, UnknownSymbolError
from mdp.admin.guard import Guard, Refused
from mdp.config import AdminConfig
from mdp.feeds import is_symbol
from mdp.observability.http import HttpServer

log = structlog.get_logger(__name__)

PREFIX = "/api/v1"
MAX_BODY_BYTES = 64 * 1024
#: A client that sends its body slower than this is given up.
BODY_SECONDS = 10.0
#: A change that takes longer is cancelled: the operator wants an answer.
CHANGE_SECONDS = 30.0
#: After which to ask again what nobody could say: a lease of a partition lasts 3 s.
RETRY_SECONDS = 3

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
BodyT = TypeVar("BodyT", bound="Nothing")


class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a request that needs none: empty, or `{}`."""


class FeedSettings(Nothing):
    """The body of `feed/configure`: what is absent stays as it is."""

    feed: str | None = None
    market: str | None = None
    subscriptions: list[str] | None = None


class Recording(Nothing):
    """The body of `record/start`."""

    path: str


class AdminServer(HttpServer):
    """Serves the control API. A stage.

    Changes are made one at a time; a second one meanwhile is answered 409, not queued.
    """

    def __init__(
        self, config: AdminConfig, controls: Controls, *, change_seconds: float = CHANGE_SECONDS
    ) -> None:
        self._controls = controls
        self._guard = Guard(config)
        self._change_seconds = change_seconds
        self._changing = ""  # path of the change under way
        # One byte more: whether a body of exactly the limit passes differs between versions of aiohttp.
        app = web.Application(middlewares=[self._answer], client_max_size=MAX_BODY_BYTES + 1)
        self._routes: list[dict[str, str]] = []
        self._add_routes(app)
        super().__init__("admin", config.host, config.port, app)

    def _add_routes(self, app: web.Application) -> None:
        controls = self._controls
        self._get(app, "", "this list", lambda: {"routes": self._routes})
        self._get(app, "/status", "state of feed and process", controls.status)
        self._get(app, "/gaps", "outages of the feed", lambda: {"gaps": controls.gaps()})
        self._get(app, "/queues", "accounting of each queue", controls.queues)
        self._get(app, "/analyzers", "what analyzers did", lambda: {"analyzers": controls.analyzers()})
        self._add_explain(app)
        self._post(app, "/feed/start", "connect", Nothing, lambda _: controls.feed_start())
        self._post(app, "/feed/stop", "disconnect", Nothing, lambda _: controls.feed_stop())
        self._post(app, "/feed/restart", "connect again", Nothing, lambda _: controls.feed_restart())
        self._post(
            app,
            "/feed/configure",
            'change "feed", "market" or "subscriptions"',
            FeedSettings,
            self._configure,
        )
        self._post(
            app,
            "/record/start",
            'record raw frames to "path"',
            Recording,
            lambda body: self._record(body.path),
        )
        self._post(app, "/record/stop", "end the recording", Nothing, lambda _: controls.record_stop())

    def _add_explain(self, app: web.Application) -> None:
        async def handle(request: web.Request) -> web.Response:
            symbol = request.match_info["symbol"]
            if not is_symbol(symbol):
                raise Refused(400, "a symbol has letters, digits, . - / : and 32 characters at most")
            try:
                return _json(await self._controls.explain(symbol))
            except UnknownSymbolError as exc:
                raise Refused(404, str(exc)) from None

        path = PREFIX + "/explain/{symbol}"
        self._routes.append(
            {"method": "GET", "path": path, "help": "each number of a symbol: rule, inputs, source, time"}
        )
        # A symbol may hold a slash.
        app.router.add_get(PREFIX + "/explain/{symbol:.+}", handle, allow_head=False)

    async def _configure(self, body: FeedSettings) -> None:
        if body.feed is None and body.market is None and body.subscriptions is None:
            raise ValueError("nothing to change: give feed, market or subscriptions")
        await self._controls.feed_configure(body.feed, body.market, body.subscriptions)

    async def _record(self, path: str) -> None:
        if not path or not path.isprintable():
            raise ValueError("path must name a file")
        await self._controls.record_start(path)

    def _get(self, app: web.Application, path: str, help: str, read: Callable[[], dict[str, Any]]) -> None:
        async def handle(_request: web.Request) -> web.Response:
            return _json(read())

        self._routes.append({"method": "GET", "path": PREFIX + path, "help": help})
        app.router.add_get(PREFIX + path, handle, allow_head=False)

    def _post(
        self,
        app: web.Application,
        path: str,
        help: str,
        body_type: type[BodyT],
        change: Callable[[BodyT], Awaitable[None]],
    ) -> None:
        async def handle(request: web.Request) -> web.Response:
            body = await _read_body(request, body_type)
            if self._changing:
                raise Refused(409, f"{self._changing} is under way; try again when it is done")
            self._changing = path.removeprefix("/")
            try:
                async with asyncio.timeout(self._change_seconds):
                    await change(body)
            except TimeoutError:
                raise Refused(504, f"not done within {self._change_seconds:g} s; see status") from None
            except ValueError as exc:
                raise Refused(400, str(exc)) from None
            finally:
                self._changing = ""
            log.info("admin_change", change=path.removeprefix("/"), client=request.remote)
            return _json({"ok": True})

        self._routes.append({"method": "POST", "path": PREFIX + path, "help": help})
        app.router.add_post(PREFIX + path, handle)

    @web.middleware
    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Guard every request, known path or not, and make every error one JSON object."""
        try:
            self._guard.check(request)
            return await handler(request)
        except Refused as refused:
            headers = {"WWW-Authenticate": "Bearer"} if refused.status == 401 else {}
            return _json({"error": refused.reason}, refused.status, headers)
        except NotHereError as exc:
            return _json({"error": str(exc), **exc.details}, 404)
        except NotYetError as exc:
            return _json({"error": str(exc)}, 503, {"Retry-After": str(RETRY_SECONDS)})
        except web.HTTPMethodNotAllowed as exc:
            allowed = ", ".join(sorted(exc.allowed_methods))
            return _json({"error": f"use {allowed} here"}, 405, {"Allow": allowed})
        except web.HTTPNotFound:
            return _json({"error": f"not found; GET {PREFIX} lists what there is"}, 404)
        except web.HTTPRequestEntityTooLarge:
            return _json({"error": f"the body may have at most {MAX_BODY_BYTES} bytes"}, 413)
        except web.HTTPException as exc:
            return _json({"error": exc.reason}, exc.status)
        except Exception as exc:
            # The cause goes to the log, where secrets are masked, and not to whoever asked.
            log.error("admin_request_failed", path=request.path, error=repr(exc))
            return _json({"error": "internal error; the log has the cause"}, 500)


async def _read_body(request: web.Request, body_type: type[BodyT]) -> BodyT:
    try:
        async with asyncio.timeout(BODY_SECONDS):
            raw = await request.read()
    except TimeoutError:
        raise Refused(408, "the body did not arrive in time") from None
    if len(raw) > MAX_BODY_BYTES:
        raise web.HTTPRequestEntityTooLarge(MAX_BODY_BYTES, len(raw))
    try:
        return msgspec.json.decode(raw.strip() or b"{}", type=body_type)
    except (msgspec.DecodeError, ValueError, RecursionError) as exc:
        raise Refused(400, f"the body is not what is expected here: {exc}") from None


def _json(body: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(body),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", **(headers or {})},
    )
