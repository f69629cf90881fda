"""Helpers for tests that talk to a simulator over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError

from mdp.simulator import Simulator, SimulatorOptions

Row = dict[str, Any]
PATIENCE_SECONDS = 60.0  # bound of a wait that should end at once; only a failing test takes it


class Client:
    """A plain WebSocket client that speaks the provider's protocol one step at a time."""

    def __init__(self, ws: ClientConnection) -> None:
        self.ws = ws

    async def receive(self) -> list[Row]:
        """The next frame, decoded."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            rows: list[Row] = json.loads(await self.ws.recv())
        return rows

    async def send(self, action: str, params: str) -> None:
        """One request."""
        await self.ws.send(json.dumps({"action": action, "params": params}))

    async def authenticate(self, key: str = "test-key") -> str:
        """Through the greeting and the authentication; the status that answered it."""
        assert (await self.receive())[0]["status"] == "connected"
        await self.send("auth", key)
        return str((await self.receive())[0]["status"])

    async def subscribe(self, params: str) -> list[str]:
        """Messages of the answer to a subscription."""
        await self.send("subscribe", params)
        return [row["message"] for row in await self.until(lambda row: row["ev"] == "status")]

    async def until(self, wanted: Callable[[Row], bool]) -> list[Row]:
        """Rows of the first frame in which one is wanted; those frames before it are dropped."""
        while True:
            rows = await self.receive()
            if any(wanted(row) for row in rows):
                return rows

    async def collect(self, count: int) -> list[Row]:
        """At least so many events that are no status messages."""
        events: list[Row] = []
        while len(events) < count:
            events += [row for row in await self.receive() if row["ev"] != "status"]
        return events

    async def closed(self) -> int:
        """Read until the server closes; the close code (1006 where it just vanished)."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            with contextlib.suppress(ConnectionClosedError):
                async for _ in self.ws:
                    pass
            await self.ws.wait_closed()
        return self.ws.close_code or 0


@asynccontextmanager
async def serve(**settings: Any) -> AsyncIterator[Simulator]:
    """A simulator on a free port: `async with serve(seed=7) as simulator`."""
    # A small market in regular hours, fast enough that tests need not wait for bars.
    options: dict[str, Any] = {
        "symbols": 200,
        "start": "2026-03-10T10:00:00",
        "events_per_second": 2_000.0,
        "speed": 20.0,
        **settings,
    }
    simulator = Simulator(SimulatorOptions(**options))
    await simulator.start()
    try:
        yield simulator
    finally:
        await simulator.stop()


@asynccontextmanager
async def dial(simulator: Simulator) -> AsyncIterator[Client]:
    """A connected client that has not authenticated yet."""
    url = f"ws://127.0.0.1:{simulator.port}/stocks"
    async with connect(url, compression=None, max_size=None, proxy=None, close_timeout=0.2) as ws:
        yield Client(ws)


@asynccontextmanager
async def subscriber(simulator: Simulator, params: str) -> AsyncIterator[Client]:
    """A client that has authenticated and subscribed."""
    async with dial(simulator) as client:
        assert await client.authenticate() == "auth_success"
        await client.subscribe(params)
        yield client


EVERYTHING = "T.*,Q.*,A.*,AM.*,LULD.*"


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds; fails by time-out where it never does."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not condition():  # noqa: ASYNC110  conditions of many kinds, none with an event
                await asyncio.sleep(0.005)
    assert condition()
