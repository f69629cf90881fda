"""Roles as processes around a real Redis say what one process says: every feed of every symbol, every alert.

The whole recorded days take ten minutes: `pytest tests/roles/test_equality.py -m slow -s` prints a line each.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.data import data_file
from tests.integration import disturb
from tests.roles.equality import (
    Act,
    Recording,
    compared,
    kill,
    one_process,
    played_evenly,
    split,
    stop_and_join,
    with_halts,
)
from tests.roles.everything import Everything, patterns

MINUTES = "us-99-minute-2025-01-27"
TICKS = "ticks-4-2013-10-07"
SECONDS = 25.0  # for a whole day
SHORT_SECONDS = 4.0
OPEN_NS = 1_381_152_600_000_000_000  # 2013-10-07 09:30 New York


def frames_of(name: str) -> list[disturb.Frame]:
    """A recorded day."""
    return disturb.read(data_file(f"{name}.frames.gz"))


def prepared(folder: Path, name: str, frames: list[disturb.Frame], seconds: float) -> Recording:
    """A recording to be played, of these frames, with its reference values, if it has any."""
    recording = played_evenly(folder / f"{name}.frames.gz", seconds, frames)
    if name == MINUTES:
        values = data_file(f"{name}.reference.json.gz")
        (folder / values.name).write_bytes(values.read_bytes())
    return recording


class Day(NamedTuple):
    """A recording, and what one process says of it."""

    name: str
    recording: Recording
    expected: Everything


async def test_two_processors_one_of_them_killed_say_what_one_process_says(tmp_path: Path) -> None:
    """Some minutes of trades, quotes, bars and halts over the open, `kill -9` in their midst."""
    minutes = [f for f in frames_of(TICKS) if -120 < (f.arrival_ns - OPEN_NS) / 1e9 < 120]
    recording = prepared(tmp_path, TICKS, with_halts(minutes, pause_ms=15_000), SHORT_SECONDS)
    async with asyncio.TaskGroup() as group:
        one = group.create_task(one_process(tmp_path / "one", recording))
        async with split(tmp_path / "split", recording, 2, kill) as played:
            expected = await one
            found, unlike = await compared(played, expected, raw=False)
    assert unlike[:5] == []
    assert found.symbols == {"SPY", "BAC", "AIG", "IBM"}
    assert found.told(raw=False) > 40


@pytest.fixture(scope="module", params=[MINUTES, TICKS])
def day(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Day:
    """A whole recorded day, and what one process says of it."""
    folder = tmp_path_factory.mktemp("day")
    recording = prepared(folder, request.param, with_halts(frames_of(request.param)), SECONDS)
    return Day(request.param, recording, asyncio.run(one_process(folder / "one", recording)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processors", "act"),
    [
        pytest.param(1, None, id="1"),
        pytest.param(2, None, id="2"),
        pytest.param(4, None, id="4"),
        pytest.param(2, kill, id="2-one-killed"),
        pytest.param(2, stop_and_join, id="2-one-stopped-one-joins"),
    ],
)
async def test_processors_say_of_a_recorded_day_what_one_process_says(
    tmp_path: Path, day: Day, processors: int, act: Act | None
) -> None:
    """Last values as sent and as read, alerts and halts in their order: of all symbols."""
    began = time.monotonic()
    async with split(tmp_path / "split", day.recording, processors, act) as played:
        found, unlike = await compared(played, day.expected, raw=act is None)
    print(
        f"| {processors}, {act.__name__ if act else 'undisturbed'} | {day.name} | {day.recording.events} "
        f"| {len(found.symbols)} | {len(found.values)} + {len(found.sent)} | {found.told(raw=False)} "
        f"| {found.told(raw=True) if act is None else 0} | {len(unlike)} | {time.monotonic() - began:.0f} |"
    )
    assert unlike[:5] == []
    assert len(found.symbols) == (99 if day.name == MINUTES else 4)
    assert found.told(raw=False) > 100
    assert {"halts:active", "scanners:top_volume", "market:status"} <= found.values.keys()


def test_no_feed_is_left_out() -> None:
    """Each family is subscribed to once."""
    assert {"quote:*", "daily_range:*", "stocks:trades:*", "halts:active", "tta:*:widget"} <= set(patterns())
    assert "scanners:top_volume" not in patterns(), "scanners:* names it"
