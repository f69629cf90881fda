"""The listener against the simulator and its faults: another author's reading of the same protocol."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from mdp.listener.market_status import MarketStatusSource
from mdp.listener.states import FeedState
from mdp.listener.watchdog import Market
from mdp.simulator.options import SimulatorOptions
from mdp.simulator.server import Simulator

from .fake_provider import KEY, Watched, quick_config, until


@asynccontextmanager
async def simulator(**options: Any) -> AsyncIterator[Simulator]:
    """A small market that runs in this process."""
    settings = {"symbols": 50, "events_per_second": 2_000.0, "start": "2026-03-10T10:00:00", **options}
    server = Simulator(SimulatorOptions(**settings))
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def decoding(feed: Watched) -> AsyncIterator[Counter[str]]:
    """Plays the decode stage; counts events by type."""
    events: Counter[str] = Counter()

    async def decode() -> None:
        while True:
            for frame in feed.frames():
                for event in json.loads(frame):
                    events[event["ev"]] += 1
                    if event["ev"] == "status":
                        feed.listener.on_status(event["status"], event["message"])
            await asyncio.sleep(0.01)

    task = asyncio.create_task(decode())
    try:
        yield events
    finally:
        task.cancel()


async def test_data_of_every_topic_arrives_and_all_is_granted() -> None:
    """The usual subscriptions on the simulated market."""
    async with simulator() as server:
        config = quick_config(
            f"127.0.0.1:{server.port}", subscriptions=["A.*", "AM.*", "T.*", "Q.*", "LULD.*"]
        )
        async with Watched(config) as feed, decoding(feed) as events:
            await feed.until(lambda: events["T"] > 0 and events["Q"] > 0)
            await feed.until(lambda: feed.listener.subscriptions.granted == set(config.subscriptions))
            assert feed.listener.state is FeedState.LIVE


@pytest.mark.parametrize(
    ("fault", "value", "reason"),
    [
        ("http_401", 2, "http_401"),
        ("http_403", 2, "http_403"),
        ("hang_auth", 1, "no_auth_answer"),
        ("max_connections", 1, "max_connections"),
        ("evict", 0.05, "max_connections"),
        ("slow_consumer", 0.05, "slow_consumer"),
        ("abrupt_close", 0.05, "aborted"),
        ("clean_close", 0.05, "closed_1000"),
    ],
)
async def test_fault_is_named_and_survived(fault: str, value: float, reason: str) -> None:
    """One gap or none, then live again with all subscriptions."""
    async with simulator(faults={fault: value}) as server:
        config = quick_config(f"127.0.0.1:{server.port}", connect_timeout_seconds=1.0)
        async with Watched(config) as feed, decoding(feed) as events:
            await feed.until(lambda: bool(feed.listener.counters.disconnects))
            await feed.until_state(FeedState.LIVE)
            await feed.until(lambda: feed.listener.subscriptions.granted == {"T.*"} and events["T"] > 0)
            assert set(feed.listener.counters.disconnects) == {reason}
            assert (reason == "max_connections") == ("cooling_down" in feed.states)


async def test_silent_stall_is_restarted() -> None:
    """The simulator keeps the connection open and sends nothing."""
    async with simulator() as server:
        config = quick_config(f"127.0.0.1:{server.port}", stall_seconds=0.5)
        async with Watched(config) as feed, decoding(feed) as events:
            await feed.until(lambda: events["T"] > 0)
            server.set_fault("stall", -1)
            await feed.until(lambda: feed.listener.counters.stalls >= 1)
            server.set_fault("stall", False)
            had = events["T"]
            await feed.until(lambda: events["T"] > had and feed.listener.state is FeedState.LIVE)
            assert feed.listener.counters.disconnects["stalled"] >= 1


async def test_wrong_key_is_fatal() -> None:
    """And the right one is not."""
    async with simulator(api_keys=["another"]) as server:
        config = quick_config(f"127.0.0.1:{server.port}")
        async with Watched(config) as feed:
            await feed.until_state(FeedState.FAILED)
            assert "check massive.api_key" in feed.listener.detail
    async with simulator(api_keys=[KEY]) as server:
        config = quick_config(f"127.0.0.1:{server.port}")
        async with Watched(config) as feed:
            await feed.until_state(FeedState.LIVE)


async def test_topic_outside_the_plan_is_degraded_alone() -> None:
    """The others go on."""
    async with simulator(not_authorized=["Q"]) as server:
        config = quick_config(f"127.0.0.1:{server.port}", subscriptions=["T.*", "Q.*"])
        async with Watched(config) as feed, decoding(feed) as events:
            await feed.until(lambda: feed.listener.subscriptions.degraded == {"Q.*"})
            assert feed.listener.state is FeedState.LIVE
            await feed.until(lambda: events["T"] > 0)
            assert events["Q"] == 0


async def test_second_listener_is_told_that_the_key_is_in_use() -> None:
    """One connection a key: the second cools down, the first goes on."""
    async with simulator(second_connection="reject") as server:
        config = quick_config(f"127.0.0.1:{server.port}", cooldown_seconds=1000.0)
        async with Watched(config) as first:
            await first.until_state(FeedState.LIVE)
            async with Watched(config) as second:
                await second.until_state(FeedState.COOLING_DOWN)
                assert "another connection uses this key" in second.listener.detail
                assert "live" not in second.states
            assert first.listener.state is FeedState.LIVE


async def test_market_status_and_clock_of_the_simulated_day() -> None:
    """Whatever day and time it is here, there it is 10:00 in New York."""
    async with simulator() as server:
        source = MarketStatusSource(f"http://127.0.0.1:{server.port}", KEY)
        await source.start()
        try:
            await until(lambda: source.current is not None)
            assert source.now() is Market.OPEN
            ahead_ms = (source.server_now_ms() or 0) - 1_773_151_200_000
            assert -1_000 <= ahead_ms < 60_000
        finally:
            await source.stop()
