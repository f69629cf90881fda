"""A stretch of a day is missed: what is repaired, what is said meanwhile, and what never comes back."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from mdp.app import App
from mdp.queues.base import Batch
from mdp.simulator import Simulator, SimulatorOptions
from tests.app_support import config_for, eventually
from tests.cache.provider import Answer, Provider, hang, serving
from tests.integration.replay_rig import PATIENCE_SECONDS, Process, platform, provider_ms, replaying

NOON = 1_709_658_000_000  # 2024-03-05 12:00 in New York
SPEED = 50  # market seconds a second
AWAY, BACK = 100, 300  # seconds after noon between which nobody listens, at least
SPIKE, OLD_HIGH, NEW_HIGH, END = 230, 800, 820, 840  # a repair has ten seconds before the old high
QUIET_BARS = range(0, AWAY - 20, 10)


def second(symbol: str, at: int, close: float, volume: int, total: int) -> dict[str, Any]:
    """A bar on the wire."""
    return {
        "ev": "A", "sym": symbol, "v": volume, "av": total, "o": close, "c": close, "h": close, "l": close,
        "vw": close, "a": 10, "z": 10, "s": NOON + at * 1_000, "e": NOON + at * 1_000 + 1_000,
    }  # fmt: skip


def recording(path: Path) -> Path:
    """AAA trades each second, QUIET only before and in the missed stretch, which holds extremes of both."""
    total = quiet = 0
    with gzip.open(path, "wt") as file:
        for at in range(END):
            close, volume = 10.0 + (at % 5) / 10, 100
            if at == SPIKE:
                close, volume = 15.0, 50_000
            elif at in (OLD_HIGH, NEW_HIGH):
                close = 14.0 if at == OLD_HIGH else 16.0
            total += volume
            # A minute's leap of the market's time is believed when three symbols agree on it.
            others = [second(name, at, 20.0, 1, at + 1) for name in ("BBB", "CCC")]
            events = [second("AAA", at, close, volume, total), *others]
            if at in QUIET_BARS:
                quiet += 10
                events.append(second("QUIET", at, 7.0, 10, quiet))
            if at == SPIKE:
                quiet += 5_000
                events.append(second("QUIET", at, 5.0, 5_000, quiet))
            file.write(f"{(NOON + at * 1_000 + 1_100) * 1_000_000}\t{json.dumps(events)}\n")
    return path


class Client:
    """Asks a platform for values, and remembers how `stale` of a symbol changed."""

    def __init__(self) -> None:
        self.stale: list[bool] = []

    async def until(self, process: Process, address: str, at: int) -> None:
        """Look at QUIET until the provider's time is so many seconds past noon."""
        url = f"http://127.0.0.1:{process.ports['wds']}/ws"
        async with aiohttp.ClientSession() as session, session.ws_connect(url) as client:
            while await asyncio.to_thread(provider_ms, address) < NOON + at * 1_000:
                await client.send_json({"action": "get", "cache": "quote:QUIET"})
                row = (await client.receive_json(timeout=PATIENCE_SECONDS))["data"]
                if row is not None and self.stale[-1:] != [row["stale"]]:
                    self.stale.append(row["stale"])
                await asyncio.sleep(0.05)

    async def answers(self, process: Process) -> dict[str, Any]:
        """What clients and operators see in the end."""
        url = f"http://127.0.0.1:{process.ports['wds']}/ws"
        found: dict[str, Any] = {}
        async with aiohttp.ClientSession() as session:
            async with session.ws_connect(url) as client:
                for key in ("daily_range:AAA", "daily_range:QUIET", "daily_range_hod_alert"):
                    await client.send_json({"action": "get", "cache": key})
                    found[key] = (await client.receive_json(timeout=PATIENCE_SECONDS))["data"]
            async with session.get(f"http://127.0.0.1:{process.ports['admin']}/api/v1/gaps") as answer:
                found["gaps"] = (await answer.json())["gaps"]
        return found


async def hurry(seconds: float) -> None:
    """The sleep of a repair that need not wait for bars: the simulator has them at once."""
    await asyncio.sleep(min(seconds, 0.05))


async def fault(address: str, **faults: float) -> None:
    """Switch faults of the provider on; none: all off."""
    async with aiohttp.ClientSession() as session:
        how = session.post(f"http://{address}/sim/faults", json=faults) if faults else None
        async with how or session.delete(f"http://{address}/sim/faults") as answer:
            assert answer.status == 200


async def dropped(folder: Path, address: str) -> tuple[dict[str, Any], list[bool], str]:
    """The provider closes the connection and refuses new ones for a while."""
    client = Client()
    with platform(folder, address, "--massive-backoff-max-seconds", "0.2") as process:
        await client.until(process, address, AWAY)
        await fault(address, http_403=-1, abrupt_close=0)
        await client.until(process, address, BACK)
        await fault(address)
        await client.until(process, address, END)
        return await client.answers(process), client.stale, "aborted"


async def killed(folder: Path, address: str) -> tuple[dict[str, Any], list[bool], str]:
    """`kill -9`, and a start some minutes of the market later."""
    client = Client()
    with platform(folder, address, "--cache-snapshot-seconds", "0.5") as process:
        await client.until(process, address, AWAY)
        process.kill()
    while await asyncio.to_thread(provider_ms, address) < NOON + BACK * 1_000:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    with platform(folder, address) as process:
        await client.until(process, address, END)
        return await client.answers(process), client.stale, "restart"


@pytest.mark.parametrize("how", [dropped, pytest.param(killed, marks=pytest.mark.slow)])
def test_a_missed_high_and_a_missed_volume_are_repaired_and_not_announced(how: Any, tmp_path: Path) -> None:
    """The next high is one above the missed one; a silent symbol is stale until it is known to be right."""
    path = recording(tmp_path / "day.frames.gz")
    with replaying(tmp_path, path, speed=str(SPEED)) as address:
        answers, stale, reason = asyncio.run(how(tmp_path, address))

    (gap,) = [gap for gap in answers["gaps"] if gap["reason"] != "refused"]
    assert stale == [False, True, False]
    assert (gap["repair"], gap["uncertain"], gap["uncertain_count"]) == ("done", [], 0)
    assert gap["repaired"] == 4
    assert gap["end_ms"] is not None
    assert {"stocks:trades:{S}", "tta:{S}:widget", "trade_stats:{S}"} <= set(gap["not_recoverable"])
    assert gap["reason"] == reason
    assert NOON < gap["market_start_ms"] < NOON + (AWAY + 40) * 1_000
    assert gap["market_end_ms"] >= NOON + BACK * 1_000
    row = answers["daily_range:AAA"]
    assert (row["regular_session_high"], row["uncertain_since"], row["stale"]) == (16, None, False)
    assert row["accumulated_volume"] == END * 100 - 100 + 50_000
    quiet = answers["daily_range:QUIET"]
    assert (quiet["regular_session_high"], quiet["regular_session_low"]) == (7, 5)
    assert (quiet["close"], quiet["accumulated_volume"]) == (5, 10 * len(QUIET_BARS) + 5_000)
    assert quiet["start_timestamp"] == NOON + SPIKE * 1_000
    news = [(alert["price"], alert["previous"]) for alert in answers["daily_range_hod_alert"]]
    assert news[0] == (16, 15)
    assert not {14, 15} & {price for price, _ in news}


@contextlib.asynccontextmanager
async def away_for_a_moment(answer: Answer | Any) -> AsyncIterator[App]:
    """A platform on a simulated market whose connection broke once, with bars from somewhere else."""
    provider = Provider()
    provider.answers["/v2/aggs/ticker/"] = answer
    simulator = Simulator(SimulatorOptions(symbols=20, events_per_second=400, speed=5))
    await simulator.start()
    try:
        async with serving(provider):
            config = config_for(simulator.port)
            config.massive.rest_url = provider.url
            app = App(config, ["all"])
            app.backfill._sleep = hurry
            await app.start()
            try:
                await eventually(lambda: len(app.market.symbols) > 5)
                simulator.set_fault("abrupt_close", 0)
                await eventually(lambda: app.listener.gaps.total > 0)
                await eventually(lambda: provider.count("/v2/aggs/ticker/") > 1, seconds=PATIENCE_SECONDS)
                yield app
            finally:
                await app.stop()
    finally:
        await simulator.stop()


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"<html>", id="garbage", marks=pytest.mark.slow),
        pytest.param(500, id="500", marks=pytest.mark.slow),
        pytest.param(hang, id="hang"),
        pytest.param(b'{"results":[{"t":1,"o":-1,"h":null,"l":"x","c":1e99,"v":-3}]}', id="absurd"),
    ],
)
async def test_a_provider_whose_bars_are_no_use_delays_nothing_and_the_ledger_says_so(answer: Any) -> None:
    """Live data flows, no number is changed by it, and it is known whose may be wrong."""
    async with away_for_a_moment(answer) as app:
        events, begun = app.processed_events(), app.market.clock.now_ms
        symbol = next(iter(app.market.symbols))
        await eventually(lambda: app.processed_events() > events + 200)
        assert app.market.clock.now_ms > begun
        (gap,) = app.controls.gaps()
        assert gap["repair"] in ("running", "partial")
        assert gap["repaired"] == 0
        assert gap["uncertain_count"] is None or gap["uncertain_count"] > 0
        assert app.market.trust.uncertain_since(symbol) is not None
        assert app.backfill.bars == 0
        name, seconds = app.steps.longest()
        assert name
        assert app.steps.get("backfill").max_seconds < 1.0, seconds  # no wait is within a step


async def test_what_ring_and_queues_lose_is_in_the_ledger_and_repaired() -> None:
    """Frames too old to be decoded concern any symbol, an expired batch of bars exactly its symbols."""
    simulator = Simulator(SimulatorOptions(symbols=20, events_per_second=400))  # a live feed's pace
    await simulator.start()
    # Nothing but what is made too old here: a busy machine loses nothing.
    config = config_for(simulator.port, ring_max_age_seconds=60.0)
    config.mdq.ttl_seconds = 60.0
    app = App(config, ["all"])
    app.backfill._sleep = hurry
    try:
        await app.start()
        await eventually(lambda: len(app.market.symbols) > 5)
        first = next(iter(app.market.symbols))
        bar = app.market.symbols[first].bar
        app.queues["aggregates"].put(Batch([bar], arrival_ns=1))
        await eventually(lambda: [gap["reason"] for gap in app.controls.gaps()] == ["expired"])
        assert app.controls.gaps()[0]["symbols"] == [first]
        assert app.market.trust.symbols() == [first]
        # A feed that catches up on a busy machine seems to be a replay: of that, no frame is too old.
        await eventually(lambda: app.ring.shed_by_age)
        app.ring.append('[{"ev":"T"}]', 1)
        await eventually(lambda: app.controls.gaps()[-1]["reason"] == "shed")
        assert app.controls.gaps()[-1]["frames"] == 1
        assert app.market.trust.whole_market
        await eventually(
            lambda: [gap["repair"] for gap in app.controls.gaps()] == ["done", "done"],
            seconds=PATIENCE_SECONDS,
        )
        assert not app.market.trust
    finally:
        await app.stop()
        await simulator.stop()


async def test_the_simulated_market_repairs_itself() -> None:
    """It keeps the bars of its last minutes: the demo shows what a short outage looks like."""
    simulator = Simulator(SimulatorOptions(symbols=20, events_per_second=400, speed=5))
    await simulator.start()
    app = App(config_for(simulator.port), ["all"])
    app.backfill._sleep = hurry
    try:
        await app.start()
        await eventually(lambda: len(app.market.symbols) > 5)
        simulator.set_fault("abrupt_close", 0)
        await eventually(
            lambda: bool(app.controls.gaps()) and app.controls.gaps()[0]["repair"] == "done",
            seconds=PATIENCE_SECONDS,
        )
        assert not app.market.trust
        assert app.controls.gaps()[0]["repaired"] > 5
    finally:
        await app.stop()
        await simulator.stop()
