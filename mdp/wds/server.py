"""The Widget Data Service: the only part of the data plane that clients reach."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web

from mdp.cache.base import Bus, Cache
from mdp.config import WdsConfig
from mdp.feeds import Family
from mdp.stage import Health
from mdp.wds.access import Access
from mdp.wds.admission import HEADER_SECONDS, MAX_HEADER_BYTES, MAX_HEADERS, SPARE, Admission, Gate, peer_of
from mdp.wds.client import Client, Limits
from mdp.wds.commands import Commands1, Commands2
from mdp.wds.conversation import Conversation, Socket
from mdp.wds.counters import WdsCounters
from mdp.wds.handshake import Origins, refusal, wants_version_2
from mdp.wds.http import HttpApi, Parts
from mdp.wds.hub import Hub, nothing_to_gather
from mdp.wds.limits import Networks
from mdp.wds.members import Member
from mdp.wds.protocol2 import SUBPROTOCOL
from mdp.wds.roster import Roster
from mdp.wds.tls import Tls
from mdp.wds.turns import Turns

log = structlog.get_logger(__name__)

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
        self._origins = Origins(config, own_origins, lambda: self.port)
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
        self._tls: Tls | None = None
        self._hub = Hub(bus, cache, self.counters, tick_seconds=config.tick_ms / 1_000, gather=gather)
        self._limits = Limits(
            config.client_buffer_bytes,
            ping_seconds=ping_seconds,
            pong_seconds=pong_seconds,
            close_seconds=close_seconds,
        )
        self._clients = Roster(self._hub, self.counters)
        parts = (config, cache, self._hub, self.access, self.counters)
        self._commands = {1: Commands1(*parts), 2: Commands2(*parts)}
        self._ids = itertools.count(1)
        self._turns: Turns | None = None  # while it serves
        self._runner: web.AppRunner | None = None
        self._listener: asyncio.Server | None = None
        self._renewer: asyncio.Task[None] | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self.port = 0

    # Lifecycle

    async def start(self) -> None:
        """Bind and serve. Raises OSError when the address is taken, or a file of keys cannot be used."""
        await self.access.start()
        if self._config.tls_cert:
            self._tls = await asyncio.to_thread(Tls, self._config.tls_cert, self._config.tls_key)
        turns = self._turns = Turns(asyncio.get_running_loop())
        http = self._http(turns)
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
                lambda: Gate(self.admission, serve, turns),
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

    def _http(self, turns: Turns) -> HttpApi:
        parts = Parts(
            config=self._config,
            cache=self._cache,
            hub=self._hub,
            access=self.access,
            admission=self.admission,
            counters=self.counters,
            limits=self._limits,
            turns=turns,
            may_read_here=self._origins.allow,
            stopping=lambda: self._clients.stopping,
            new_id=lambda: next(self._ids),
            enter=self._clients.enter,
            leave=self._clients.leave,
        )
        return HttpApi(parts)

    async def stop(self) -> None:
        """Send what is due, say goodbye to all clients at once, cut those that do not answer."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        self._clients.stopping = True
        if self._listener is not None:
            self._listener.close()  # no new connections
        await self._hub.stop(_FLUSH_SECONDS)
        await self._clients.dismiss(self._close_seconds)
        for task in (self._sweeper, self._renewer):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        await self.access.stop()
        await runner.cleanup()

    def missed(self, feed: str, family: Family) -> None:
        """Something of an event feed was lost before its next message: clients are told `resync`."""
        self._hub.missed(feed, family)

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
            await self._look_around(loop)

    async def _look_around(self, loop: asyncio.AbstractEventLoop) -> None:
        # By itself, so that no variable keeps the last client between two rounds.
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
        refused = refusal(
            request, self._config, self.counters, origins=self._origins, stopping=self._clients.stopping
        )
        if refused is not None:
            return refused
        self.counters.clients += 1  # before the first await: it is what max_clients is compared with
        try:
            socket = Socket(
                compress=self._config.compression and wants_version_2(request),
                autoping=False,
                autoclose=False,
                max_msg_size=self._config.max_message_bytes,
                protocols=(SUBPROTOCOL,),
            )
            await socket.prepare(request)
            transport = request.transport
            if transport is not None:
                await self._serve(socket, transport)
            return socket
        finally:
            self.counters.clients -= 1

    async def _serve(self, socket: Socket, transport: asyncio.WriteTransport) -> None:
        loop = asyncio.get_running_loop()
        turns = self._turns
        assert turns is not None
        client = Client(
            next(self._ids), transport, self._limits, self.counters, loop, socket.join, turns=turns
        )
        session = self.access.open(Member(client, self._hub, self.counters), peer_of(transport))
        talk = Conversation(socket, client, session, self._commands[socket.version], self.counters, turns)
        self._clients.enter(client, session)
        try:
            if not self._config.auth_enabled or await talk.authenticate(self._auth_seconds):
                self.admission.settle(transport)
                await talk.converse()
            await talk.linger()
        finally:
            self.access.close(session)
            self._clients.leave(client)
