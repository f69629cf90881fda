"""`mdp run` as a process: signals, kills, restarts and refused starts, as an operator sees them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from websockets.asyncio.client import connect

from mdp.client import WdsClient

from .app_support import PATIENCE_SECONDS, SECRET, request
from .ports import free_port

SIDES = ("daily_range_hod_alert", "daily_range_lod_alert")


class Process:
    """A child of this test with its output collected; ended with the test whatever happens."""

    def __init__(self, *arguments: str, cwd: Path, **environment: str) -> None:
        # A variable of the developer's shell must not change what is tested.
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("MDP_", "MASSIVE_", "POLYGON_"))}
        self.child = subprocess.Popen(
            [sys.executable, "-u", *arguments],
            cwd=cwd,
            env={**clean, "PYTHONPATH": str(Path(__file__).parent.parent), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert self.child.stdout is not None
        os.set_blocking(self.child.stdout.fileno(), False)
        self.output = ""

    def read(self) -> str:
        """Everything printed so far."""
        assert self.child.stdout is not None
        with contextlib.suppress(ValueError):
            self.output += (self.child.stdout.read() or b"").decode()
        return self.output

    async def until(self, pattern: str) -> re.Match[str]:
        """Wait until the output holds a pattern."""
        until = time.monotonic() + PATIENCE_SECONDS
        while (found := re.search(pattern, self.read())) is None:
            assert self.child.poll() is None, f"ended: {self.output}"
            assert time.monotonic() < until, f"no {pattern!r} in: {self.output}"
            await asyncio.sleep(0.02)
        return found

    async def ended(self) -> int:
        """Its exit code."""
        until = time.monotonic() + PATIENCE_SECONDS
        while self.child.poll() is None:
            assert time.monotonic() < until, f"still runs: {self.read()}"
            await asyncio.sleep(0.01)
        self.read()
        return int(self.child.returncode)

    def end(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()
        assert self.child.stdout is not None
        self.child.stdout.close()


class Bench:
    """Starts the processes of one test in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[Process] = []

    def start(self, *arguments: str, **environment: str) -> Process:
        process = Process(*arguments, cwd=self.folder, **environment)
        self.processes.append(process)
        return process

    async def simulator(self, port: int, *arguments: str) -> Process:
        process = self.start(
            "-m", "mdp.simulator", "--port", str(port), "--symbols", "300", "--rate", "3000", *arguments
        )  # fmt: skip
        await process.until(r'\{"host"')
        return process

    def platform(self, port: int, *arguments: str) -> Process:
        return self.start(
            "-c", "from mdp.cli import main; main()", "run", "--role", "all", *NO_PORTS, *arguments,
            MDP_MASSIVE_FEED=f"127.0.0.1:{port}",
            MDP_MASSIVE_REST_URL=f"http://127.0.0.1:{port}",
            MDP_MASSIVE_SECURE="false",
            MDP_MASSIVE_BACKOFF_MAX_SECONDS="1",
            MDP_CACHE_SNAPSHOT_PATH=str(self.folder / "kept" / "mdp"),
            MDP_CACHE_SNAPSHOT_SECONDS="2",
            MDP_LOG_FORMAT="json",
            MASSIVE_API_KEY=SECRET,
        )  # fmt: skip


NO_PORTS = ["--wds-port", "0", "--scp-port", "0", "--metrics-port", "0", "--admin-port", "0"]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    for process in reversed(bench.processes):
        process.end()


async def port_of(process: Process, service: str) -> int:
    """Where a service of a platform listens."""
    await process.until('"event": ?"started"')
    for line in process.output.splitlines():
        if line.startswith("{"):
            entry = msgspec.json.decode(line)
            if entry.get("event") == "listening" and entry.get("service") == service:
                return int(entry["port"])
    raise AssertionError(process.output)


def of(alert: dict[str, Any]) -> tuple[Any, ...]:
    return alert["symbol"], alert["session"], alert["direction"], alert["price"]


@asynccontextmanager
async def alerts(port: int) -> AsyncIterator[list[dict[str, Any]]]:
    """Every alert a client gets over WebSocket, and before those the lists."""
    got: list[dict[str, Any]] = []

    async def collect() -> None:
        with contextlib.suppress(Exception):  # the process is killed under us
            async for message in ws:
                value = msgspec.json.decode(message)
                if "direction" in value:
                    got.append(value)

    async with connect(f"ws://127.0.0.1:{port}/ws", proxy=None, max_size=None) as ws:
        for side in SIDES:
            await ws.send(msgspec.json.encode({"action": "subscribe", "feed": side}).decode())
        task = asyncio.create_task(collect())
        try:
            yield got
        finally:
            task.cancel()


async def board(client: WdsClient) -> list[dict[str, Any]]:
    rows = await client.get("scanners:top_volume", limit=50)
    return list(rows or [])


async def wait_for(got: list[Any], count: int) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(got) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_after_kill_9_nothing_is_announced_twice_and_no_board_is_empty(bench: Bench) -> None:
    """Killed in full flow, started again while the market goes on: at once as before, and no alert twice."""
    port = free_port()
    await bench.simulator(port, "--speed", "5", "--start", "2026-03-10T10:00:00")
    seen: list[dict[str, Any]] = []
    highs: dict[str, float] = {}
    kept: list[tuple[Any, ...]] = []
    for run in range(3):
        process = bench.platform(port)
        wds = await port_of(process, "wds")
        async with WdsClient(f"ws://127.0.0.1:{wds}/ws") as client, alerts(wds) as got:
            if run:
                assert len(await board(client)) > 20, "the first board a client gets is not empty"
                lists = [of(alert) for side in SIDES for alert in await client.get(side)]
                assert set(kept) <= set(lists), "the lists of alerts are there"
                assert len(lists) == len(set(lists)), "each of them once"
                ranges = {symbol: await client.get(f"daily_range:{symbol}") for symbol in highs}
                # A symbol that was first seen after the last snapshot has no quote before its next bar.
                shown = {symbol: value for symbol, value in ranges.items() if value is not None}
                assert len(shown) > 0.8 * len(highs)
                for symbol, value in shown.items():
                    assert value["regular_session_high"] >= highs[symbol], symbol
            await wait_for(got, 30)
            await asyncio.sleep(1.5 if run else 3)  # the first life is killed after a snapshot, others before
            process.child.send_signal(signal.SIGSTOP)  # what is in the sockets is all that was announced
            await asyncio.sleep(0.1)
            process.child.kill()
            await process.ended()
            await asyncio.sleep(0.1)
            seen += got
        kept = [of(alert) for alert in got]
        highs = {alert["symbol"]: alert["price"] for alert in got if alert["direction"] == "high"}
        assert SECRET not in process.output

    announced = [of(alert) for alert in seen]
    assert len(announced) > 90
    twice = {alert for alert in announced if announced.count(alert) > 1}
    assert not twice
    for path in (bench.folder / "kept").iterdir():
        assert SECRET.encode() not in path.read_bytes()


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_cleanly_with_a_snapshot(bench: Bench, sign: signal.Signals) -> None:
    """Exit code 0, every stage stopped as it should, and the next start finds everything."""
    port = free_port()
    await bench.simulator(port, "--start", "2026-03-10T10:00:00")
    process = bench.platform(port, "--cache-snapshot-seconds", "3600")
    wds = await port_of(process, "wds")
    async with alerts(wds) as got:
        await wait_for(got, 3)
    process.child.send_signal(sign)

    assert await process.ended() == 0
    assert "stop_failed" not in process.output
    names = [path.name for path in (bench.folder / "kept").iterdir()]
    assert any(name.endswith(".snapshot") for name in names)
    assert "Traceback" not in process.output
    assert SECRET not in process.output


async def test_the_second_signal_ends_it_at_once(bench: Bench) -> None:
    """Whatever the first one waits for."""
    port = free_port()
    await bench.simulator(port)
    process = bench.platform(port)
    await port_of(process, "wds")
    process.child.send_signal(signal.SIGSTOP)  # both signals are there before either is handled
    process.child.send_signal(signal.SIGINT)
    process.child.send_signal(signal.SIGTERM)
    process.child.send_signal(signal.SIGCONT)

    assert await process.ended() == 130


async def test_an_address_in_use_is_refused_in_one_line(bench: Bench) -> None:
    """Exit code not 0, the address is named, and the simulated market of a demo ends, too."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = bench.start(
            "-c", "from mdp.cli import main; main()", "run", "--demo",
            *NO_PORTS, "--wds-port", str(port),
            MDP_LOG_FORMAT="json",
        )  # fmt: skip
        assert await process.ended() not in (0, 2)
    (line,) = [line for line in process.output.splitlines() if "not_started" in line]
    assert str(port) in line
    assert "Traceback" not in process.output
    assert _simulators(bench.folder) == []


async def demo(bench: Bench) -> tuple[Process, int]:
    """A demo and the process id of its simulated market."""
    process = bench.start(
        "-c", "from mdp.cli import main; main()", "run", "--demo", *NO_PORTS, MDP_LOG_FORMAT="json"
    )
    await process.until('"event": ?"started"')
    (child,) = await asyncio.to_thread(_simulators, bench.folder)
    return process, child


def _simulators(folder: Path) -> list[int]:
    """Simulators whose working folder is that of the test."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes().split(b"\0")
            if b"mdp.simulator" in command and (process / "cwd").resolve() == folder.resolve():
                found.append(int(process.name))
    return found


async def _gone(folder: Path) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while _simulators(folder):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@pytest.mark.skipif(
    not Path("/proc").is_dir() and os.environ.get("CI") != "true", reason="looks for processes in /proc"
)
@pytest.mark.parametrize("how", ["once", "twice", "kill"])
async def test_a_demo_takes_its_simulated_market_along(bench: Bench, how: str) -> None:
    """However it ends, Ctrl-C, twice, or `kill -9`: no simulator stays behind and eats a core for ever."""
    process, child = await demo(bench)
    try:
        process.child.send_signal(signal.SIGKILL if how == "kill" else signal.SIGINT)
        if how == "twice":
            process.child.send_signal(signal.SIGTERM)
        await process.ended()
        await _gone(bench.folder)
        assert not (bench.folder / "var").exists(), "a demo keeps nothing over a restart"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


async def test_ports_given_as_0_are_printed_and_serve(bench: Bench) -> None:
    """Whoever starts it learns where everything is."""
    port = free_port()
    await bench.simulator(port)
    process = bench.platform(port)
    for service, path in (("metrics", "/healthz"), ("admin", "/api/v1/status"), ("scp", "/")):
        status, _ = await request("GET", await port_of(process, service), path)
        assert status == 200, service
