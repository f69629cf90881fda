"""The Widget Data Service: the only part of the data plane that clients reach."""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import itertools
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import structlog
from aiohttp import WSMsgType, web

from mdp.cache.base import Bus, Cache
from mdp.config import WdsConfig
from mdp.stage import Health
from mdp.wds import protocol, protocol2
from mdp.wds.access import Access, Denied, Session
from mdp.wds.admission import HEADER_SECONDS, MAX_HEADER_BYTES, MAX_HEADERS, SPARE, Admission, Gate, peer_of
from mdp.wds.auth import hosts_of, origin_allowed
from mdp.wds.client import Client, Join, Limits, deflated_together, framed_together, frames_joined
from mdp.wds.counters import WdsCounters
from mdp.wds.frames import WINDOW_BITS, pong_frame, text_frame
from mdp.wds.http import HttpApi, Parts
from mdp.wds.hub import Hub, nothing_to_gather
from mdp.wds.limits import Networks
from mdp.wds.members import Member
from mdp.wds.tls import Tls
from mdp.wds.values import entry_json
from mdp.wds.views import envelope

log = structlog.get_logger(__name__)

_Obey = Callable[[Client, str | bytes], Awaitable[bool]]  # one message; whether to read on

_BURST = 32  # messages of one client answered before others get a turn
_RENEW_SECONDS = 1.0  # between two looks at the files of keys and certificates
_FLUSH_SECONDS = 0.5  # for what is due when the service stops


class WidgetDataService:
    """Serves `GET /ws` (`docs/protocol.md`) and `/api/v1` (`docs/http.md`) from a bus and a cache.

    Attributes:
        port: Where it listens, after `start`; 0 before.
        counters: What `/metrics` shows.
    """

    name = "wds"

    def __init__(
        self,
        config: WdsConfig,
        bus: Bus,
        cache: Cache,
        *,
        own_origins: Callable[[], set[str]] = set,
        gather: Callable[[], Awaitable[None]] = nothing_to_gather,
        auth_seconds: float = 10.0,
        ping_seconds: float = 25.0,
        pong_seconds: float = 8.0,
        close_seconds: float = 1.0,
        header_seconds: float = HEADER_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Prepare; nothing is bound before `start`.

        Args:
            config: Limits, keys, address.
            bus: Where what changes comes from.
            cache: What `get` reads.
            own_origins: Origins of our own pages (`ControlPlane.origins`), asked at each connection.
            gather: Makes publishers of this process publish what they keep for a tick.
            auth_seconds: From the upgrade to an accepted `auth`, where authentication is on.
            ping_seconds: Silence after which a client is pinged.
            pong_seconds: From there until it is given up.
            close_seconds: For a client to take a close before its connection is cut.
            header_seconds: From the accept to the end of the request's headers.
            clock: Unix seconds, for keys and tokens that expire.
        """
        self._config = config
        self._cache = cache
        self._own_origins = own_origins
        self._auth_seconds = auth_seconds
        self._close_seconds = close_seconds
        self._header_seconds = header_seconds
        self.counters = WdsCounters()
        self.access = Access(config, self.counters, clock=clock)
        self.admission = Admission(
            self.counters,
            most=config.max_clients + SPARE,
            per_address=config.max_clients_per_address,
            unlimited=Networks(config.unlimited_addresses),
        )
        self._sessions: dict[Client, Session] = {}
        self._tls: Tls | None = None
        self._hub = Hub(bus, cache, self.counters, tick_seconds=config.tick_ms / 1_000, gather=gather)
        self._limits = Limits(
            config.client_buffer_bytes,
            ping_seconds=ping_seconds,
            pong_seconds=pong_seconds,
            close_seconds=close_seconds,
        )
        self._clients: dict[Client, None] = {}
        self._ids = itertools.count(1)
        self._empty = asyncio.Event()  # no client is connected
        self._empty.set()
        self._runner: web.AppRunner | None = None
        self._listener: asyncio.Server | None = None
        self._renewer: asyncio.Task[None] | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._stopping = False
        self.port = 0

    # Lifecycle

    async def start(self) -> None:
        """Bind and serve. Raises OSError when the address is taken, or a file of keys cannot be used."""
        await self.access.start()
        if self._config.tls_cert:
            self._tls = await asyncio.to_thread(Tls, self._config.tls_cert, self._config.tls_key)
        http = self._http()
        app = web.Application(middlewares=[http.middleware])
        app.router.add_get("/ws", self._handle)
        http.add_to(app)
        # aiohttp counts the time for the headers as an idle connection's, from the accept on.
        runner = web.AppRunner(
            app,
            handle_signals=False,
            access_log=None,
            shutdown_timeout=0.5,
            keepalive_timeout=self._header_seconds,
            lingering_time=1.0,
            max_headers=MAX_HEADERS,
            max_field_size=MAX_HEADER_BYTES,
            max_line_size=MAX_HEADER_BYTES,
        )
        await runner.setup()
        serve = runner.server
        assert serve is not None
        try:
            self._listener = await asyncio.get_running_loop().create_server(
                lambda: Gate(self.admission, serve),
                self._config.host,
                self._config.port,
                backlog=1024,
                ssl=self._tls.context if self._tls else None,
                ssl_handshake_timeout=self._header_seconds if self._tls else None,
            )
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        self.port = self._listener.sockets[0].getsockname()[1]
        self._hub.start()
        self._sweeper = asyncio.get_running_loop().create_task(self._sweep(), name="wds-sweep")
        self._renewer = asyncio.get_running_loop().create_task(self._renew(), name="wds-renew")

    def _http(self) -> HttpApi:
        parts = Parts(
            config=self._config,
            cache=self._cache,
            hub=self._hub,
            access=self.access,
            admission=self.admission,
            counters=self.counters,
            limits=self._limits,
            may_read_here=self._may_connect_from,
            stopping=lambda: self._stopping,
            new_id=lambda: next(self._ids),
            enter=self._enter,
            leave=self._leave,
        )
        return HttpApi(parts)

    async def stop(self) -> None:
        """Send what is due, say goodbye to all clients at once, cut those that do not answer."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        self._stopping = True
        if self._listener is not None:
            self._listener.close()  # no new connections
        await self._hub.stop(_FLUSH_SECONDS)
        for client in list(self._clients):
            client.close(protocol.GOING_AWAY, "the service stops; reconnect in a moment")
        try:
            async with asyncio.timeout(self._close_seconds):
                await self._empty.wait()
        except TimeoutError:
            for client in list(self._clients):
                client.abort()
        for task in (self._sweeper, self._renewer):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        await self.access.stop()
        await runner.cleanup()

    async def tick(self) -> None:
        """Send what is due now, without waiting for the tick."""
        await self._hub.flush()

    @property
    def most_waiting_bytes(self) -> int:
        """Of the client for whom most waits."""
        return max((client.waiting_bytes for client in self._clients), default=0)

    def health(self) -> Health:
        """Whether clients can connect and are served."""
        if self._runner is None:
            return Health(False, "not listening")
        if not self._hub.running or self._sweeper is None or self._sweeper.done():
            return Health(False, "the fan-out task has ended; restart the process")
        return Health(True, f"listening on port {self.port}, {self.counters.clients} clients")

    def file_errors(self) -> dict[str, int]:
        """How often a changed file could not be used, by what it holds."""
        return {"keys": self.access.store.errors, "certificate": self._tls.errors if self._tls else 0}

    async def _sweep(self) -> None:
        """Ping the silent and give up the dead: one timer for all connections."""
        loop = asyncio.get_running_loop()
        period = min(1.0, self._limits.ping_seconds / 4, self._limits.pong_seconds / 4)
        while True:
            await asyncio.sleep(period)
            for number, client in enumerate(list(self._clients), 1):
                client.check(loop.time())
                if number % 500 == 0:
                    await asyncio.sleep(0)

    async def _renew(self) -> None:
        """Notice keys that were added, revoked or have expired, and a renewed certificate."""
        while True:
            try:
                self.access.expire()
                await self.access.refresh()
                if self._tls is not None:
                    await asyncio.to_thread(self._tls.refresh)
            except Exception as error:  # nobody would notice that revoking works no more
                log.error("wds_renewal_failed", error=type(error).__name__)
            await asyncio.sleep(_RENEW_SECONDS)

    # Connections

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        self.counters.clients += 1  # before the first await: it is what max_clients is compared with
        try:
            socket = _Socket(
                compress=self._config.compression and _wants_version_2(request),
                autoping=False,
                autoclose=False,
                max_msg_size=self._config.max_message_bytes,
                protocols=(protocol2.SUBPROTOCOL,),
            )
            await socket.prepare(request)
            transport = request.transport
            if transport is not None:
                await self._serve(socket, transport)
            return socket
        finally:
            self.counters.clients -= 1

    def _refusal(self, request: web.Request) -> web.Response | None:
        """The answer to a request that is not upgraded, or None."""
        if self._stopping:
            reason, status, text = "stopping", HTTPStatus.SERVICE_UNAVAILABLE, "The service is stopping."
        elif not self._may_connect_from(request):
            reason, status = "origin", HTTPStatus.FORBIDDEN
            text = "Pages of this origin may not connect. Add it to wds.allowed_origins to allow it."
        elif not web.WebSocketResponse(protocols=(protocol2.SUBPROTOCOL,)).can_prepare(request):
            reason, status = "not_websocket", HTTPStatus.UPGRADE_REQUIRED
            text = "This address speaks WebSocket (version 13) only."
        elif self.counters.clients >= self._config.max_clients:
            reason, status = "full", HTTPStatus.SERVICE_UNAVAILABLE
            text = "All places are taken (wds.max_clients). Try again later."
        else:
            return None
        self.counters.reject(reason)
        headers = {"Upgrade": "websocket"} if status == HTTPStatus.UPGRADE_REQUIRED else {}
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            headers["Retry-After"] = "5"
        return web.Response(status=status, text=text + "\n", headers=headers)

    def _may_connect_from(self, request: web.Request) -> bool:
        """Whether the request comes from no page, or from one of an origin that is allowed."""
        scheme = "https" if self._tls else "http"
        own = {f"{scheme}://{_bracketed(host)}:{self.port}" for host in hosts_of(self._config.host) or {"*"}}
        origin, local_ip = request.headers.get("Origin"), _local_ip(request)
        return origin_allowed(origin, own | self._own_origins(), self._config.allowed_origins, local_ip)

    def _enter(self, client: Client, session: Session) -> None:
        """Count a client in, whose messages may be written from now on."""
        self.counters.clients_total += 1
        self._clients[client] = None
        self._sessions[client] = session
        self._empty.clear()
        if self._stopping:
            client.close(protocol.GOING_AWAY, "the service stops; reconnect in a moment")

    def _leave(self, client: Client) -> None:
        """Forget a client and end its connection."""
        self._hub.remove(client)
        del self._clients[client], self._sessions[client]
        client.end()
        if not self._clients:
            self._empty.set()

    async def _serve(self, socket: _Socket, transport: asyncio.WriteTransport) -> None:
        loop = asyncio.get_running_loop()
        second = socket.ws_protocol == protocol2.SUBPROTOCOL
        client = Client(
            next(self._ids),
            transport,
            self._limits,
            self.counters,
            loop,
            _join_of(socket),
        )
        socket.client = client
        session = self.access.open(Member(client, self._hub, self.counters), peer_of(transport))
        self._enter(client, session)
        try:
            if not self._config.auth_enabled or await self._authenticate(client, socket):
                self.admission.settle(transport)
                await self._converse(client, socket, self._obey2 if second else self._obey)
            await self._linger(client, socket)
        finally:
            self.access.close(session)
            self._leave(client)

    async def _authenticate(self, client: Client, socket: _Socket) -> bool:
        """Wait for the first message; whether it was `auth` with a key or token that is accepted."""
        authorized = False

        async def first(client: Client, data: str | bytes) -> bool:
            nonlocal authorized
            command = protocol.parse(data)
            if isinstance(command, protocol.Auth):
                authorized = await self._log_in(client, command)
            else:
                self._refuse(client, protocol.Refusal("unauthorized"))
                self.counters.auth_failures += 1
                client.close(protocol.UNAUTHORIZED, "authorization failed")
            return False

        try:
            async with asyncio.timeout(self._auth_seconds):
                await self._converse(client, socket, first)
        except TimeoutError:
            self._refuse(client, protocol.Refusal("unauthorized", "no auth message came in time"))
            client.close(protocol.AUTH_TIMEOUT, "send auth as the first message")
        return authorized

    async def _log_in(self, client: Client, auth: protocol.Auth) -> bool:
        """Answer an `auth`; one that fails ends the connection."""
        try:
            await self.access.login(self._sessions[client], auth.api_key, auth.token)
        except Denied as denied:
            if denied.reason == "unauthorized":
                answer = protocol.invalid_token(str(denied)) if auth.token else protocol.INVALID_KEY
                code, reason = protocol.UNAUTHORIZED, "authorization failed"
            else:
                answer, reason = protocol.error("unauthorized", str(denied)), str(denied)
                too_many = denied.reason == "too_many"
                code = protocol.TOO_MANY_CONNECTIONS if too_many else protocol.TOO_MANY_LOGINS
            client.answer(text_frame(answer))
            self.counters.close(code)
            client.close(code, reason)
            return False
        client.answer(text_frame(protocol.AUTHORIZED))
        return True

    async def _converse(self, client: Client, socket: _Socket, obey: _Obey) -> None:
        """Read messages until the connection ends or `obey` answers False."""
        for number in itertools.count(1):
            message = await socket.receive()
            client.heard()
            if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                self.counters.messages_received += 1
                if not client.closing and not await obey(client, message.data):
                    return
            elif message.type is WSMsgType.PING:
                client.control(pong_frame(bytes(message.data)))
            elif message.type is not WSMsgType.PONG:  # closed by the peer, by aiohttp or by the network
                client.close(1000)
                return
            if number % _BURST == 0:
                await asyncio.sleep(0)
            # Not reading on is what slows down a client that asks faster than it takes answers. Polled,
            # because the transport reports room to aiohttp's protocol only.
            while client.busy and not client.gone:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def _linger(self, client: Client, socket: _Socket) -> None:
        """After our close, read and drop until the peer closes too; `Client.close` bounds the wait.

        A connection closed with unread bytes would be reset, and the peer lose our reason.
        """
        while not client.gone:
            message = await socket.receive()
            if message.type in (WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.CLOSING):
                return
            if message.type is WSMsgType.ERROR:  # at once and for ever: aiohttp reads no further
                await asyncio.sleep(0.02)

    # Messages

    async def _obey(self, client: Client, data: str | bytes) -> bool:
        """Do what a message says and answer it. Always True: the connection stays."""
        if not self._may_act(client):
            return True
        session = self._sessions[client]
        command = protocol.parse(data)
        match command:
            case protocol.Subscribe(feed) | protocol.Get(feed) if not session.permits(feed):
                detail = f"the key or token does not permit all of {feed!a}"
                self._refuse(client, protocol.Refusal("forbidden", detail))
            case protocol.Subscribe(feed):
                if feed not in client.patterns and len(client.patterns) >= self._config.max_subscriptions:
                    detail = f"{self._config.max_subscriptions} subscriptions at most; unsubscribe first"
                    self._refuse(client, protocol.Refusal("too_many_subscriptions", detail))
                else:
                    self._hub.subscribe(client, feed)
                    client.answer(text_frame(protocol.subscribed(feed)))
            case protocol.Unsubscribe(feed):
                self._hub.unsubscribe(client, feed)
                client.answer(text_frame(protocol.unsubscribed(feed)))
            case protocol.Get(key, limit):
                await self._get(client, key, limit)
            case protocol.Auth() if self._config.auth_enabled:  # again: a new token before the old one ends
                await self._log_in(client, command)
            case protocol.Auth():
                client.answer(text_frame(protocol.AUTHORIZED))
            case protocol.Refusal():
                self._refuse(client, command)
        return True

    def _may_act(self, client: Client) -> bool:
        verdict = self.access.act(self._sessions[client])
        if verdict == "go":
            return True
        self._refuse(client, protocol.Refusal("slow_down"))
        if verdict == "close":
            self.counters.close(protocol.TOO_MANY_ACTIONS)
            client.close(protocol.TOO_MANY_ACTIONS, "too many messages a second")
        return False

    async def _obey2(self, client: Client, data: str | bytes) -> bool:
        """The same in version 2."""
        if not self._may_act(client):
            return True
        command = protocol2.parse(data)
        permits = self._sessions[client].permits
        match command:
            case protocol2.Subscribe(feeds) if not all(map(permits, feeds)):
                refused = ", ".join(ascii(feed) for feed in feeds if not permits(feed))[:500]
                self._refuse(client, self._forbidden(refused, command.id))
            case protocol2.Get(feed) if not permits(feed):
                self._refuse(client, self._forbidden(ascii(feed), command.id))
            case protocol2.Subscribe():
                await self._look(client, command)
            case protocol2.Unsubscribe(feeds, number):
                for feed in feeds:
                    self._hub.look_away(client, feed)
                client.answer(text_frame(protocol2.unsubscribed(feeds, number)))
            case protocol2.Get():
                await self._get2(client, command)
            case protocol2.Auth(login) if self._config.auth_enabled:
                await self._log_in(client, login)
            case protocol2.Auth():
                client.answer(text_frame(protocol2.authorized(command.id)))
            case protocol2.Refusal():
                self._refuse(client, command)
        return True

    @staticmethod
    def _forbidden(feeds: str, number: object) -> protocol2.Refusal:
        return protocol2.Refusal("forbidden", f"the key or token does not permit all of {feeds}", number)

    async def _look(self, client: Client, command: protocol2.Subscribe) -> None:
        new = sum(feed not in client.views for feed in command.feeds)
        if len(client.views) + new > self._config.max_subscriptions:
            detail = f"{self._config.max_subscriptions} subscriptions at most; unsubscribe first"
            self._refuse(client, protocol2.Refusal("too_many_subscriptions", detail, command.id))
            return
        client.answer(text_frame(protocol2.subscribed(command.feeds, command.id)))
        for feed in command.feeds:
            try:
                resumed = await self._hub.look(client, feed, command.options, command.resume)
            except Exception as error:
                log.warning("wds_subscribe_failed", feed=feed, error=type(error).__name__)
                self._refuse(client, protocol2.Refusal("unavailable", "", command.id))
                continue
            if not resumed:
                client.answer(text_frame(protocol2.resync(feed, command.id)))

    async def _get2(self, client: Client, command: protocol2.Get) -> None:
        feed = command.feed
        try:
            entry = await self._cache.get(feed, command.limit)
            data = await entry_json(entry, command.limit)
        except Exception as error:
            log.warning("wds_get_failed", key=feed, error=type(error).__name__)
            self._refuse(client, protocol2.Refusal("unavailable", "", command.id))
            return
        epoch, seq = self._hub.place(feed) if entry is None else (entry.epoch, entry.seq)
        body = envelope(feed, epoch, seq, time.time_ns() // 1_000_000, "get", data, number=command.id)
        client.answer(text_frame(body))

    def _refuse(self, client: Client, refusal: protocol.Refusal | protocol2.Refusal) -> None:
        self.counters.refuse(refusal.code or "invalid_action")
        client.answer(text_frame(refusal.json()))

    async def _get(self, client: Client, key: str, limit: int) -> None:
        try:
            data = await entry_json(await self._cache.get(key, limit), limit)
        except Exception as error:
            # The client learns that it failed, not how: messages of back ends name hosts and keys.
            log.warning("wds_get_failed", key=key, error=type(error).__name__)
            self._refuse(client, protocol.Refusal("unavailable"))
            return
        client.answer(text_frame(protocol.got(key, data)))


def _wants_version_2(request: web.Request) -> bool:
    offered = request.headers.get("Sec-WebSocket-Protocol", "").split(",")
    return protocol2.SUBPROTOCOL in [name.strip() for name in offered]


def _join_of(socket: _Socket) -> Join:
    """How a client's messages are put together, by what it negotiated."""
    if socket.ws_protocol != protocol2.SUBPROTOCOL:
        return frames_joined
    return deflated_together if socket.compress == WINDOW_BITS else framed_together


class _Socket(web.WebSocketResponse):
    """aiohttp's reading side; whatever it closes is closed through `Client`, never awaited."""

    client: Client | None = None

    async def close(self, *, code: int = 1000, message: bytes = b"", drain: bool = True) -> bool:
        """Write the close frame once; the connection is cut if it is not taken in time."""
        if self.client is not None:
            self.client.close(code, message.decode(errors="replace"))
        return True


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
