"""Replaying a recording: order, pace, filters and what REST answers meanwhile."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from mdp.simulator import MAX_SPEED, Simulator, SimulatorOptions

from .support import EVERYTHING, dial, serve, subscriber

START_NS = 1_741_617_000_000_000_000  # 2025-03-10 10:30 New York, a Monday
HEADERS = {"Authorization": "Bearer key"}


def trade(symbol: str, number: int) -> dict[str, Any]:
    return {
        "ev": "T",
        "sym": symbol,
        "x": 4,
        "i": str(number),
        "z": 3,
        "p": 10.5,
        "s": 100,
        "t": 1741617000000,
    }


def bar(symbol: str, number: int) -> dict[str, Any]:
    return {
        "ev": "AM",
        "sym": symbol,
        "v": 100,
        "o": 1.5,
        "c": 2.5,
        "h": 3.5,
        "l": 0.5,
        "s": number,
        "e": number + 1,
    }


def write_recording(path: Path, frames: list[tuple[float, str]]) -> Path:
    """`frames` are (seconds after the start, text)."""
    with gzip.open(path, "wt") as file:
        file.writelines(f"{START_NS + round(at * 1e9)}\t{text}\n" for at, text in frames)
    return path


def recorded_lines(path: Path) -> list[str]:
    return gzip.decompress(path.read_bytes()).decode().splitlines()


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """200 frames of two trades and a bar over 20 s, with the statuses a real recording begins with."""
    frames = [(0.0, '[{"ev":"status","status":"success","message":"subscribed to: T.*"}]')]
    for number in range(200):
        rows = [trade("AAPL", number), trade("MSFT", number), bar("BRK.B", number)]
        frames.append((number / 10, json.dumps(rows, separators=(",", ":"))))
    path = write_recording(tmp_path / "day.frames.gz", frames)
    reference = {
        "AAPL": {
            "prev_day_close": 227.5,
            "prev_day_volume": 61_000_001.0,
            "avg_volume": 50_000_003.0,
            "shares_outstanding": 15e9,
            "name": "Apple Inc.",
        },
        "BRK.B": {"prev_day_close": 497.0, "prev_day_volume": 4e6, "avg_volume": 3e6, "name": "Berkshire"},
    }
    (tmp_path / "day.reference.json.gz").write_bytes(gzip.compress(json.dumps(reference).encode()))
    return path


async def test_every_event_comes_once_in_order_and_is_counted(recording: Path) -> None:
    """At full speed; the recorded statuses are not part of it, and the socket stays open afterwards."""
    async with (
        serve(replay=str(recording), speed=MAX_SPEED) as simulator,
        subscriber(simulator, EVERYTHING) as client,
    ):
        rows = await client.collect(600)
        await asyncio.wait_for(simulator.finished.wait(), 60)
        assert [row["i"] for row in rows if row.get("sym") == "AAPL"] == [
            str(number) for number in range(200)
        ]
        assert simulator.sent == {"T": 400, "AM": 200} == Counter(row["ev"] for row in rows)
        assert simulator.stats()["replay"] == {"frames": 200, "finished": True}
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.ws.recv(), 0.2)


async def test_frames_arrive_exactly_as_recorded(recording: Path) -> None:
    """Byte for byte, when all of their topics are subscribed."""
    lines = recorded_lines(recording)[1:]
    async with (
        serve(replay=str(recording), speed=MAX_SPEED) as simulator,
        subscriber(simulator, "T.*,AM.*") as client,
    ):
        for line in lines:
            assert await client.ws.recv() == line.split("\t")[1]


async def test_a_part_of_the_recording_for_those_who_want_a_part(recording: Path) -> None:
    """One symbol's trades; nothing else is sent or counted."""
    async with (
        serve(replay=str(recording), speed=MAX_SPEED) as simulator,
        subscriber(simulator, "T.MSFT") as client,
    ):
        rows = await client.collect(200)
        await asyncio.wait_for(simulator.finished.wait(), 60)
        assert {(row["ev"], row["sym"]) for row in rows} == {("T", "MSFT")}
        assert simulator.sent == {"T": 200}


async def test_recorded_gaps_are_kept_divided_by_the_speed(tmp_path: Path) -> None:
    """Frames 1 s apart come no sooner than the speed says; never early is what is promised."""
    frames = [(float(second), json.dumps([trade("AAPL", second)])) for second in range(6)]
    path = write_recording(tmp_path / "slow.frames.gz", frames)
    loop = asyncio.get_running_loop()
    async with serve(replay=str(path), speed=20.0) as simulator, subscriber(simulator, "T.*") as client:
        await client.collect(1)
        begin = loop.time()
        await client.collect(5)
        # The first frame may have reached the client late, not early: 250 ms minus some slack.
        assert loop.time() - begin > 0.15
        assert simulator.feed.now_ms == START_NS // 1_000_000 + 5_000


async def test_it_waits_for_the_first_subscription(recording: Path) -> None:
    """A client that connects late misses nothing; the market's time stands at the first frame."""
    async with serve(replay=str(recording), speed=1000.0) as simulator, dial(simulator) as client:
        await client.authenticate()
        await asyncio.sleep(0.2)
        assert simulator.feed.now_ms == START_NS // 1_000_000
        await client.subscribe("T.AAPL")
        assert (await client.collect(1))[0]["i"] == "0"


async def test_without_waiting_it_runs_unheard(recording: Path) -> None:
    """Open loop from the start, when asked to."""
    async with serve(replay=str(recording), speed=1000.0, replay_wait=False) as simulator:
        await asyncio.wait_for(simulator.finished.wait(), 60)
        assert simulator.sent.total() == 0
        assert simulator.feed.now_ms == START_NS // 1_000_000 + 19_900


async def test_it_can_close_or_begin_again_at_the_end(recording: Path) -> None:
    """`close`: 1000 after the last frame. `loop`: the first frame again."""
    settings: dict[str, Any] = {"replay": str(recording), "speed": MAX_SPEED}
    async with serve(replay_end="close", **settings) as simulator, subscriber(simulator, "T.*") as client:
        assert await client.closed() == 1000
        assert simulator.sent == {"T": 400}
    async with serve(replay_end="loop", **settings) as simulator, subscriber(simulator, "T.AAPL") as client:
        numbers = [row["i"] for row in await client.collect(450)]
        assert numbers[200] == numbers[400] == "0"


async def test_faults_in_the_data_work_on_recordings(recording: Path) -> None:
    """Every trade twice, every bar late; bars held back at the end still come."""
    async with (
        serve(
            replay=str(recording), speed=MAX_SPEED, faults={"duplicate_trades": 1, "late_bars": 1}
        ) as simulator,
        subscriber(simulator, EVERYTHING) as client,
    ):
        rows = await client.collect(1_000)
        await asyncio.wait_for(simulator.finished.wait(), 60)
        assert simulator.sent == {"T": 800, "AM": 200}
        assert [row["ev"] for row in rows[:8]] == ["T"] * 8


async def test_a_recorded_frame_that_is_no_json_is_passed_on_to_wildcards_only(tmp_path: Path) -> None:
    """As it is to whoever takes the whole topic; who named a symbol does not get it."""
    cut = '[{"ev":"T","sym":"AAPL'
    path = write_recording(tmp_path / "odd.frames.gz", [(0.0, cut), (0.1, json.dumps([trade("AAPL", 1)]))])
    async with serve(replay=str(path), speed=MAX_SPEED) as simulator, subscriber(simulator, "T.*") as client:
        assert await client.ws.recv() == cut
        assert (await client.receive())[0]["i"] == "1"
    async with (
        serve(replay=str(path), speed=MAX_SPEED) as simulator,
        subscriber(simulator, "T.AAPL") as client,
    ):
        assert (await client.receive())[0]["i"] == "1"


async def test_rest_answers_from_the_reference_file(recording: Path) -> None:
    """Previous close, float and 30 sessions that average to the average volume exactly."""
    async with (
        serve(replay=str(recording), speed=MAX_SPEED) as simulator,
        aiohttp.ClientSession(f"http://127.0.0.1:{simulator.port}", headers=HEADERS) as session,
    ):

        async def get(path: str) -> Any:
            async with session.get(path) as answer:
                assert answer.status == 200, path
                return await answer.json()

        status = await get("/v1/marketstatus/now")
        assert (status["market"], status["earlyHours"]) == ("open", False)
        assert datetime.fromisoformat(status["serverTime"]) == datetime.fromtimestamp(START_NS / 1e9, UTC)
        volumes: dict[str, list[float]] = {"AAPL": [], "BRK.B": []}
        day = datetime.fromtimestamp(START_NS / 1e9, UTC).date()
        previous: dict[str, Any] = {}
        for back in range(1, 50):
            day = datetime.fromtimestamp(START_NS / 1e9 - back * 86_400, UTC).date()
            answer = await get(f"/v2/aggs/grouped/locale/us/market/stocks/{day}")
            assert answer["resultsCount"] == len(answer.get("results", []))
            for row in answer.get("results", []):
                previous.setdefault(row["T"], row)
                volumes[row["T"]].append(row["v"])
        assert len(volumes["AAPL"]) == 30
        assert sum(volumes["AAPL"]) / 30 == 50_000_003.0
        assert sum(volumes["BRK.B"]) / 30 == 3e6
        assert (previous["AAPL"]["c"], previous["AAPL"]["v"]) == (227.5, 61_000_001.0)
        snapshot = await get("/v2/snapshot/locale/us/markets/stocks/tickers")
        assert {row["ticker"]: row["prevDay"]["c"] for row in snapshot["tickers"]} == {
            "AAPL": 227.5,
            "BRK.B": 497.0,
        }
        floats = await get("/stocks/vX/float")
        assert [(row["ticker"], row["free_float"]) for row in floats["results"]] == [("AAPL", 15_000_000_000)]
        assert (await get("/v3/reference/tickers/AAPL"))["results"]["name"] == "Apple Inc."
        assert (await get("/v2/reference/news"))["results"] == []


@pytest.mark.parametrize(
    "content",
    [
        b"no gzip",
        gzip.compress(b"", mtime=0),
        gzip.compress(b"no tab\n", mtime=0),
        gzip.compress(b"x\t[]\n", mtime=0),
    ],
)
def test_an_unreadable_recording_stops_the_start(tmp_path: Path, content: bytes) -> None:
    """With the file's name in the message; a missing file too."""
    path = tmp_path / "bad.frames.gz"
    for _ in range(2):
        with pytest.raises(ValueError, match=r"bad\.frames\.gz"):
            Simulator(SimulatorOptions(replay=str(path)))
        path.write_bytes(content)


async def test_a_cut_off_recording_sends_what_can_be_read(tmp_path: Path) -> None:
    """The rest is lost; the socket stays open and the simulator answers on."""
    frames = [(number / 10, json.dumps([trade("AAPL", number)] * 50)) for number in range(3_000)]
    path = write_recording(tmp_path / "cut.frames.gz", frames)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    async with serve(replay=str(path), speed=MAX_SPEED) as simulator, subscriber(simulator, "T.*") as client:
        assert len(await client.collect(1_000)) >= 1_000
        assert not simulator.finished.is_set()
