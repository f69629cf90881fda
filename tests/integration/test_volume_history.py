"""Relative volume by time of day, through processes: recorded one day, shown on the next."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from mdp.client import WdsClient
from mdp.processor.volume_files import VolumeFiles
from tests.commands.test_history import MONDAY, TUESDAY, bars_of, start_of, write
from tests.integration.replay_rig import MDP, PATIENCE_SECONDS, Process, kept, platform
from tests.ports import free_port

SLOT_MS = 300_000
#: Tuesday's last bar: two seconds into the slot that begins at 10:00, the 73rd.
TUESDAY_SLOT = 72


#: At full speed a batch might hold the end of one day and the begin of the next.
SPEED = "20000"


@contextlib.contextmanager
def replaying(folder: Path, path: Path, *, port: int = 0) -> Iterator[str]:
    """The address of a simulator that sends a recording, a trading day in three seconds."""
    simulator = Process(folder, "simulate", "--port", str(port), "--replay", str(path), "--speed", SPEED)
    try:
        simulator.wait()
        yield f"127.0.0.1:{simulator.ports['simulator']}"
    finally:
        simulator.end()


def ask(process: Process, key: str, good: Callable[[Any], bool]) -> dict[str, Any]:
    """What a client gets of a key once it is as expected; fails by time-out where it never is."""

    async def session() -> dict[str, Any]:
        async with WdsClient(f"ws://127.0.0.1:{process.ports['wds']}/ws") as client:
            value: Any = None
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    while not good(value := await client.get(key)):  # noqa: ASYNC110
                        await asyncio.sleep(0.1)
            except TimeoutError:
                pytest.fail(f"{key} is {value}")
            return dict(value)

    return asyncio.run(session())


def days_in_metrics(process: Process) -> float:
    """How many days the history rests on, by the metrics page."""

    async def session() -> float:
        url = f"http://127.0.0.1:{process.ports['metrics']}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            text = await answer.text()
        return float(re.findall(r"^mdp_volume_history_sessions(?:{[^}]*})? (\S+)$", text, re.MULTILINE)[0])

    return asyncio.run(session())


def rests_on_a_day(row: Any) -> bool:
    """The last bar is there, and so is the history."""
    last = start_of(TUESDAY) + TUESDAY_SLOT * SLOT_MS
    return bool(row) and row["start_timestamp"] >= last and row["relative_volume_at_time_days"] > 0


def check(row: dict[str, Any], shares: int) -> None:
    """Tuesday's volume is twice Monday's; by 10:00:01 Monday had 72 slots and a second's part of the 73rd."""
    expected = shares * (TUESDAY_SLOT + (row["start_timestamp"] - start_of(TUESDAY)) % SLOT_MS / SLOT_MS)
    assert row["accumulated_volume"] == 2 * shares * (TUESDAY_SLOT + 1)
    assert row["relative_volume_at_time_days"] == 1
    # The time up to which volumes are compared is that of the market clock, or the bar's end: a second apart.
    slack = shares * 2_000 / SLOT_MS
    low, high = row["accumulated_volume"] / (expected + slack), row["accumulated_volume"] / (expected - slack)
    assert low <= row["relative_volume_at_time"] <= high


def tuesday() -> list[Any]:
    """Until 10:00:01, with twice the volumes of Monday."""
    bars = bars_of(TUESDAY, last=TUESDAY_SLOT)
    for bar in bars:
        bar["v"], bar["av"] = 2 * bar["v"], 2 * bar["av"]
    return bars


def files_of(folder: Path, address: str) -> VolumeFiles:
    """The recorded days of a platform that ran in a folder."""
    return VolumeFiles(str(folder / "var" / "history"), address, "stocks", keep=30)


def test_a_day_that_the_platform_saw_is_what_the_next_is_compared_with(tmp_path: Path) -> None:
    """One process over both days; a second one, on the second day alone, has the first from its file."""
    path = write(tmp_path / "days.frames.gz", bars_of(MONDAY) + tuesday())
    port = free_port()  # the history is one feed's, and the address tells which
    with replaying(tmp_path, path, port=port) as address, platform(tmp_path, address) as process:
        check(ask(process, "quote:A", rests_on_a_day), 1)
        check(ask(process, "quote:C", rests_on_a_day), 3)
        assert days_in_metrics(process) == 1
    day = files_of(tmp_path, address).read(MONDAY)
    assert day is not None
    assert day.complete
    present = files_of(tmp_path, address).read(TUESDAY)
    assert present is not None, "written at the end, as far as it went"
    assert present.covered == TUESDAY_SLOT

    path = write(tmp_path / "tuesday.frames.gz", tuesday())
    no_snapshot = ("--cache-snapshot-path", "")
    with (
        replaying(tmp_path, path, port=port) as address,
        platform(tmp_path, address, *no_snapshot) as process,
    ):
        check(ask(process, "quote:B", rests_on_a_day), 2)


def test_days_built_from_recordings_are_what_a_day_is_compared_with(tmp_path: Path) -> None:
    """`mdp history`, then `mdp run` on another day; of another feed it sees none."""
    path = write(tmp_path / "monday.frames.gz", bars_of(MONDAY))
    port = free_port()
    done = subprocess.run(
        [MDP, "history", str(path), "--massive-feed", f"127.0.0.1:{port}"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(r"2024-03-04 +3 +192 of 192 +yes +yes", done.stdout), done.stdout
    assert "Traceback" not in done.stderr

    path = write(tmp_path / "tuesday.frames.gz", tuesday())
    with replaying(tmp_path, path, port=port) as address, platform(tmp_path, address) as process:
        check(ask(process, "quote:A", rests_on_a_day), 1)
    with replaying(tmp_path, path) as address, platform(tmp_path, address) as process:
        last = start_of(TUESDAY) + TUESDAY_SLOT * SLOT_MS
        row = ask(process, "quote:A", lambda row: row and row["start_timestamp"] >= last)
        assert (row["relative_volume_at_time"], row["relative_volume_at_time_days"]) == (0, 0)
        assert days_in_metrics(process) == 0


def test_a_kill_in_the_middle_of_a_day_costs_no_slot(tmp_path: Path) -> None:
    """`kill -9` after a snapshot, then the rest of the day in another life."""
    port = free_port()
    bars = bars_of(MONDAY)
    half = 100 * 3  # three symbols a slot; the other half begins in the slot after
    path = write(tmp_path / "a.frames.gz", bars[:half])
    often = ("--cache-snapshot-seconds", "0.5")
    with replaying(tmp_path, path, port=port) as address, platform(tmp_path, address, *often) as process:
        asyncio.run(kept(process, half))
        process.kill()
    assert files_of(tmp_path, address).days() == []

    again = [bar | {"s": bar["s"] + 1_000, "e": bar["e"] + 1_000} for bar in bars[half - 3 : half]]
    path = write(tmp_path / "b.frames.gz", again + bars[half:] + tuesday())
    with replaying(tmp_path, path, port=port) as address, platform(tmp_path, address) as process:
        check(ask(process, "quote:A", rests_on_a_day), 1)
    day = files_of(tmp_path, address).read(MONDAY)
    assert day is not None
    assert [slot for slot, _ in day.known] == list(range(192))
    assert files_of(tmp_path, address).days() == [MONDAY, date(2024, 3, 5)]
