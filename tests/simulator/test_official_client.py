"""The simulator against the official `massive.WebSocketClient`, as the platform uses it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import pytest
from massive import WebSocketClient
from massive.exceptions import AuthError

from mdp.simulator import Simulator

from .support import eventually, serve


def make_client(simulator: Simulator, *subscriptions: str, key: str = "key") -> WebSocketClient:
    return WebSocketClient(
        api_key=key,
        feed=f"127.0.0.1:{simulator.port}",
        market="stocks",
        raw=True,
        secure=False,
        subscriptions=list(subscriptions),
        max_reconnects=0,
    )


async def ended(running: asyncio.Task[None]) -> None:
    """On Python 3.11 wait_for swallows a cancellation that meets a frame, so one may not be enough."""
    while not running.done():
        running.cancel()
        await asyncio.wait({running}, timeout=0.05)


async def test_raw_frames_reach_the_callback() -> None:
    """Statuses after the authentication and data of every type, as arrays."""
    async with serve(events_per_second=5_000.0) as simulator:
        client = make_client(simulator, "T.*", "Q.*", "A.*", "AM.*", "LULD.*")
        received: Counter[str] = Counter()
        acknowledged: set[str] = set()

        async def take(frame: Any) -> None:
            for row in json.loads(frame):
                received[row["ev"]] += 1
                if row["ev"] == "status":
                    acknowledged.add(row["message"])

        running = asyncio.create_task(client.connect(take, max_size=None, max_queue=1024, proxy=None))
        await eventually(lambda: all(received[topic] for topic in ("T", "Q", "A", "AM", "LULD")))
        await ended(running)
        assert acknowledged == {f"subscribed to: {topic}.*" for topic in ("T", "Q", "A", "AM", "LULD")}


async def test_events_parse_into_the_clients_own_models() -> None:
    """Without raw mode its parser knows every event and field type."""
    async with serve() as simulator:
        client = make_client(simulator, "T.*", "Q.*", "A.*")
        client.raw = False
        models: list[Any] = []

        async def take(rows: Any) -> None:
            models.extend(rows)

        running = asyncio.create_task(client.connect(take, max_size=None, proxy=None))
        await eventually(lambda: {model.event_type for model in models} == {"T", "Q", "A"})
        await ended(running)
        trade = next(model for model in models if model.event_type == "T")
        assert trade.symbol in {listing.symbol for listing in simulator.feed.market.universe}  # type: ignore[union-attr]
        assert trade.price > 0


async def test_a_refused_key_raises_its_error() -> None:
    """`auth_failed` becomes AuthError."""
    async with serve(api_keys=["right"]) as simulator:
        with pytest.raises(AuthError, match="authentication failed"):
            await make_client(simulator, "T.*", key="wrong").connect(lambda _: asyncio.sleep(0), proxy=None)


async def test_a_clean_close_ends_it_without_an_error() -> None:
    """Close code 1000 returns, which a listener must take as an outage."""
    async with serve(faults={"clean_close": 0.01}) as simulator:
        client = make_client(simulator, "T.*")
        async with asyncio.timeout(60):
            await client.connect(lambda _: asyncio.sleep(0), proxy=None)


async def test_an_abrupt_close_raises() -> None:
    """A broken line is an error of the websockets library."""
    async with serve(faults={"abrupt_close": 0.01}) as simulator:
        client = make_client(simulator, "T.*")
        async with asyncio.timeout(60):
            with pytest.raises(Exception, match="no close frame"):
                await client.connect(lambda _: asyncio.sleep(0), proxy=None)
