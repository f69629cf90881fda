"""The feeder as its clients see it: a plain websockets client, and the official one."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from massive import WebSocketClient
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from mdp.bench import control
from mdp.bench.feeder import Feeder
from mdp.bench.frames import FrameOptions
from tests.waiting import eventually

ALL = "A.*,AM.*,T.*,Q.*,LULD.*"


def make_options(**changes: Any) -> control.FeederOptions:
    frames = FrameOptions(symbols=50, events_per_frame=20)
    return control.FeederOptions(**{"frames": frames, "pool_events": 2_000, **changes})


class Running:
    """A started feeder and where it listens."""

    def __init__(self, feeder: Feeder, ready: control.Ready) -> None:
        self.feeder, self.ready = feeder, ready

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.ready.ws_port}/stocks"

    async def ask(self, command: control.Command) -> control.Report:
        report = await asyncio.wait_for(self.feeder.obey(command), 20)
        assert report is not None
        return report


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    feeder = Feeder(make_options())
    yield Running(feeder, await feeder.start())
    await feeder.stop()


async def subscribed(socket: ClientConnection, params: str = ALL) -> list[Any]:
    """Log in and subscribe; all statuses in order."""
    said: list[Any] = json.loads(await socket.recv())
    await socket.send(json.dumps({"action": "auth", "params": "key"}))
    said += json.loads(await socket.recv())
    await socket.send(json.dumps({"action": "subscribe", "params": params}))
    said += json.loads(await socket.recv())
    return said


async def events_until_closed(socket: ClientConnection, found: Counter[str]) -> None:
    """Count events received by type until the connection is closed."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            found.update(event["ev"] for event in json.loads(await socket.recv()))


def by_type(sent: control.Sent) -> Counter[str]:
    return Counter({"T": sent.trades, "Q": sent.quotes, "A": sent.aggregates})


async def test_it_speaks_the_providers_protocol(running: Running) -> None:
    """Connected, authenticated, and an ack for each pair."""
    async with connect(running.url) as socket:
        said = await subscribed(socket)

    assert [status["status"] for status in said] == ["connected", "auth_success"] + ["success"] * 5
    assert said[2]["message"] == "subscribed to: A.*"


async def test_what_it_counts_as_sent_is_what_a_client_received(running: Running) -> None:
    """The fill, a closed and an open loop: the counts by type are exactly the client's."""
    async with connect(running.url, max_size=None, max_queue=None) as socket:
        await subscribed(socket)
        received: Counter[str] = Counter()
        receiving = asyncio.create_task(events_until_closed(socket, received))

        filled = await running.ask(control.Fill(full_windows=2, window_events=0))
        await running.feeder.obey(control.Closed(window_events=5_000))
        paused = await running.ask(control.Pause())
        report = await running.ask(control.Open(events_per_second=20_000, seconds=0.2))

        await eventually(lambda: received.total() >= by_type(report.sent).total())
    await receiving
    assert received == by_type(report.sent)
    assert filled.sent.trades == 50 + 2 * 1_100
    assert report.sent.events - paused.sent.events == 4_000
    assert (report.cut, report.connections, report.sent.acks) == ("", 1, 1)


async def test_the_window_holds_it_back_until_credit_comes(running: Running) -> None:
    """It sends no more than the window ahead of the credit, to within a frame, and goes on with credit."""
    async with connect(running.url, max_size=None, max_queue=None) as socket:
        await subscribed(socket)
        await running.feeder.obey(control.Closed(window_events=100))
        await asyncio.sleep(0.05)
        first = (await running.ask(control.Ask())).sent.events
        await running.feeder.obey(control.Credit(60))
        await asyncio.sleep(0.05)
        second = (await running.ask(control.Ask())).sent.events
        await running.ask(control.Pause())

    assert first == 100
    assert second == 160


async def test_a_slow_reader_is_cut_with_1008() -> None:
    """In open loop, a reader behind by more than the limit is closed as at the provider, and that is said."""
    feeder = Feeder(make_options(slow_consumer_bytes=2_000_000))
    running = Running(feeder, await feeder.start())
    try:
        async with connect(running.url, max_size=None, max_queue=1, ping_interval=None) as socket:
            await subscribed(socket)
            report = await running.ask(control.Open(events_per_second=400_000, seconds=30))
            assert report.cut
            assert report.most_waiting_bytes > 2_000_000
            received: Counter[str] = Counter()
            await events_until_closed(socket, received)
            with pytest.raises(ConnectionClosed) as closed:
                await socket.recv()
    finally:
        await feeder.stop()

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1008
    assert 0 < received.total() < report.sent.events


async def test_open_loop_maps_due_times_to_market_times(running: Running) -> None:
    """Market time goes on with the due times: 0.2 s of frames span 0.2 s, after the phase before."""
    async with connect(running.url, max_size=None, max_queue=None) as socket:
        await subscribed(socket)
        await running.ask(control.Open(events_per_second=10_000, seconds=0.1))
        await running.ask(control.Open(events_per_second=10_000, seconds=0.2))
        times = []
        for _ in range(50 + 100):
            events = json.loads(await socket.recv())
            times.append({event.get("t") or event["s"] for event in events})

    assert all(len(time) == 1 for time in times)
    flat = [time.pop() for time in times]
    assert flat == sorted(flat)
    assert flat[-1] - flat[50] == 198
    assert flat[50] > flat[49]


async def test_the_official_client_reads_it(running: Running) -> None:
    """Massive's own client in raw mode connects, logs in and receives every frame."""
    client = WebSocketClient(
        api_key="key",
        feed=f"127.0.0.1:{running.ready.ws_port}",
        secure=False,
        raw=True,
        subscriptions=ALL.split(","),
        max_reconnects=0,
    )
    received: Counter[str] = Counter()
    complete = asyncio.Event()

    async def take(frame: str | bytes) -> None:
        received.update(event["ev"] for event in json.loads(frame) if event["ev"] != "status")
        if received.total() == 1_000:
            complete.set()

    task = asyncio.create_task(client.connect(take, max_size=None))
    try:
        report = await running.ask(control.Open(events_per_second=5_000, seconds=0.2))
        await asyncio.wait_for(complete.wait(), 60)
    finally:
        task.cancel()

    assert received == by_type(report.sent)


async def test_rest_answers_what_a_starting_platform_asks(running: Running) -> None:
    """The market is open in market time, every symbol has a previous day, and the rest is 404."""
    url = f"http://127.0.0.1:{running.ready.rest_port}"
    async with aiohttp.ClientSession(url) as session:

        async def get(path: str) -> Any:
            async with session.get(path) as response:
                return await response.json()

        status = await get("/v1/marketstatus/now")
        grouped = await get("/v2/aggs/grouped/locale/us/market/stocks/2026-03-09")
        snapshot = await get("/v2/snapshot/locale/us/markets/stocks/tickers")
        floats = await get("/stocks/vX/float")
        async with session.get("/v3/nothing") as response:
            assert response.status == 404

    assert (status["market"], status["serverTime"]) == ("open", "2026-03-10T10:30:00-04:00")
    assert len(grouped["results"]) == len(snapshot["tickers"]) == len(floats["results"]) == 50
    assert all(row["c"] > 0 and row["v"] > 0 for row in grouped["results"])
    assert all(row["prevDay"]["c"] > 0 for row in snapshot["tickers"])


async def test_a_failed_command_is_reported_not_fatal(running: Running) -> None:
    """Clients that cannot connect are an error in the report that the command is due."""
    command = control.Connect(port=1, count=1, quotes=1)
    try:
        await running.feeder.obey(command)
    except OSError as exc:
        report = running.feeder.failed(command, exc)

    assert report is not None
    assert report.re == "connect"
    assert report.error.startswith("connect: ConnectionRefusedError")
