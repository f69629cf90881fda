"""A whole platform in the test's own process, against the real simulator over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec

from mdp.app import App
from mdp.config import (
    AdminConfig,
    CacheConfig,
    Config,
    MassiveConfig,
    MetricsConfig,
    ScpConfig,
    WdsConfig,
)
from mdp.simulator import Simulator

PATIENCE_SECONDS = 60.0  # bound of a wait that should end at once; only a failing test takes it
SECRET = "a-key-nobody-may-see"


def config_for(port: int, *, snapshot_path: str = "", history_path: str = "", **massive: Any) -> Config:
    """All ports free, the feed a simulator on loopback."""
    return Config(
        massive=MassiveConfig(
            feed=f"127.0.0.1:{port}",
            rest_url=f"http://127.0.0.1:{port}",
            secure=False,
            api_key=SECRET,
            **{"backoff_max_seconds": 0.2, "stable_seconds": 0.1, **massive},
        ),
        cache=CacheConfig(snapshot_path=snapshot_path, history_path=history_path),
        wds=WdsConfig(port=0),
        scp=ScpConfig(port=0),
        metrics=MetricsConfig(port=0),
        admin=AdminConfig(port=0),
    )


@asynccontextmanager
async def platform(simulator: Simulator, **settings: Any) -> AsyncIterator[App]:
    """A started application; stopped at the end."""
    app = App(config_for(simulator.port, **settings), ["all"])
    await app.start()
    try:
        yield app
    finally:
        await app.stop()


async def eventually(condition: Callable[[], bool], *, seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until a condition holds; fails by time-out where it never does."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110  conditions of many kinds, none with an event
                await asyncio.sleep(0.01)
    assert condition()


async def request(method: str, port: int, path: str, body: Any = None) -> tuple[int, Any]:
    """Status and answer of one request to loopback: decoded where it is JSON, else text."""
    url = f"http://127.0.0.1:{port}{path}"
    async with aiohttp.ClientSession() as session, session.request(method, url, json=body) as response:
        text = await response.text()
        is_json = response.content_type == "application/json"
        return response.status, msgspec.json.decode(text) if is_json else text


def sums(accounting: dict[str, Any]) -> None:
    """Every sum of the accounting, exact."""
    ring = accounting["ring"]
    assert ring["frames"] == ring["taken_frames"] + ring["shed_frames"] + ring["waiting_frames"]
    for name, queue in accounting["queues"].items():
        handled = queue["processed"] + queue["expired"] + queue["dropped"] + queue["waiting"]
        assert queue["received"] == handled, name
        came = sum(accounting["rejected"].values()) if name == "unknown" else accounting["decoded"][name]
        assert queue["received"] == came, name


def on_the_wire(accounting: dict[str, Any]) -> int:
    """Market events that came in, by our own counting."""
    decoded = sum(accounting["decoded"].values())
    rejected = sum(accounting["rejected"].values())
    return int(decoded + rejected + accounting["ring"]["shed_events"])
