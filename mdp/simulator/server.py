"""The simulator: the provider's WebSocket and REST protocols on one loopback port."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
from collections import Counter
from pathlib import Path
from typing import Any

from aiohttp import WSMsgType, web

from .connection import Connection
from .control import ControlApi
from .faults import Faults
from .feed import MarketFeed, ReplayFeed
from .hub import Hub
from .market import SyntheticMarket
from .options import SimulatorOptions, check, parse_start
from .protocol import (
    STATUS_AUTH_FAILED,
    STATUS_AUTH_SUCCESS,
    STATUS_AUTH_TIMEOUT,
    STATUS_CONNECTED,
    STATUS_MAX_CONNECTIONS,
    STATUS_SLOW_CONSUMER,
    Subscriptions,
    parse_request,
)
from .rest import RestApi
from .rest_data import MarketRest, ReplayRest

_POLICY_VIOLATION = 1008
_GOING_AWAY = 1001
_SLOW_CHECK_SECONDS = 0.25
_MAX_CONNECTIONS = 1_000
_MAX_REQUEST_BYTES = 4 * 1024 * 1024  # a list of every symbol on every topic fits

log = logging.getLogger(__name__)


class Simulator:
    """A server that speaks Massive's protocols. Starts and stops once.

    It sends at the market's pace whether or not anybody can follow (with `speed` 0: as fast as the
    slowest subscriber reads), and closes a reader for whom too much waits.
    """

    def __init__(self, options: SimulatorOptions | None = None) -> None:
        """Builds the market or looks at the recording; nothing is opened before `start`.

        Raises:
            ValueError: An option is impossible, or the recording cannot be read.
        """
        self.options = options = options or SimulatorOptions()
        check(options)
        self.faults = Faults(options.seed, options.faults)
        self._hub = Hub(self.faults, options.events_per_frame)
        self.connections_total = 0
        self.slow_consumers = 0
        self.statuses: Counter[str] = Counter()  # status messages of closed connections
        self._tasks: set[asyncio.Task[None]] = set()
        self._runner: web.AppRunner | None = None
        self._port = options.port
        rest_data: MarketRest | ReplayRest
        if options.replay:
            self.feed: MarketFeed | ReplayFeed = ReplayFeed(
                Path(options.replay),
                options.speed,
                wait=options.replay_wait,
                loop=options.replay_end == "loop",
            )
            rest_data = ReplayRest(self.feed, Path(options.replay))
        else:
            rate = options.events_per_second / (options.speed or 1.0)
            start_ms = parse_start(options.start)
            market = SyntheticMarket(seed=options.seed, symbols=options.symbols, rate=rate, start_ms=start_ms)
            self.feed = live = MarketFeed(market, options.speed)
            rest_data = MarketRest(market, live.recent)
        self._rest = RestApi(rest_data, options.api_keys)

    # -- life ---------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        """The port listened on; the one asked for before `start`."""
        return self._port

    @property
    def sent(self) -> Counter[str]:
        """Events handed to the sockets of subscribers by `ev`, over all connections."""
        return self._hub.sent

    @property
    def connections(self) -> dict[int, Connection]:
        """Open connections by number."""
        return self._hub.connections

    @property
    def finished(self) -> asyncio.Event:
        """Set when a replay has been handed to the sockets; never for the simulated market."""
        return self.feed.finished if isinstance(self.feed, ReplayFeed) else asyncio.Event()

    async def start(self) -> None:
        """Listen and begin the market.

        Raises:
            OSError: The port is taken.
        """
        app = web.Application(client_max_size=64 * 1024)
        ControlApi(self).add_routes(app)
        self._rest.add_routes(app)
        app.router.add_get("/{market:[a-z_]+}", self._websocket)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.options.host, self.options.port)
        await site.start()
        self._port = self._runner.addresses[0][1]
        self._spawn(self._drive(), "sim-feed")
        self._spawn(self._watch_readers(), "sim-slow-consumers")

    async def stop(self) -> None:
        """Close all connections with 1001 and stop listening. Safe to call twice."""
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        closing = [
            connection.close(_GOING_AWAY, flush=False) for connection in list(self.connections.values())
        ]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await asyncio.gather(*closing)
        for connection in list(self.connections.values()):
            connection.abort()
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    def _spawn(self, work: Any, name: str) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _drive(self) -> None:
        try:
            await self.feed.run(self._hub)
        except Exception:
            # The sockets stay open, silent: what a client sees when a provider breaks inside.
            log.exception("simulator feed ended")
            return
        if self.options.replay_end == "close":
            await asyncio.gather(*(one.close(1000) for one in list(self.connections.values())))

    async def _watch_readers(self) -> None:
        """The slow-consumer rule, and the stall that ends by itself."""
        options = self.options
        loop = asyncio.get_running_loop()
        stalled_at: float | None = None
        while True:
            await asyncio.sleep(_SLOW_CHECK_SECONDS)
            for connection in list(self.connections.values()):
                # In a closed loop the reader sets the pace and cannot be slow.
                late = options.speed and connection.waited_seconds() > options.slow_consumer_seconds
                if late or connection.waiting_bytes > options.slow_consumer_bytes:
                    self._cut_slow(connection)
            seconds = self.faults.stall_seconds
            if not seconds:
                stalled_at = None
            elif stalled_at is None:
                stalled_at = loop.time()
                self.faults.injected["stall"] += 1
            if stalled_at is not None and 0 < seconds <= loop.time() - stalled_at:
                self.faults.stall_seconds, stalled_at = 0.0, None

    def _cut_slow(self, connection: Connection) -> None:
        if not connection.closing:
            self.slow_consumers += 1
            log.warning("slow consumer closed: connection %d", connection.number)
            self._spawn(
                connection.close(_POLICY_VIOLATION, STATUS_SLOW_CONSUMER, flush=False), "sim-slow-close"
            )

    # -- connections --------------------------------------------------------------------------

    async def _websocket(self, request: web.Request) -> web.StreamResponse:
        for code in (401, 403):
            if self.faults.strikes(f"http_{code}"):
                return web.Response(status=code, text="refused by fault")
        if len(self.connections) >= _MAX_CONNECTIONS:
            return web.Response(status=503, text="too many connections")
        ws = web.WebSocketResponse(compress=False, max_msg_size=_MAX_REQUEST_BYTES, timeout=2.0)
        if not ws.can_prepare(request):
            return web.Response(status=426, text="this is a WebSocket endpoint")
        await ws.prepare(request)
        self.connections_total += 1
        number = self.connections_total
        connection = Connection(number, request, ws, Subscriptions(self.options.not_authorized), self.sent)
        self.connections[number] = connection
        connection.put_status(STATUS_CONNECTED)
        timer = self._spawn(self._auth_deadline(connection), f"sim-auth-{number}")
        try:
            async for message in ws:
                if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                    await self._answer(connection, message.data)
        finally:
            timer.cancel()
            self.connections.pop(number, None)
            self.statuses.update(connection.statuses)
            await connection.finish()
        return ws

    async def _auth_deadline(self, connection: Connection) -> None:
        await asyncio.sleep(self.options.auth_timeout_seconds)
        if not connection.key and not connection.hanging:
            await connection.close(_POLICY_VIOLATION, STATUS_AUTH_TIMEOUT)

    async def _answer(self, connection: Connection, data: str | bytes) -> None:
        request = parse_request(data)
        if request is None:
            connection.put_status(("error", "invalid request"))
        elif request.action == "auth":
            await self._authenticate(connection, request.params)
        elif not connection.key:
            connection.put_status(("error", "not authenticated"))
        elif request.action == "subscribe":
            first = not len(connection.subscriptions)
            connection.put_status(*connection.subscriptions.subscribe(request.params))
            if first and connection.live:
                self._first_subscription(connection)
        elif request.action == "unsubscribe":
            connection.put_status(*connection.subscriptions.unsubscribe(request.params))
        else:
            connection.put_status(("error", f"unknown action: {request.action[:40]}"))

    async def _authenticate(self, connection: Connection, key: str) -> None:
        if connection.key or connection.hanging:
            return
        if self.faults.strikes("hang_auth"):
            connection.hanging = True
            return
        if self.faults.strikes("auth_failed") or not self._accepts(key):
            connection.put_status(STATUS_AUTH_FAILED)
            self._spawn(connection.hang_up(), "sim-auth-failed")
            return
        connection.put_status(STATUS_AUTH_SUCCESS)
        others = [
            one for one in self.connections.values() if one.key == key and one.market == connection.market
        ]
        others = [one for one in others if not one.closing]
        connection.key = key
        rule = self.options.second_connection
        if self.faults.strikes("max_connections") or (others and rule == "reject"):
            self._spawn(connection.close(_POLICY_VIOLATION, STATUS_MAX_CONNECTIONS), "sim-max-connections")
        elif rule == "evict":
            for other in others:
                self._spawn(other.close(_POLICY_VIOLATION, STATUS_MAX_CONNECTIONS), "sim-evict")

    def _accepts(self, key: str) -> bool:
        keys = self.options.api_keys
        if not keys:
            return bool(key)
        given = key.encode()
        # Every key is compared, so that the time says nothing about which one is near.
        return sum(hmac.compare_digest(given, known.encode()) for known in keys) > 0

    def _first_subscription(self, connection: Connection) -> None:
        self._hub.wake()
        for name, delay in self.faults.take_actions().items():
            self._spawn(self._act(name, connection, delay), f"sim-{name}")

    async def _act(self, name: str, connection: Connection, delay: float) -> None:
        await asyncio.sleep(delay)
        if connection.closing:
            return
        self.faults.injected[name] += 1
        if name == "abrupt_close":
            connection.abort()
        elif name == "clean_close":
            await connection.close(1000)
        elif name == "slow_consumer":
            self._cut_slow(connection)
        else:  # evict: what the older connection sees when a newer one takes its place
            await connection.close(_POLICY_VIOLATION, STATUS_MAX_CONNECTIONS)

    # -- control ------------------------------------------------------------------------------

    def set_fault(self, name: str, value: object = True) -> None:
        """Switch a fault on (or off with False), see faults.py for names and values.

        An action strikes the connections that have subscribed; without any, the next one.

        Raises:
            ValueError: Unknown name, or a value the fault cannot have.
        """
        self.faults.set(name, value)
        live = self._hub.live()
        if live:
            for action, delay in self.faults.take_actions().items():
                for connection in live:
                    self._spawn(self._act(action, connection, delay), f"sim-{action}")

    def stats(self) -> dict[str, Any]:
        """What was sent and what went wrong, for tests in other processes. Holds no keys."""
        replay = self.feed if isinstance(self.feed, ReplayFeed) else None
        statuses = self.statuses + sum((c.statuses for c in self.connections.values()), Counter())
        return {
            "sent": {name: count for name, count in self.sent.items() if count},
            "statuses": dict(statuses),
            "connections": [
                {
                    "number": one.number,
                    "market": one.market,
                    "authenticated": bool(one.key),
                    "subscriptions": len(one.subscriptions),
                    "sent": {name: count for name, count in one.sent.items() if count},
                    "waiting_bytes": one.waiting_bytes,
                }
                for one in self.connections.values()
            ],
            "connections_total": self.connections_total,
            "slow_consumers": self.slow_consumers,
            "faults": {"on": self.faults.on, "injected": dict(self.faults.injected)},
            "rest": dict(self._rest.asked),
            "market_time_ms": self.feed.now_ms,
            "replay": None
            if replay is None
            else {"frames": replay.frames, "finished": replay.finished.is_set()},
        }


async def run(options: SimulatorOptions) -> None:
    """Serve until cancelled, after saying on standard output where.

    Raises:
        ValueError: An option is impossible, or the recording cannot be read.
        OSError: The port is taken.
    """
    simulator = Simulator(options)
    await simulator.start()
    address = f"{options.host}:{simulator.port}"
    print(f"simulator listening on ws://{address}/stocks", flush=True)
    print(
        f"  use it: MDP_MASSIVE_FEED={address} MDP_MASSIVE_SECURE=false "
        f"MDP_MASSIVE_REST_URL=http://{address} MASSIVE_API_KEY=any mdp run --role all",
        flush=True,
    )
    # The last line is for programs that started this one with port 0.
    print(f'{{"host":"{options.host}","port":{simulator.port}}}', flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        await simulator.stop()
