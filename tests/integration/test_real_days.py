"""Recorded real days through the whole platform, compared with values worked out independently.

`mdp simulate --replay` sends the recording over the provider's protocol at full speed; `mdp run` reads
it through the official client; a WebSocket client reads the results. Nothing may be lost on the way.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.integration.reference_model import Model, frames

DATA = Path(os.environ.get("MDPTEST_DATA") or Path(__file__).parents[2] / ".." / "shared" / "data")
MDP = str(Path(sys.executable).with_name("mdp"))
PATIENCE_SECONDS = 90.0  # a limit for something broken, not a measure
RELATIVE = 1e-9
BOARDS = {
    "scanners:top_volume": "accumulated_volume",
    "scanners:top_gappers": "pct_change",
    "scanners:top_gainers": "pct_change_since_open",
}


def recording(name: str) -> Path:
    """A recorded day, or a skip where there is none and none is required."""
    path = DATA / name
    if not path.exists():
        if os.environ.get("MDPTEST_REQUIRE_DATA") == "1":
            pytest.fail(f"{name} is required and not there")
        pytest.skip("no recorded data here")
    return path


class Process:
    """A command of ours, its output read until it names its ports."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MDP_")}
        self.process = subprocess.Popen(
            [MDP, *arguments],
            cwd=folder,
            env=environment | {"MASSIVE_API_KEY": "a-test-key"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.ports: dict[str, int] = {}
        self.lines: list[str] = []
        self._up = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            try:
                said = json.loads(line)
            except ValueError:
                continue
            if said.get("event") == "listening":
                self.ports[said["service"]] = said["port"]
            elif "port" in said and "event" not in said:
                self.ports["simulator"] = said["port"]
                self._up.set()
            elif said.get("event") == "started":
                self._up.set()
        self._up.set()

    def wait(self) -> None:
        """Until it is up."""
        assert self._up.wait(PATIENCE_SECONDS), self.lines
        assert self.process.poll() is None, self.lines

    def end(self) -> None:
        """End it as an operator would."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE_SECONDS) is not None
        self._reader.join(PATIENCE_SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()


class Replayed:
    """A recording that went through `mdp run` to its last event."""

    def __init__(self, folder: Path, path: Path, reference: dict[str, Any]) -> None:
        self.model = Model(reference)
        for frame in frames(path):
            self.model.feed(frame)
        simulator = Process(folder, "simulate", "--port", "0", "--replay", str(path), "--speed", "max")
        try:
            simulator.wait()
            address = f"127.0.0.1:{simulator.ports['simulator']}"
            ports = [w for name in ("wds", "scp", "metrics", "admin") for w in (f"--{name}-port", "0")]
            platform = Process(
                folder, "run", "--role", "all", "--massive-feed", address, "--massive-secure", "false",
                "--massive-rest-url", f"http://{address}", "--log-format", "json",
                "--cache-snapshot-path", str(folder / "snapshot"), *ports,
            )  # fmt: skip
            try:
                platform.wait()
                self.answers: dict[str, Any] = {}
                asyncio.run(self._read(platform))
            finally:
                platform.end()
        finally:
            simulator.end()

    async def _read(self, platform: Process) -> None:
        async with aiohttp.ClientSession() as session:
            queues = f"http://127.0.0.1:{platform.ports['admin']}/api/v1/queues"
            ready = f"http://127.0.0.1:{platform.ports['metrics']}/readyz"
            total = sum(self.model.counts.values())
            async with asyncio.timeout(PATIENCE_SECONDS):
                while True:
                    async with session.get(queues) as answer:
                        self.accounting = await answer.json()
                    done = sum(queue["processed"] for queue in self.accounting["queues"].values())
                    async with session.get(ready) as answer:
                        if done >= total and answer.status == 200:
                            break
                    await asyncio.sleep(0.1)
            await asyncio.sleep(6)  # top trades are worked out every five seconds
            url = f"http://127.0.0.1:{platform.ports['wds']}/ws"
            async with session.ws_connect(url, max_msg_size=0) as client:
                keys = [*BOARDS, "tta:all_symbols:widget", "daily_range_hod_alert", "daily_range_lod_alert"]
                for name in self.model.symbols:
                    keys += [f"quote:{name}", f"daily_range:{name}"]
                for key in keys:
                    await client.send_json({"action": "get", "cache": key})
                    self.answers[key] = (await client.receive_json(timeout=PATIENCE_SECONDS))["data"]


@pytest.fixture(scope="module")
def minutes(tmp_path_factory: pytest.TempPathFactory) -> Replayed:
    """99 symbols' minute bars of 2025-01-27."""
    path = recording("us-99-minute-2025-01-27.frames.gz")
    with gzip.open(DATA / "us-99-minute-2025-01-27.reference.json.gz", "rt") as file:
        reference = json.load(file)
    return Replayed(tmp_path_factory.mktemp("minutes"), path, reference)


@pytest.fixture(scope="module")
def ticks(tmp_path_factory: pytest.TempPathFactory) -> Replayed:
    """Trades, quotes and second bars of four symbols of 2013-10-07."""
    path = recording("ticks-4-2013-10-07.frames.gz")
    return Replayed(tmp_path_factory.mktemp("ticks"), path, {})


def agree(got: dict[str, Any], expected: dict[str, Any], where: str) -> None:
    """Every expected field is there with the expected value."""
    for name, value in expected.items():
        if isinstance(value, float) or isinstance(got.get(name), float):
            assert got[name] == pytest.approx(value, rel=RELATIVE, abs=1e-12), (where, name)
        else:
            assert got[name] == value, (where, name)


@pytest.fixture(params=["minutes", "ticks"])
def day(request: pytest.FixtureRequest) -> Replayed:
    """Each of the recorded days."""
    replayed: Replayed = request.getfixturevalue(request.param)
    return replayed


def test_every_event_is_accounted_for(day: Replayed) -> None:
    """Each event of the recording was decoded and processed; a replay at full speed sheds nothing."""
    accounting, counts = day.accounting, day.model.counts
    assert accounting["rejected"] == {}
    assert accounting["ring"]["shed_frames"] == 0
    queues = accounting["queues"]
    assert queues["aggregates"]["processed"] == counts["A"] + counts["AM"]
    assert queues["trades"]["processed"] == counts["T"]
    assert queues["quotes"]["processed"] == counts["Q"]
    for name, queue in queues.items():
        lost = queue["expired"] + queue["dropped"] + queue["waiting"]
        assert lost == 0, name
        assert queue["received"] == queue["processed"], name


def test_enriched_quotes_equal_the_reference_model(day: Replayed) -> None:
    """Every field of every symbol's quote, relative error 1e-9."""
    assert day.model.symbols
    for name in day.model.symbols:
        agree(day.answers[f"quote:{name}"], day.model.quote(name), name)


def test_boards_equal_the_reference_model(day: Replayed) -> None:
    """The same symbols in the same order with the same values, ranked from 1."""
    for feed, key in BOARDS.items():
        got, expected = day.answers[feed], day.model.board(key)
        assert [row["symbol"] for row in got] == [row["symbol"] for row in expected], feed
        assert [row["rank"] for row in got] == list(range(1, len(expected) + 1))
        for row, wanted in zip(got, expected, strict=True):
            agree(row, wanted, f"{feed} {row['symbol']}")


def test_daily_ranges_equal_the_reference_model(day: Replayed) -> None:
    """The six extremes of every symbol, null where a session had no print."""
    for name in day.model.symbols:
        got = day.answers[f"daily_range:{name}"]
        for field, value in day.model.ranges(name).items():
            assert got[field] == value, (name, field)


def test_alerts_equal_the_reference_model(day: Replayed) -> None:
    """The newest 1,000 highs and lows, newest first, with their notes and times."""
    for side, feed in (("high", "daily_range_hod_alert"), ("low", "daily_range_lod_alert")):
        expected = [alert for alert in day.model.alerts if alert["direction"] == side][::-1][:1000]
        got = day.answers[feed]
        assert len(got) == len(expected)
        for alert, wanted in zip(got, expected, strict=True):
            start = wanted.pop("start")
            assert {name: alert[name] for name in wanted} == wanted
            assert alert["timestamp"] == start / 1000
            wanted["start"] = start


def test_top_trades_equal_the_reference_model(ticks: Replayed) -> None:
    """Statistics of each symbol's last 1,000 trades in order of arrival."""
    got = ticks.answers["tta:all_symbols:widget"]
    expected = ticks.model.top_trades()
    assert len(expected) == 4
    assert got["symbol_count"] == len(expected)
    assert got["symbols"] == expected
