"""Halts from end to end: simulated market and an exchange's list in, a client's WebSocket out."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from mdp.app import App, StartError
from mdp.client import WdsClient
from mdp.config import HaltsConfig
from mdp.sessions import NEW_YORK
from tests.app_support import PATIENCE_SECONDS, config_for, eventually, request
from tests.listener.rss import document, item, serving
from tests.ports import free_port
from tests.simulator.support import serve
from tests.test_run import Bench, port_of


@asynccontextmanager
async def listening(port: int, feed: str) -> AsyncIterator[list[Any]]:
    """What a client gets of a feed."""
    got: list[Any] = []

    async def collect() -> None:
        with contextlib.suppress(Exception):  # the process is killed under us
            async with WdsClient(f"ws://127.0.0.1:{port}/ws") as client:
                async for value in client.stream(feed):
                    got.append(value)  # noqa: PERF401  whoever looks wants each as it comes

    task = asyncio.create_task(collect())
    try:
        yield got
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_halts_and_resumptions_of_the_tape_reach_a_client() -> None:
    """The simulated market halts by LULD messages in nanoseconds, for five minutes; each arrives once."""
    async with serve(speed=60.0, start="2026-03-10T09:31:00", events_per_second=3_000.0) as simulator:
        app = App(config_for(simulator.port), ["all"])
        await app.start()
        try:
            async with listening(app.wds.port, "halts") as got:
                await eventually(lambda: any(item["event"] == "resumed" for item in got))
                resumed = next(item for item in got if item["event"] == "resumed")
                halted = next(i for i in got if (i["symbol"], i["event"]) == (resumed["symbol"], "halted"))
                keys = [(i["symbol"], i["event"], i["halt_timestamp"]) for i in got]
                assert len(keys) == len(set(keys))
                assert halted["halt_timestamp"] == resumed["halt_timestamp"]
                assert 4 * 60_000 < resumed["halted_ms"] < 6 * 60_000
                assert abs(halted["timestamp"] - halted["halt_timestamp"]) < 60_000, "both are milliseconds"
                assert (halted["status"], halted["source"]) == ("halted", "luld")
                assert 0 < halted["low_band"] < halted["high_band"]
                async with WdsClient(f"ws://127.0.0.1:{app.wds.port}/ws") as client:
                    row = await client.get(f"halt:{resumed['symbol']}")
                    assert row["halts_today"] >= 1
                    active = await client.get("halts:active")
                    assert all(one["status"] == "halted" for one in active)
                    assert await client.get("halts") != []
            _, text = await request("GET", app.metrics_server.port, "/metrics")
            assert 'mdp_halts_total{event="halted",source="luld"}' in text
            assert "mdp_halts_active " in text
            assert "mdp_halt_source_polls_total" not in text
        finally:
            await app.stop()


async def test_a_halt_of_another_listing_comes_from_the_list() -> None:
    """Asked of a real server, placed in market time, on the same feeds as the tape's."""
    async with serve(start="2026-03-10T12:00:00", symbols=300) as simulator, serving() as server:
        server.handler = server.good(document(item("GMEX", day="03/10/2026", time="11:55:00", code="T1")))
        config = config_for(simulator.port)
        config.halts = HaltsConfig(rss_url=server.url, poll_seconds=0.05)  # below what a file may say
        app = App(config, ["all"])
        await app.start()
        try:
            async with WdsClient(f"ws://127.0.0.1:{app.wds.port}/ws") as client:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    while (row := await client.get("halt:GMEX")) is None:  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
                assert (row["status"], row["source"], row["reason"]) == ("halted", "nasdaq", "news pending")
                noon = datetime(2026, 3, 10, 11, 55, tzinfo=NEW_YORK).timestamp() * 1000
                assert row["halt_timestamp"] == noon
                over = ("03/10/2026", "11:58:00", "11:59:00")
                text = item("GMEX", day="03/10/2026", time="11:55:00", code="T1", resumption=over)
                server.handler = server.good(document(text))
                async with asyncio.timeout(PATIENCE_SECONDS):
                    while (await client.get("halt:GMEX"))["status"] == "halted":  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
                mine = [i["event"] for i in await client.get("halts") if i["symbol"] == "GMEX"]
                assert mine == ["resumed", "halted"], "newest first, each once though polled many times"
            _, text = await request("GET", app.metrics_server.port, "/metrics")
            assert 'mdp_halt_source_polls_total{outcome="changed"}' in text
            assert 'mdp_halts_total{event="halted",source="nasdaq"} 1' in text
            queue = app.accounting()["queues"]["halt_notices"]
            assert queue["received"] == queue["processed"] + queue["waiting"]
            assert any(name == "halt_source" for name, _ in app.ready())
        finally:
            await app.stop()


async def test_a_list_that_fails_harms_nothing() -> None:
    """The platform is ready, and halts of the tape are all the same."""
    async with serve(symbols=300) as simulator, serving() as server:
        server.handler = server.good(b"", 500)
        config = config_for(simulator.port)
        config.halts = HaltsConfig(rss_url=server.url, poll_seconds=0.05)
        app = App(config, ["all"])
        await app.start()
        try:
            await eventually(lambda: app.halt_source is not None and sum(app.halt_source.polls.values()) > 1)
            health = dict(app.ready())["halt_source"]
            assert (health.ok, health.detail) == (True, "no list of halts: HTTP status 500")
        finally:
            await app.stop()


async def test_a_source_nobody_knows_is_refused_by_the_settings_name() -> None:
    """In one line that says what there is."""
    config = config_for(1)
    config.halts = HaltsConfig(rss_url="http://127.0.0.1:9/", source="nyse")
    with pytest.raises(StartError, match=r'halts\.source: found "nyse"; allowed: nasdaq_rss'):
        App(config, ["all"])
    config.halts = HaltsConfig(source="nyse")
    await App(config, ["all"]).stop()  # without an address nobody is asked, so nobody is looked for


async def test_after_kill_9_the_halted_are_halted_and_nothing_is_announced_twice(tmp_path: Path) -> None:
    """Killed while symbols are halted: the next process knows, and announces only what is new."""
    bench = Bench(tmp_path)
    try:
        port = free_port()
        await bench.simulator(port, "--speed", "60", "--start", "2026-03-10T09:31:00")
        seen: list[tuple[Any, ...]] = []
        active: set[str] = set()
        for run in range(2):
            process = bench.platform(port)
            wds = await port_of(process, "wds")
            async with WdsClient(f"ws://127.0.0.1:{wds}/ws") as client, listening(wds, "halts") as got:
                if run:
                    kept = [of(item) for item in await client.get("halts")]
                    assert set(seen) <= set(kept), "the list is there"
                    assert len(kept) == len(set(kept)), "each of them once"
                    for symbol in active:
                        assert (await client.get(f"halt:{symbol}"))["halts_today"] >= 1
                fresh = len(got)
                await eventually(lambda got=got, fresh=fresh: len(got) >= fresh + 3)  # type: ignore[misc]
                process.child.send_signal(signal.SIGSTOP)
                await asyncio.sleep(0.1)
                process.child.kill()
                await process.ended()
                await asyncio.sleep(0.1)
            active = {i["symbol"] for i in got if i["event"] == "halted"}
            seen += [of(item) for item in got]
        twice = {one for one in seen if seen.count(one) > 1}
        assert not twice
        assert len(seen) >= 6
    finally:
        for process in reversed(bench.processes):
            process.end()


def of(item: dict[str, Any]) -> tuple[Any, ...]:
    """What makes an announcement."""
    return item["symbol"], item["event"], item["halt_timestamp"]
