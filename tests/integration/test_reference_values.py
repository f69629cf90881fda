"""Reference values through the whole platform: over 04:00, over a restart, and from a provider that fails."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import date, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from mdp.sessions import NEW_YORK, sessions_before
from tests.cache.provider import Provider, cut_off, serving
from tests.integration.replay_rig import PATIENCE_SECONDS, Process

YESTERDAY, TODAY = date(2026, 3, 10), date(2026, 3, 11)
PREFETCH_SECONDS = 8.0  # of the recording, between its last print before 04:00 and the first one after
REFERENCE_PATHS = (
    "/v2/snapshot/locale/us/markets/stocks/tickers",
    "/v2/aggs/grouped/locale/us/market/stocks/{date}",
    "/stocks/vX/float",
    "/stocks/v1/splits",
)


def ms(day: date, clock: str) -> int:
    """Epoch ms of a New York time."""
    return round(datetime.fromisoformat(f"{day}T{clock}").replace(tzinfo=NEW_YORK).timestamp() * 1000)


def minute(symbol: str, start: int, price: float, accumulated: int) -> dict[str, Any]:
    """A minute bar as on the wire."""
    bar = {"o": price, "c": price, "h": price, "l": price, "vw": price, "a": price}
    return {
        "ev": "AM",
        "sym": symbol,
        "v": accumulated,
        "av": accumulated,
        **bar,
        "z": 10,
        "s": start,
        "e": start + 60_000,
    }


def record(path: Path, frames: list[tuple[float, list[dict[str, Any]]]]) -> None:
    """A recording of frames with their arrival in seconds."""
    begin = ms(YESTERDAY, "19:58:00") * 1_000_000
    with gzip.open(path, "wt") as file:
        for seconds, events in frames:
            file.write(f"{begin + int(seconds * 1e9)}\t{json.dumps(events)}\n")


class Listings(Provider):
    """REST for five symbols: a reverse split today, a listing 5 days old, one absent from the snapshot."""

    def __init__(self) -> None:
        super().__init__()
        self.answers["/v2/aggs/grouped"] = self.grouped
        self.answers["/v2/snapshot"] = json.dumps(
            {"status": "OK", "tickers": [self.ticker(name) for name in ("SPLT", "YNG", "AAA", "BBB")]}
        ).encode()
        floats = [
            {"ticker": name, "free_float": 1_000_000, "effective_date": "2026-03-01"}
            for name in ("SPLT", "YNG")
        ]
        self.answers["/stocks/vX/float"] = json.dumps({"status": "OK", "results": floats}).encode()
        split = {"ticker": "SPLT", "execution_date": str(TODAY), "split_from": 10, "split_to": 1}
        self.answers["/stocks/v1/splits"] = self.splits
        self.split = split

    @staticmethod
    def ticker(name: str) -> dict[str, Any]:
        """A snapshot's row; which session its previous day is of, it does not say."""
        return {"ticker": name, "prevDay": {"o": 5, "h": 5, "l": 5, "c": 5, "v": 9, "vw": 5}}

    async def splits(self, request: web.Request) -> bytes:
        """The split is known from its own day on: nobody may rest on what yesterday's answer held."""
        known = request.query["execution_date.lte"] >= str(TODAY)
        return json.dumps({"status": "OK", "results": [self.split] if known else []}).encode()

    async def grouped(self, request: web.Request) -> bytes:
        """As traded: the split's closes are the old ones, whatever is asked for."""
        day = date.fromisoformat(request.path.rpartition("/")[2])
        rows = [("SPLT", 5.0, 40_000), ("GONE", 20.0, 3_000), ("AAA", 5.0, 100), ("BBB", 5.0, 100)]
        if day in sessions_before(TODAY, 5):
            rows.append(("YNG", 8.0, 1_000 if day < YESTERDAY else 6_000))
        results = [
            {"T": name, "o": close, "h": close, "l": close, "c": close, "v": volume, "vw": close}
            for name, close, volume in rows
        ]
        return json.dumps({"status": "OK", "adjusted": False, "results": results}).encode()


@asynccontextmanager
async def run(folder: Path, feed: int, rest: str, *more: str) -> AsyncIterator[Process]:
    """`mdp run` on a feed's port and a REST address; ended at the end."""
    ports = [word for name in ("wds", "scp", "metrics", "admin") for word in (f"--{name}-port", "0")]
    process = Process(
        folder, "run", "--role", "all", "--massive-feed", f"127.0.0.1:{feed}", "--massive-secure", "false",
        "--massive-rest-url", rest, "--log-format", "json", *ports, *more,
    )  # fmt: skip
    try:
        await asyncio.to_thread(process.wait)
        yield process
    finally:
        await asyncio.to_thread(process.end)


@asynccontextmanager
async def simulate(folder: Path, *arguments: str) -> AsyncIterator[Process]:
    """`mdp simulate` on a free port; ended at the end."""
    process = Process(folder, "simulate", "--port", "0", *arguments)
    try:
        await asyncio.to_thread(process.wait)
        yield process
    finally:
        await asyncio.to_thread(process.end)


async def get_json(session: aiohttp.ClientSession, port: int, path: str) -> Any:
    """An answer of ours."""
    async with session.get(f"http://127.0.0.1:{port}{path}") as answer:
        return await answer.json(content_type=None)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for a condition; fails by time-out where it never holds."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await condition():  # noqa: ASYNC110 - it is another process's
            await asyncio.sleep(0.1)


def recorded_days() -> Iterator[tuple[float, list[dict[str, Any]]]]:
    """Evening, the hours before 04:00 by a few late prints, then the new day's first bar of each symbol."""
    names = ("SPLT", "YNG", "GONE", "AAA", "BBB")
    for second in range(3):
        at = ms(YESTERDAY, f"19:5{7 + second}:00")
        yield second, [minute(name, at, 5.5, 100 * (second + 1)) for name in names]
    at = ms(TODAY, "03:36:00")
    yield 3, [minute(name, at, 5.6, 500) for name in names]
    at = ms(TODAY, "04:00:00")
    prices = {"SPLT": 55.0, "YNG": 10.0, "GONE": 25.0, "AAA": 5.0, "BBB": 5.0}
    yield 3 + PREFETCH_SECONDS, [minute(name, at, price, 1_000) for name, price in prices.items()]


async def test_the_first_bar_after_four_has_the_new_days_values(tmp_path: Path) -> None:
    """Change and relative volume of a symbol with a 1:10 reverse split, of a listing 5 days old, and of one
    absent from the snapshot; the evening's rows were against the day before."""
    recording = tmp_path / "over-four.frames.gz"
    record(recording, list(recorded_days()))
    first: dict[str, dict[str, Any]] = {}
    provider = Listings()
    async with (
        serving(provider),
        aiohttp.ClientSession() as session,
        simulate(tmp_path, "--replay", str(recording), "--speed", "1") as simulator,
        run(tmp_path, simulator.ports["simulator"], provider.url, "--cache-snapshot-path", "") as platform,
        session.ws_connect(f"http://127.0.0.1:{platform.ports['wds']}/ws") as client,
    ):
        names = ("SPLT", "YNG", "GONE")
        for name in names:
            await client.send_json({"action": "subscribe", "feed": f"quote:{name}"})
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(first) < len(names):
                row = await client.receive_json()
                if row.get("start_timestamp", 0) >= ms(TODAY, "04:00:00"):
                    first.setdefault(row["symbol"], row)
    split, young, gone = (first[name] for name in names)
    assert (split["prev_day_close"], split["prev_day_volume"]) == (50, 4_000)
    assert split["pct_change"] == pytest.approx(10)
    assert split["relative_volume"] == pytest.approx(0.25)
    assert split["free_float"] == 100_000
    assert (young["avg_volume"], young["avg_volume_days"]) == (2_000, 5)
    assert young["change"] == pytest.approx(2)
    assert young["relative_volume"] == pytest.approx(0.5)
    assert gone["change"] == pytest.approx(5)
    assert gone["relative_volume"] == pytest.approx(1 / 3)
    assert gone["free_float"] == 0
    assert [row["pending"] for row in (split, young, gone)] == [[], [], []]  # known before the bar came
    asked = [path for path in provider.asked if path.startswith("/v2/aggs/grouped")]
    assert len(asked) == 60  # thirty for each of the two days
    assert provider.count("/v2/snapshot") == 1  # before 04:00 it would be empty


async def test_a_second_start_on_the_same_day_asks_for_no_reference_values(tmp_path: Path) -> None:
    """The first start asks for each of them once; the second has them in its snapshot file."""
    async with aiohttp.ClientSession() as session, simulate(tmp_path, "--symbols", "300") as simulator:
        port = simulator.ports["simulator"]
        counts: list[dict[str, int]] = []
        details: list[str] = []
        for _ in range(2):
            async with run(
                tmp_path, port, f"http://127.0.0.1:{port}", "--cache-snapshot-path", str(tmp_path / "kept")
            ) as platform:

                async def complete(platform: Process = platform) -> bool:
                    ready = await get_json(session, platform.ports["metrics"], "/readyz")
                    details.append(json.dumps(ready))
                    return "300 symbols, 30 sessions before 2026-03-10" in details[-1]

                await until(complete)
                await asyncio.sleep(2)  # whatever it still wants to ask
            counts.append((await get_json(session, port, "/sim/stats"))["rest"])
    first = {path: counts[0].get(path, 0) for path in REFERENCE_PATHS}
    assert first == dict(zip(REFERENCE_PATHS, (1, 30, 1, 1), strict=True))
    assert {path: counts[1].get(path, 0) for path in REFERENCE_PATHS} == first


async def slowly(_request: web.Request) -> bytes:
    """An answer that comes, much later."""
    await asyncio.sleep(3_600)
    return b"{}"


FAULTS: dict[str, Any] = {
    "429": 429,
    "500": 500,
    "garbage": b"\xff<html>{[",
    "nothing": b"",
    "cut off": cut_off,
    "slow": slowly,
    "absurd": json.dumps(
        {
            "status": "OK",
            "tickers": [{"ticker": "NVDA", "prevDay": {"c": -1e300, "v": None}}, {"ticker": None}, 7],
            "results": [{"T": "NVDA", "ticker": "NVDA", "c": 1e300, "v": -1, "free_float": 1e300}, None],
        }
    ).encode(),
}


_USUAL = ("slow", "absurd")


@pytest.mark.parametrize(
    "fault", [pytest.param(name, marks=() if name in _USUAL else pytest.mark.slow) for name in FAULTS]
)
async def test_a_provider_whose_rest_fails_costs_no_event(tmp_path: Path, fault: str) -> None:
    """Every event of the feed is processed, clients get rows, and the rows say what they lack."""
    provider = Provider()
    provider.answers["/"] = FAULTS[fault]
    row: dict[str, Any] = {}
    async with (
        serving(provider),
        aiohttp.ClientSession() as session,
        simulate(tmp_path, "--symbols", "100", "--rate", "2000") as simulator,
        run(tmp_path, simulator.ports["simulator"], provider.url, "--cache-snapshot-path", "") as platform,
        session.ws_connect(f"http://127.0.0.1:{platform.ports['wds']}/ws") as client,
    ):
        await client.send_json({"action": "subscribe", "feed": "quote:NVDA"})
        async with asyncio.timeout(PATIENCE_SECONDS):
            while row.get("symbol") != "NVDA":
                row = await client.receive_json()

        async def enough() -> bool:
            queues = await get_json(session, platform.ports["admin"], "/api/v1/queues")
            assert queues["ring"]["shed_events"] == 0
            lost = {name: queue["expired"] + queue["dropped"] for name, queue in queues["queues"].items()}
            assert not any(lost.values()), lost
            return bool(sum(queue["processed"] for queue in queues["queues"].values()) > 5_000)

        await until(enough)
        assert provider.asked
        boards = {}
        for board in ("top_gappers", "top_volume"):
            await client.send_json({"action": "get", "cache": f"scanners:{board}"})
            while True:
                answer = await client.receive_json(timeout=PATIENCE_SECONDS)
                if "cache" in answer:
                    boards[board] = answer["data"]
                    break
    assert (row["prev_day_close"], row["avg_volume"], row["free_float"]) == (0, 0, 0)
    assert (row["change"], row["relative_volume"]) == (0, 0)
    assert {"prev_day_close", "avg_volume", "free_float"} <= set(row["pending"]) or fault == "absurd"
    assert boards["top_volume"]
    assert not boards["top_gappers"]
