"""A scripted server that speaks the provider's protocol, and helpers to wait for a listener.

Apart from the simulator on purpose: each test says exactly what its server does.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from mdp.config import MassiveConfig
from mdp.listener.massive import MassiveListener
from mdp.listener.ring import RawRing
from mdp.listener.states import FeedState, StateChange
from mdp.listener.watchdog import Market

KEY = "SECRET-KEY-0123456789"
PATIENCE_SECONDS = 60.0  # a test that waits longer than this has failed; none asserts on it

CONNECTED = ("connected", "Connected Successfully")
AUTHENTICATED = ("auth_success", "authenticated")

Script = Callable[["Session"], Awaitable[None]]


def statuses(*pairs: tuple[str, str]) -> str:
    """A frame of status events."""
    return json.dumps([{"ev": "status", "status": status, "message": message} for status, message in pairs])


def trade(symbol: str = "AAPL", number: int = 1) -> str:
    """A frame of one trade."""
    return json.dumps(
        [{"ev": "T", "sym": symbol, "i": str(number), "p": 10.0, "s": 100, "t": 1_700_000_000_000}]
    )


class Session:
    """One connection, seen from the server."""

    def __init__(self, provider: FakeProvider, socket: ServerConnection, number: int) -> None:
        self.provider = provider
        self.socket = socket
        self.number = number  # 1 for the first connection

    async def send(self, frame: str) -> None:
        await self.socket.send(frame)

    async def receive(self) -> dict[str, Any]:
        """The next request; remembered by the provider."""
        request: dict[str, Any] = json.loads(await self.socket.recv())
        self.provider.requests.append(request)
        return request

    async def authenticate(self, answer: tuple[str, str] = AUTHENTICATED) -> None:
        """Greet, read the key and answer."""
        await self.send(statuses(CONNECTED))
        await self.receive()
        await self.send(statuses(answer))

    async def acknowledge(self, refuse: tuple[str, ...] = (), ignore: tuple[str, ...] = ()) -> list[str]:
        """Read one subscribe or unsubscribe request and answer each pair; returns the pairs."""
        request = await self.receive()
        pairs = request["params"].split(",")
        word = "subscribed" if request["action"] == "subscribe" else "unsubscribed"
        for pair in pairs:
            if pair in refuse:
                await self.send(statuses(("error", "not authorized")))
            elif pair not in ignore:
                await self.send(statuses(("success", f"{word} to: {pair}")))
        return list(pairs)

    async def open(self) -> None:
        """Authenticate and acknowledge everything: the usual beginning."""
        await self.authenticate()
        await self.acknowledge()

    async def hold(self) -> None:
        """Answer further requests until the client goes."""
        while True:
            await self.acknowledge()

    def abort(self) -> None:
        """Drop the TCP connection without a word."""
        self.socket.transport.abort()


class FakeProvider:
    """Runs a script for each connection, on a free port.

    Args:
        script: What to do with a connection; it is closed with 1000 when the script returns.
        http_status: Answer the upgrade with this status for the first `http_times` connections.
    """

    def __init__(self, script: Script, *, http_status: int = 0, http_times: int = 1_000_000) -> None:
        self._script = script
        self._http_status = http_status
        self._http_times = http_times
        self._server: Server | None = None
        self.port = 0
        self.connections = 0
        self.upgrades = 0
        self._sockets: set[ServerConnection] = set()
        self.requests: list[dict[str, Any]] = []
        self.errors: list[BaseException] = []

    async def __aenter__(self) -> FakeProvider:
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
        assert not self.errors, self.errors

    async def listen(self) -> None:
        """Begin, or begin again on the same port."""
        self._server = await serve(
            self._handle, "127.0.0.1", self.port, process_request=self._upgrade, close_timeout=0.2
        )
        self.port = next(iter(self._server.sockets)).getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    @property
    def feed(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def open_now(self) -> int:
        """Connections that are not over, whether or not their scripts have noticed."""
        return sum(socket.state is not State.CLOSED for socket in self._sockets)

    def subscribed(self) -> list[list[str]]:
        """The pairs of each subscribe request, sorted."""
        return [sorted(r["params"].split(",")) for r in self.requests if r["action"] == "subscribe"]

    def _upgrade(self, socket: ServerConnection, _request: Any) -> Any:
        self.upgrades += 1
        if self._http_status and self.upgrades <= self._http_times:
            return socket.respond(self._http_status, "no\n")
        return None

    async def _handle(self, socket: ServerConnection) -> None:
        self.connections += 1
        self._sockets.add(socket)
        try:
            await self._script(Session(self, socket, self.connections))
        except ConnectionClosed:
            pass
        except Exception as exc:
            self.errors.append(exc)
            raise
        finally:
            self._sockets.discard(socket)


class FakeMarket:
    """A market status that a test sets."""

    def __init__(self, market: Market = Market.OPEN) -> None:
        self.market = market
        self.opened = asyncio.Event()
        self.server_ms: int | None = None
        self.waiting = 0

    def now(self, market: str = "stocks") -> Market:
        return self.market

    def open_for_ns(self) -> int | None:
        return None

    def server_now_ms(self) -> int | None:
        return self.server_ms

    async def wait_until_open(self, market: str = "stocks") -> None:
        self.waiting += 1
        await self.opened.wait()


def quick_config(feed: str, **changes: Any) -> MassiveConfig:
    """Settings with times that suit tests."""
    settings: dict[str, Any] = {
        "feed": feed,
        "secure": False,
        "api_key": KEY,
        "subscriptions": ["T.*"],
        "connect_timeout_seconds": 5.0,
        "backoff_max_seconds": 0.02,
        "cooldown_seconds": 0.05,
        "stable_seconds": 10.0,
        "stall_seconds": 60.0,
    }
    return MassiveConfig(**{**settings, **changes})


def make_ring() -> RawRing:
    """A ring in which nothing grows old."""
    return RawRing(max_bytes=1 << 24, max_age_ns=1 << 62)


class Watched:
    """A listener with its ring, its market and every state it went through."""

    def __init__(self, config: MassiveConfig, market: FakeMarket | None = None, **options: Any) -> None:
        self.ring = make_ring()
        self.market = market or FakeMarket()
        self.listener = MassiveListener(config, self.ring, market_status=self.market, **options)
        self.changes: list[StateChange] = []
        self.listener.on_change.append(self.changes.append)

    @property
    def states(self) -> list[str]:
        return [change.state.value for change in self.changes]

    async def __aenter__(self) -> Watched:
        await self.listener.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.listener.stop()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition; fails the test when it never comes."""
        await until(
            condition, lambda: f"{self.listener.state.value}: {self.listener.detail} {self.states[-8:]}"
        )

    async def until_state(self, state: FeedState) -> None:
        """Wait until the feed is in a state."""
        await self.until(lambda: self.listener.state is state)

    def frames(self) -> list[str]:
        """Take all frames that wait in the ring."""
        taken: list[str] = []
        while (item := self.ring.take()) is not None:
            frame = item[1]
            taken.append(frame if isinstance(frame, str) else frame.decode())
        return taken

    def decode_statuses(self) -> None:
        """Do what the decode stage does with status events."""
        for frame in self.frames():
            for event in json.loads(frame):
                if event.get("ev") == "status":
                    self.listener.on_status(event["status"], event["message"])


async def until(condition: Callable[[], bool], state: Callable[[], str] = lambda: "") -> None:
    """Wait for a condition; fails the test when it never comes."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"never came true; {state()}"
        await asyncio.sleep(0.005)
