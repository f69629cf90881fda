"""Faults that strike connections, as a client sees them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import aiohttp
import pytest

from mdp.simulator import Simulator
from mdp.simulator.faults import MALFORMED

from .support import EVERYTHING, dial, eventually, serve, subscriber


async def control(simulator: Simulator, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Status and decoded answer of a control endpoint."""
    async with aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{simulator.port}{path}"
        async with session.request(method, url, json=body) as answer:
            return answer.status, await answer.json()


async def test_auth_failed_once() -> None:
    """A good key is refused; the next attempt gets in."""
    async with serve(faults={"auth_failed": 1}) as simulator:
        async with dial(simulator) as client:
            assert await client.authenticate() == "auth_failed"
            assert await client.closed() == 1006
        async with dial(simulator) as client:
            assert await client.authenticate() == "auth_success"


async def test_max_connections_after_a_successful_authentication() -> None:
    """Success is no proof of stability: the status and 1008 follow."""
    async with serve(faults={"max_connections": 1}) as simulator, dial(simulator) as client:
        assert await client.authenticate() == "auth_success"
        assert (await client.receive())[0]["status"] == "max_connections"
        assert await client.closed() == 1008


async def test_authentication_that_is_never_answered() -> None:
    """The socket stays open, beyond the authentication time-out too, and nothing comes."""
    async with (
        serve(faults={"hang_auth": 1}, auth_timeout_seconds=0.5) as simulator,
        dial(simulator) as client,
    ):
        await client.receive()
        await client.send("auth", "key")
        await client.send("auth", "key")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.ws.recv(), 0.8)
        assert len(simulator.connections) == 1


@pytest.mark.parametrize(
    ("name", "code"),
    [("abrupt_close", 1006), ("clean_close", 1000), ("slow_consumer", 1008), ("evict", 1008)],
)
async def test_actions_end_a_live_connection(name: str, code: int) -> None:
    """At run time they strike at once; the next connection is left alone."""
    async with serve() as simulator:
        async with subscriber(simulator, "Q.*") as client:
            await client.collect(20)
            simulator.set_fault(name)
            assert await client.closed() == code
        assert simulator.faults.injected == {name: 1}
        async with subscriber(simulator, "Q.*") as client:
            await client.collect(20)


async def test_an_armed_action_waits_for_the_next_subscriber() -> None:
    """Given at the start it strikes after the first subscription, with its delay, once."""
    async with serve(faults={"clean_close": 0.02}) as simulator:
        async with subscriber(simulator, "Q.*") as client:
            assert await client.closed() == 1000
        async with subscriber(simulator, "Q.*") as client:
            await client.collect(20)


async def test_a_stall_is_silent_and_ends_when_cleared() -> None:
    """The socket stays open, the market goes on unseen, data returns."""
    async with serve() as simulator, subscriber(simulator, "Q.*") as client:
        await client.collect(20)
        simulator.set_fault("stall")
        while True:  # what was on its way
            try:
                await asyncio.wait_for(client.ws.recv(), 0.3)
            except TimeoutError:
                break
        before, sent = simulator.feed.now_ms, simulator.sent.total()
        await eventually(lambda: simulator.feed.now_ms > before + 2_000)
        assert simulator.sent.total() == sent
        simulator.set_fault("stall", False)
        assert min(row["t"] for row in await client.collect(20)) > before


async def test_a_paused_market_stands_still() -> None:
    """Its time, too; it goes on where it stood, without catching up."""
    async with serve() as simulator, subscriber(simulator, "Q.*") as client:
        await client.collect(20)
        _, answer = await control(simulator, "POST", "/sim/faults", {"pause": True})
        assert answer["on"] == {"pause": 1}
        before = simulator.feed.now_ms
        while True:  # what was on its way
            try:
                await asyncio.wait_for(client.ws.recv(), 0.3)
            except TimeoutError:
                break
        assert simulator.feed.now_ms == before
        assert simulator.faults.injected["pause"] == 1
        await control(simulator, "DELETE", "/sim/faults")
        rows = await client.collect(20)
        assert min(row["t"] for row in rows) >= before
        assert simulator.feed.now_ms > before


async def test_a_stall_of_some_seconds_ends_by_itself() -> None:
    """Its value is its length."""
    async with serve() as simulator, subscriber(simulator, "Q.*") as client:
        simulator.set_fault("stall", 0.05)
        await eventually(lambda: simulator.faults.injected["stall"] == 1)
        await eventually(lambda: not simulator.faults.on)
        await client.collect(20)


async def test_faults_and_statistics_over_http() -> None:
    """Another process can switch faults and compare what was sent with what it received."""
    async with serve() as simulator, subscriber(simulator, EVERYTHING) as client:
        status, answer = await control(
            simulator, "POST", "/sim/faults", {"duplicate_trades": 1, "stall": False}
        )
        assert (status, answer["on"]) == (200, {"duplicate_trades": 1})
        await eventually(lambda: simulator.faults.injected["duplicate_trades"] > 10)
        received = Counter(row["ev"] for row in await client.collect(300))
        status, answer = await control(simulator, "GET", "/sim/stats")
        assert status == 200
        assert answer["sent"]["T"] >= received["T"]
        assert answer["connections"][0]["subscriptions"] == 5
        assert answer["statuses"] == {"connected": 1, "auth_success": 1, "success": 5}
        assert answer["faults"]["injected"]["duplicate_trades"] > 10
        assert (await control(simulator, "DELETE", "/sim/faults"))[1] == {"on": {}}


@pytest.mark.parametrize(
    "body", [[], {}, {"nonsense": 1}, {"late_bars": 5}, {"stall": "x"}, {"stall": [1]}, "x"]
)
async def test_impossible_faults_over_http_are_refused(body: Any) -> None:
    """400 with the reason, and nothing is switched on."""
    async with serve(symbols=30) as simulator:
        status, answer = await control(simulator, "POST", "/sim/faults", body)
        assert status == 400
        assert answer["error"]
        assert simulator.faults.on == {}


async def test_malformed_events_are_counted_apart_and_reach_wildcards() -> None:
    """Good events keep their counts; each malformed one arrives and is counted once."""
    names = ["malformed_string", "malformed_nan", "malformed_no_symbol", "truncated_frames", "unknown_events"]
    async with (
        serve(faults=dict.fromkeys(names, 0.05)) as simulator,
        subscriber(simulator, EVERYTHING) as client,
    ):
        broken = good = 0
        async with asyncio.timeout(60):
            while broken < 50:
                text = await client.ws.recv()
                try:
                    json.loads(text)
                    good += 1
                except json.JSONDecodeError:
                    broken += 1
        assert good
        injected = simulator.faults.injected
        await eventually(lambda: not any(one.waiting_bytes for one in simulator.connections.values()))
        malformed = sum(injected[name] for name in names[:4])
        assert simulator.sent[MALFORMED] <= malformed
        assert simulator.sent[MALFORMED] >= broken
        assert 0 < simulator.sent["XT"] <= injected["unknown_events"]
