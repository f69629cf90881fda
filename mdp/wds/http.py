"""HTTP for those without WebSockets: a feed's value, and streams of Server-Sent Events (`docs/http.md`).

The same feeds, options, keys, permissions and limits as version 2 of the WebSocket protocol. Every refusal is
a JSON object with `status`, `code` and `message`.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import NamedTuple

import structlog
from aiohttp import HttpVersion11, hdrs, web
from aiohttp.typedefs import Middleware

from mdp.cache.base import Cache, encode_json
from mdp.config import WdsConfig
from mdp.feeds import match
from mdp.wds import access, asyncapi, openapi, protocol, protocol2, query, sse
from mdp.wds.access import Access, Denied, Session
from mdp.wds.admission import Admission, peer_of
from mdp.wds.client import Client, Limits
from mdp.wds.counters import WdsCounters
from mdp.wds.hub import Hub
from mdp.wds.limits import ActionMeter, Networks
from mdp.wds.permissions import ANONYMOUS, Identity, Permission
from mdp.wds.query import Problem
from mdp.wds.turns import Turns
from mdp.wds.values import entry_json
from mdp.wds.views import View, envelope

log = structlog.get_logger(__name__)

PREFIX = "/api/v1"

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_JSON = "application/json"
_EVENTS = "text/event-stream"
_METHODS = "GET, HEAD, OPTIONS"
_INTERNAL_ERROR = 1011  # of the registry of close codes (RFC 6455, section 7.4.1)
_MAX_METERS = 4_096  # callers whose rate is remembered
_WAIT = {"Retry-After": "5"}


class Parts(NamedTuple):
    """What the service shares with this module."""

    config: WdsConfig
    cache: Cache
    hub: Hub
    access: Access
    admission: Admission
    counters: WdsCounters
    limits: Limits
    turns: Turns
    may_read_here: Callable[[web.Request], bool]  # by its Origin
    stopping: Callable[[], bool]
    new_id: Callable[[], int]
    enter: Callable[[Client, Session], None]  # from here on it is pinged, and told when the service stops
    leave: Callable[[Client], None]


class HttpApi:
    """The handlers of one service."""

    def __init__(self, parts: Parts, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            parts: Of the service.
            monotonic: Seconds, for rates.
        """
        self._parts = parts
        self._rates = _Rates(parts.config, monotonic)
        self._openapi = encode_json(openapi.document())
        self._asyncapi = encode_json(asyncapi.document())

    def add_to(self, app: web.Application) -> None:
        """Route to this module."""
        for path, handler in (
            ("/feeds/{feed:.+}", self._snapshot),
            ("/stream", self._stream),
            ("/openapi.json", functools.partial(self._document, self._openapi)),
            ("/asyncapi.json", functools.partial(self._document, self._asyncapi)),
        ):
            resource = app.router.add_resource(PREFIX + path)
            resource.add_route(hdrs.METH_GET, handler)
            resource.add_route(hdrs.METH_HEAD, handler)
            resource.add_route(hdrs.METH_OPTIONS, self._preflight)
        app.on_response_prepare.append(self._add_cors)

    # What all answers have in common

    @property
    def middleware(self) -> Middleware:
        """Makes JSON of every refusal, whoever refused."""

        @web.middleware
        async def problems(request: web.Request, handler: _Handler) -> web.StreamResponse:
            try:
                if request.path.startswith(PREFIX) and not self._parts.may_read_here(request):
                    self._parts.counters.reject("origin")
                    raise Problem("origin")
                return await handler(request)
            except Problem as problem:
                return self._refuse(problem)
            except web.HTTPException as error:
                return self._refuse(_problem_of(error), error.status)
            except ConnectionError:
                # Who asked has left, and nobody reads this answer. Raised on, it would be a traceback in
                # aiohttp's log: a flood of those who leave must not be a flood of log lines.
                return web.Response(status=HTTPStatus.BAD_REQUEST)
            except Exception as error:
                # Its text may name hosts and keys of back ends: neither the client nor a log needs it.
                log.error("wds_http_failed", path=request.path[:200], error=type(error).__name__)
                return self._refuse(Problem("failed"))

        return problems

    def _refuse(self, problem: Problem, status: int = 0) -> web.Response:
        self._parts.counters.refuse(problem.code)
        return web.Response(
            status=status or problem.status,
            body=problem.json(),
            content_type=_JSON,
            headers={"Cache-Control": "no-store", **problem.headers},
        )

    async def _add_cors(self, request: web.Request, response: web.StreamResponse) -> None:
        if not request.path.startswith(PREFIX):
            return
        response.headers["Vary"] = "Origin"
        response.headers["X-Content-Type-Options"] = "nosniff"
        origin = request.headers.get("Origin")
        if origin is not None and self._parts.may_read_here(request):
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = "ETag, Retry-After"

    async def _preflight(self, request: web.Request) -> web.Response:
        headers = {"Allow": _METHODS}
        if "Origin" in request.headers:
            headers |= {
                "Access-Control-Allow-Methods": _METHODS,
                "Access-Control-Allow-Headers": "Authorization, If-None-Match, Last-Event-ID",
                "Access-Control-Max-Age": "600",
            }
        return web.Response(status=HTTPStatus.NO_CONTENT, headers=headers)

    # Who asks

    async def _identify(self, request: web.Request, address: str) -> Identity:
        """Who asks, once they may: their key is right, and they do not ask too often."""
        parts = self._parts
        identity = ANONYMOUS
        if parts.config.auth_enabled:
            login = _login(request)
            try:
                identity = await parts.access.identify(login.api_key, login.token, address)
            except Denied as denied:
                raise _problem_of_denied(denied) from None
        self._take_turn(identity, address)
        return identity

    def _take_turn(self, identity: Identity, address: str) -> None:
        if not self._rates.take(identity.account, address):
            raise Problem("slow_down", "too many requests a second", {"Retry-After": "1"})

    # A feed's value

    async def _snapshot(self, request: web.Request) -> web.Response:
        parts = self._parts
        query.refuse_secrets(request.query)
        _must_accept(request, _JSON)
        identity = await self._identify(request, _address(request))
        feed, options = query.snapshot(request.match_info["feed"], request.query.items())
        _must_permit(identity.permission.allows(feed), feed)
        view = View(feed, options, match(feed)) if options.fields or options.where else None
        try:
            # Where rows are chosen, the first that fit may lie behind the first that there are.
            entry = await parts.cache.get(feed, 0 if options.where else options.limit)
            data = await entry_json(entry, options.limit, view)
        except Exception as error:
            log.warning("wds_get_failed", key=feed, error=type(error).__name__)
            raise Problem("unavailable", headers=_WAIT) from None
        epoch, seq = parts.hub.place(feed) if entry is None else (entry.epoch, entry.seq)
        # What nobody subscribed to is not published, so that its place stands still while its value
        # changes: the value itself is part of the tag. Weak, because `ts` is not.
        tag = f"{epoch}-{seq}-{hashlib.blake2b(data, digest_size=6).hexdigest()}"
        headers = {"ETag": f'W/"{tag}"', "Cache-Control": "private, no-cache"}
        if any(known.value in (tag, "*") for known in request.if_none_match or ()):
            return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=headers)
        body = envelope(feed, epoch, seq, time.time_ns() // 1_000_000, "get", data)
        return web.Response(body=body, content_type=_JSON, headers=headers)

    async def _document(self, document: bytes, request: web.Request) -> web.Response:
        _must_accept(request, _JSON)
        return web.Response(body=document, content_type=_JSON)

    # Streams

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        parts = self._parts
        query.refuse_secrets(request.query)
        _must_accept(request, _EVENTS)
        transport = request.transport
        if transport is None or request.version < HttpVersion11:
            raise Problem("http_version")
        if parts.stopping():
            parts.counters.reject("stopping")
            raise Problem("stopping", headers=_WAIT)
        if parts.counters.clients >= parts.config.max_clients:
            parts.counters.reject("full")
            raise Problem("full", headers=_WAIT)
        parts.counters.clients += 1  # before the first await: it is what max_clients is compared with
        member = _Member(parts.hub, parts.counters)
        session = parts.access.open(member, peer_of(transport))
        try:
            await self._log_in(request, session)
            wanted = query.stream(request.query.items(), request.headers.get("Last-Event-ID", ""))
            for feed in wanted.feeds:
                _must_permit(session.permits(feed), feed)
            if len(wanted.feeds) > parts.config.max_subscriptions:
                raise Problem("too_many_subscriptions", f"{parts.config.max_subscriptions} feeds at most")
            headers = {"Content-Type": _EVENTS, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
            if request.method == hdrs.METH_HEAD:
                return web.Response(headers=headers)
            response = web.StreamResponse(headers=headers)
            response.enable_chunked_encoding()
            response.force_close()
            await response.prepare(request)
            await self._tell(transport, session, member, wanted)
            return response
        finally:
            parts.access.close(session)
            parts.counters.clients -= 1

    async def _log_in(self, request: web.Request, session: Session) -> None:
        if self._parts.config.auth_enabled:
            login = _login(request)
            try:
                await self._parts.access.login(session, login.api_key, login.token)
            except Denied as denied:
                raise _problem_of_denied(denied) from None
        self._take_turn(session.identity, session.address)

    async def _tell(
        self, transport: asyncio.Transport, session: Session, member: _Member, wanted: query.Stream
    ) -> None:
        """Write a stream until the connection ends. From here on everything goes through the `Client`."""
        parts = self._parts
        ended = asyncio.Event()
        client = Client(
            parts.new_id(),
            transport,
            parts.limits,
            parts.counters,
            asyncio.get_running_loop(),
            sse.streamed,
            sse.WIRE,
            parts.turns,
        )
        if client.gone:
            return
        transport.set_protocol(sse.Deaf(transport.get_protocol(), ended))
        sse.give_up_after(transport, parts.limits)
        parts.admission.settle(transport)
        client.answer(sse.chunk(b"retry: %d\n\n" % sse.RETRY_MS))
        parts.enter(client, session)
        member.attach(client)
        try:
            for feed in wanted.feeds:
                if client.closing or client.gone:
                    break
                await self._look(client, feed, wanted)
            await ended.wait()
        except Exception as error:  # too late for an answer in words
            log.error("wds_stream_failed", error=type(error).__name__)
            client.close(_INTERNAL_ERROR, "the stream failed; reconnect")
        finally:
            parts.leave(client)

    async def _look(self, client: Client, feed: str, wanted: query.Stream) -> None:
        try:
            resumed = await self._parts.hub.look(client, feed, wanted.options, wanted.resume.get(feed))
        except Exception as error:
            log.warning("wds_subscribe_failed", feed=feed, error=type(error).__name__)
            self._parts.counters.refuse("unavailable")
            body = {
                "status": "error",
                "code": "unavailable",
                "feed": feed,
                "message": str(Problem("unavailable")),
            }
            client.answer(sse.notice("problem", encode_json(body)))
            return
        if not resumed:
            client.answer(sse.notice("resync", protocol2.resync(feed)))


class _Member:
    """A stream as `Access` sees it; what is decided before it begins is done when it begins."""

    def __init__(self, hub: Hub, counters: WdsCounters) -> None:
        self._hub = hub
        self._counters = counters
        self._client: Client | None = None
        self._ended: tuple[int, str] | None = None

    def attach(self, client: Client) -> None:
        """Begin."""
        self._client = client
        if self._ended is not None:
            self._close(*self._ended)

    def warn(self, identity: Identity, seconds: float) -> None:
        """Tell that the token or key ends."""
        if self._client is not None:
            word = _word(identity)
            message = f"the stream ends in {seconds:.0f} s; reconnect with a new {word}"
            body = {"status": f"{word} expires", "seconds": round(seconds), "message": message}
            self._client.answer(sse.notice("expires", encode_json(body)))

    def expel(self, identity: Identity, why: str) -> None:
        """End the stream."""
        code = protocol.TOKEN_EXPIRED if identity.kind == "token" else protocol.ACCESS_ENDED
        ending = "was revoked" if why == access.REVOKED else "has expired"
        self._close(code, f"the {_word(identity)} {ending}")

    def restrict(self, permission: Permission) -> None:
        """End what is not permitted any more, and the stream where nothing is left."""
        client = self._client
        views = tuple(name for name in client.views if not permission.allows(name)) if client else ()
        if client is None or not views:
            return
        for name in views:
            self._hub.look_away(client, name)
        client.answer(sse.notice("unsubscribed", protocol2.unsubscribed(views)))
        if not client.views:
            self._close(protocol.ACCESS_ENDED, "the key or token permits none of these feeds any more")

    def _close(self, code: int, reason: str) -> None:
        if self._client is None:
            self._ended = code, reason
        elif not self._client.closing:
            self._counters.close(code)
            self._client.close(code, reason)


class _Rates:
    """Requests a second by who asks and from where, as many as a WebSocket client may send messages."""

    def __init__(self, config: WdsConfig, monotonic: Callable[[], float]) -> None:
        self._config = config
        self._monotonic = monotonic
        self._unlimited = Networks(config.unlimited_addresses)
        self._meters: OrderedDict[tuple[str, str], ActionMeter] = OrderedDict()  # last asked last

    def take(self, account: str, address: str) -> bool:
        """Whether a request may be answered."""
        if not account and address in self._unlimited:
            return True
        now = self._monotonic()
        meter = self._meters.pop((account, address), None)
        if meter is None:
            meter = ActionMeter(self._config.actions_per_second, self._config.action_burst, now)
        self._meters[account, address] = meter
        if len(self._meters) > _MAX_METERS:
            self._meters.popitem(last=False)
        return meter.take(now) == "go"


def _address(request: web.Request) -> str:
    return "" if request.transport is None else peer_of(request.transport)


def _login(request: web.Request) -> protocol.Auth:
    login = query.credentials(request.headers.get("Authorization"))
    if not (login.api_key or login.token):
        raise Problem(
            "unauthorized", "send a key or token: Authorization: Bearer KEY_OR_TOKEN", query.CHALLENGE
        )
    return login


def _must_permit(permitted: bool, feed: str) -> None:
    if not permitted:
        raise Problem("forbidden", f"the key or token does not permit all of {protocol.shown(feed)}")


def _problem_of_denied(denied: Denied) -> Problem:
    if denied.reason == "unauthorized":
        return Problem("unauthorized", str(denied), query.CHALLENGE)
    wait = {"Retry-After": str(max(1, math.ceil(denied.wait_seconds)))}
    return Problem("throttled" if denied.reason == "throttled" else "too_many_connections", str(denied), wait)


def _problem_of(error: web.HTTPException) -> Problem:
    if error.status == HTTPStatus.METHOD_NOT_ALLOWED:
        return Problem("method_not_allowed", headers={"Allow": error.headers.get("Allow", _METHODS)})
    return Problem("not_found" if error.status == HTTPStatus.NOT_FOUND else "bad_request")


def _must_accept(request: web.Request, kind: str) -> None:
    header = ",".join(request.headers.getall("Accept", []))
    if header.strip() and not accepts(header, kind):
        raise Problem("not_acceptable", f"this address answers with {kind}")


def accepts(header: str, kind: str) -> bool:
    """Whether an Accept header (RFC 9110, section 12.5.1) takes a media type: its closest entry decides."""
    ranges = ("*/*", kind.split("/")[0] + "/*", kind)
    closest, taken = -1, False
    for part in header.split(","):
        name, *parameters = (text.strip().lower() for text in part.split(";"))
        if name not in ranges:
            continue
        closeness = ranges.index(name)
        if closeness >= closest:
            weights = [text.partition("=")[2] for text in parameters if text.startswith("q=")]
            closest, taken = closeness, not (weights and not weights[0].strip("0."))
    return taken


def _word(identity: Identity) -> str:
    return "token" if identity.kind == "token" else "key"
