"""Recordings sent through `mdp simulate --replay` and `mdp run` as processes, and what comes out.

The simulator speaks the provider's protocol at full speed; the platform reads it through the official
client; a WebSocket client reads the results. Answers are compared with the reference model's.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Set
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.integration.reference_model import BOARDS, Model, frames

MDP = str(Path(sys.executable).with_name("mdp"))
PATIENCE_SECONDS = 90.0  # a limit for something broken, not a measure
RELATIVE = 1e-9
TOP_TRADES = "tta:all_symbols:widget"
ALERT_LISTS = {"high": "daily_range_hod_alert", "low": "daily_range_lod_alert"}
LISTED = 1_000
#: Top trades are worked out every five seconds.
SETTLED_SECONDS = 8.0
OPEN_FIELDS = {"open", "change_since_open", "pct_change_since_open", "official_open_price"}
#: Fields of alerts that follow from reference values, which arrive while the replay runs.
REFERENCE_FIELDS = {
    "free_float", "relative_volume", "avg_volume", "avg_volume_days", "prev_day_close", "prev_day_open",
    "prev_day_high", "prev_day_low", "prev_day_vwap", "prev_day_volume", "change", "pct_change",
}  # fmt: skip


MINUTES_AGO = ("pct_change_1m", "pct_change_5m", "pct_change_15m", "pct_change_30m")


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
        """End it as an operator would; a killed one is only waited for."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE_SECONDS) is not None
        self._reader.join(PATIENCE_SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def kill(self) -> None:
        """`kill -9`."""
        self.process.kill()
        self.end()


def reference_of(path: Path) -> dict[str, Any]:
    """The reference values beside a recording; empty where there are none."""
    found = path.with_name(path.name.removesuffix(".frames.gz") + ".reference.json.gz")
    if not found.exists():
        return {}
    with gzip.open(found, "rt") as file:
        reference: dict[str, Any] = json.load(file)
    return reference


@contextlib.contextmanager
def replaying(folder: Path, path: Path, *, port: int = 0, speed: str = "max") -> Iterator[str]:
    """The address of a simulator that sends a recording once somebody has subscribed."""
    simulator = Process(folder, "simulate", "--port", str(port), "--replay", str(path), "--speed", speed)
    try:
        simulator.wait()
        yield f"127.0.0.1:{simulator.ports['simulator']}"
    finally:
        simulator.end()


def provider_ms(address: str) -> float:
    """The provider's own time: arrival of the last frame that the replayer sent."""
    request = urllib.request.Request(
        f"http://{address}/v1/marketstatus/now", headers={"Authorization": "Bearer a-test-key"}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
        return datetime.fromisoformat(json.load(answer)["serverTime"]).timestamp() * 1000


@contextlib.contextmanager
def platform(folder: Path, address: str, *flags: str) -> Iterator[Process]:
    """`mdp run` on a simulator, its snapshot in the folder."""
    ports = [word for name in ("wds", "scp", "metrics", "admin") for word in (f"--{name}-port", "0")]
    process = Process(
        folder, "run", "--role", "all", "--massive-feed", address, "--massive-secure", "false",
        "--massive-rest-url", f"http://{address}", "--log-format", "json",
        "--cache-snapshot-path", str(folder / "snapshot"), *flags, *ports,
    )  # fmt: skip
    try:
        process.wait()
        yield process
    finally:
        process.end()


class Answers:
    """What a platform that has processed everything says.

    Args:
        process: The platform.
        model: What it should say; not changed.
        total: Events that this process was sent.
        waits: Until the windows of trades are those of the model.
    """

    def __init__(self, process: Process, model: Model, total: int, *, waits: bool = True) -> None:
        self.model = model
        self._top = model.top_trades() if waits else {}
        self.accounting: dict[str, Any] = {}
        self.feeds: dict[str, Any] = {}
        asyncio.run(self._read(process, total))

    async def _read(self, process: Process, total: int) -> None:
        async with aiohttp.ClientSession() as session:
            self.accounting = await processed(session, process, total)
            url = f"http://127.0.0.1:{process.ports['wds']}/ws"
            async with session.ws_connect(url, max_msg_size=0) as client:

                async def get(feed: str) -> Any:
                    await client.send_json({"action": "get", "cache": feed})
                    return (await client.receive_json(timeout=PATIENCE_SECONDS))["data"]

                await _settled(get, self._top)
                keys = [*BOARDS, TOP_TRADES, *ALERT_LISTS.values()]
                for name in self.model.symbols:
                    keys += [f"quote:{name}", f"daily_range:{name}"]
                for name in self.model.trades.prints:
                    keys += [f"tta:{name}:widget", f"trade_stats:{name}"]
                for key in keys:
                    self.feeds[key] = await get(key)


async def _settled(get: Callable[[str], Awaitable[Any]], top: dict[str, Any]) -> None:
    """Top trades are as expected and no reference value is pending, or both have had the time to be so."""
    for _ in range(int(SETTLED_SECONDS / 0.2)):
        pending = any(row["pending"] for row in await get("scanners:top_volume"))
        if not pending and (not top or ((await get(TOP_TRADES)) or {}).get("symbols") == top):
            return
        await asyncio.sleep(0.2)


async def processed(session: aiohttp.ClientSession, process: Process, total: int) -> dict[str, Any]:
    """The accounting of a platform once it is ready and has processed that many events."""
    queues = f"http://127.0.0.1:{process.ports['admin']}/api/v1/queues"
    ready = f"http://127.0.0.1:{process.ports['metrics']}/readyz"
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            async with session.get(queues) as answer:
                accounting: dict[str, Any] = await answer.json()
            done = sum(queue["processed"] for queue in accounting["queues"].values())
            async with session.get(ready) as answer:
                if done >= total and answer.status == 200:
                    return accounting
            await asyncio.sleep(0.1)


async def kept(process: Process, total: int) -> None:
    """Until a platform has processed that many events and written a snapshot that was begun afterwards."""
    metrics = f"http://127.0.0.1:{process.ports['metrics']}/metrics"

    async with aiohttp.ClientSession() as session:

        async def snapshots() -> float:
            async with session.get(metrics) as answer:
                text = await answer.text()
            return float(re.findall(r"^mdp_snapshots_total(?:{[^}]*})? (\S+)$", text, re.MULTILINE)[0])

        await processed(session, process, total)
        enough = await snapshots() + 2  # one may be under way
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                if await snapshots() >= enough:
                    return
                await asyncio.sleep(0.1)


async def repaired(process: Process, end_ms: float) -> dict[str, Any]:
    """The restart's entry in the gap ledger, once it is closed and the market has come to its end."""
    gaps = f"http://127.0.0.1:{process.ports['admin']}/api/v1/gaps"
    async with aiohttp.ClientSession() as session, asyncio.timeout(PATIENCE_SECONDS):
        url = f"http://127.0.0.1:{process.ports['wds']}/ws"
        async with session.ws_connect(url) as client:
            while True:
                async with session.get(gaps) as answer:
                    entries = [gap for gap in (await answer.json())["gaps"] if gap["reason"] == "restart"]
                await client.send_json({"action": "get", "cache": "market:status"})
                status = (await client.receive_json(timeout=PATIENCE_SECONDS))["data"]
                over = entries and entries[0]["repair"] in ("done", "partial", "failed", "off")
                if over and status and status["market_time"] >= end_ms:
                    found: dict[str, Any] = entries[0]
                    return found
                await asyncio.sleep(0.2)


def replayed(folder: Path, path: Path) -> Answers:
    """A recording sent through the platform to its last event."""
    model = Model(reference_of(path))
    for frame in frames(path):
        model.feed(frame)
    with replaying(folder, path) as address, platform(folder, address) as process:
        return Answers(process, model, sum(model.counts.values()))


def agree(got: dict[str, Any], expected: dict[str, Any], where: str, *, but: Set[str] = frozenset()) -> None:
    """Every expected field `but` some is there with the expected value."""
    assert got is not None, where
    for name, value in expected.items():
        if name in but:
            continue
        assert name in got, (where, name)
        if isinstance(value, float) or isinstance(got[name], float):
            assert got[name] == pytest.approx(value, rel=RELATIVE, abs=1e-12), (where, name)
        else:
            assert got[name] == value, (where, name)


def all_accounted_for(answers: Answers) -> None:
    """Each event that was sent was decoded and processed; a replay at full speed sheds nothing."""
    accounting, counts = answers.accounting, answers.model.counts
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


def quotes_agree(answers: Answers, but: Set[str] = frozenset()) -> None:
    """Every field of every symbol's quote."""
    assert answers.model.symbols
    for name in answers.model.symbols:
        agree(answers.feeds[f"quote:{name}"], answers.model.quote(name), name, but=but)


def boards_agree(answers: Answers, but: Set[str] = frozenset()) -> None:
    """The same symbols in the same order with the same values."""
    for feed, (key, _, _) in BOARDS.items():
        if key in but:
            continue
        got, expected = answers.feeds[feed], answers.model.board(feed)
        assert [row["symbol"] for row in got] == [row["symbol"] for row in expected], feed
        for row, wanted in zip(got, expected, strict=True):
            agree(row, wanted, f"{feed} {row['symbol']}", but=but)


def ranges_agree(answers: Answers, but: Set[str] = frozenset()) -> None:
    """Every field of every daily range, null where a session had no print."""
    for name in answers.model.symbols:
        agree(answers.feeds[f"daily_range:{name}"], answers.model.ranges(name), f"range {name}", but=but)


def alerts_agree(answers: Answers) -> None:
    """The newest 1,000 highs and lows, newest first, each with the quote of its moment."""
    for side, feed in ALERT_LISTS.items():
        expected = [alert for alert in answers.model.alerts if alert["direction"] == side][::-1][:LISTED]
        got = answers.feeds[feed]
        assert [_named(alert) for alert in got] == [_named(alert) for alert in expected], feed
        for alert, wanted in zip(got, expected, strict=True):
            agree(alert, _certain(alert, wanted), f"{feed} {_named(wanted)}")


def _named(alert: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(alert[name] for name in ("symbol", "session", "timestamp", "price", "previous", "note"))


def _certain(alert: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """What the model can know of an alert.

    Reference values come over REST while the replay runs, trades go another way than bars, and at 09:30 the
    quote's open depends on how many events the process took at once.
    """
    left_out = {"clock_ms", "trade_count", "pending"}
    # Half an hour of prices is kept, up to the newest of the bars taken at once: at full speed the alert's
    # bar may be many minutes older, and what was before it is not known any more.
    left_out |= {name for name in MINUTES_AGO if not alert[name]}
    if not alert["prev_day_close"] or not alert["avg_volume"] or not alert["free_float"]:
        left_out |= REFERENCE_FIELDS
    local = wanted["clock_ms"] / 60_000 % 60
    if 25 <= local <= 45:
        left_out |= OPEN_FIELDS
    return {name: value for name, value in wanted.items() if name not in left_out}


def trades_agree(answers: Answers) -> None:
    """Windows and days of trades."""
    model = answers.model
    got, expected = answers.feeds[TOP_TRADES], model.top_trades()
    if not expected:
        assert got is None
        return
    assert got["symbol_count"] == len(expected)
    assert set(got["symbols"]) == set(expected)
    for name, stats in expected.items():
        agree(got["symbols"][name], stats, f"top trades {name}")
        agree(answers.feeds[f"tta:{name}:widget"], {**stats, "symbol": name}, f"tta:{name}:widget")
    for name in model.trades.prints:
        agree(answers.feeds[f"trade_stats:{name}"], model.trades.day(name), f"trade_stats:{name}")
