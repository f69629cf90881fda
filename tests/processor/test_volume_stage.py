"""The stage that keeps recorded volumes: days in, a history out, over lives of a process."""

from __future__ import annotations

import asyncio
import threading
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from mdp.analyzers.volume_history import SLOT_MS, SLOTS, DayVolumes, VolumeHistory, pack_column
from mdp.analyzers.volume_recorder import VolumeRecorder
from mdp.processor.volume_files import VolumeFiles
from mdp.processor.volume_stage import Cancelled, VolumeStage, load
from tests.analyzers.rig import at
from tests.analyzers.test_volume_recorder import NEXT_DAY, START, Recorded

DAY = date(2024, 3, 5)


def files_in(folder: Path) -> VolumeFiles:
    return VolumeFiles(str(folder), "RealTime", "stocks", keep=30)


def day_of(day: date, volume: float) -> DayVolumes:
    """A whole day on which A trades once, at its begin."""
    columns = {
        slot: pack_column([0] if slot == 0 else [], [volume] if slot == 0 else []) for slot in range(SLOTS)
    }
    return DayVolumes(day, SLOTS, SLOTS, ["A"], [(slot, 1) for slot in range(SLOTS)], columns)


class Life(Recorded):
    """One life of a process with a folder that outlives it."""

    def __init__(self, folder: Path, *, days: int = 30) -> None:
        super().__init__()
        self.server_ms: float | None = None
        self.files = files_in(folder)
        self.stage = VolumeStage(self.recorder, self.files, days=days, server_ms=lambda: self.server_ms)

    async def look(self) -> None:
        """What is done once a second; packing in the recorder's own time need not have been before."""
        await self.stage.look()


async def test_a_recorded_day_is_the_history_of_the_next(tmp_path: Path) -> None:
    """In the same life."""
    life = Life(tmp_path)
    life.every_slot("A", volume=10)
    await life.look()
    assert not life.recorder.history.days
    life.next_day()
    await life.look()

    assert life.files.days() == [DAY]
    assert life.recorder.history.days == (DAY,)
    assert life.market.volume_history.expected_at("A", 2.5 * SLOT_MS) == (25, 1)
    assert "1 days" in life.stage.health().detail


async def test_a_recorded_day_is_the_history_of_the_next_process(tmp_path: Path) -> None:
    """Stopped in the evening, started in the morning."""
    first = Life(tmp_path)
    await first.stage.start()
    first.every_slot("A", volume=10)
    first.server_ms = at(20, 1)
    await first.stage.stop()
    await first.stage.stop()
    assert first.stage.written == 1

    again = Life(tmp_path)
    again.next_day()
    await again.look()

    assert again.recorder.history.expected("A", SLOTS - 1) == (10 * SLOTS, 1)


async def test_a_day_that_was_stopped_before_its_end_says_so(tmp_path: Path) -> None:
    """At 19:57 the last slot is not over, and three minutes of it are to come."""
    life = Life(tmp_path)
    await life.stage.start()
    life.every_slot("A")
    life.server_ms = at(19, 57, 30)
    await life.stage.stop()

    kept = files_in(tmp_path).read(DAY)
    assert kept is not None
    assert kept.covered == SLOTS - 1
    assert not kept.complete


async def test_the_present_day_is_not_in_its_own_history(tmp_path: Path) -> None:
    """Nor are days after it: a replay of an old day knows what was known then."""
    for number in range(-3, 3):
        files_in(tmp_path).write(day_of(DAY + timedelta(number), 100 + number))
    life = Life(tmp_path)
    life.bars(("A", START, 1))
    await life.look()

    assert life.recorder.history.days == tuple(DAY + timedelta(number) for number in (-3, -2, -1))
    assert life.recorder.history.expected("A", 0) == (98, 3)


async def test_a_history_rests_on_so_many_days_at_most(tmp_path: Path) -> None:
    """The last ones."""
    for number in range(1, 6):
        files_in(tmp_path).write(day_of(DAY - timedelta(number), number))
    life = Life(tmp_path, days=2)
    life.bars(("A", START, 1))
    await life.look()

    assert life.recorder.history.days == (DAY - timedelta(2), DAY - timedelta(1))
    assert life.recorder.history.expected("A", 0) == (1.5, 2)


async def test_a_damaged_day_costs_itself_only(tmp_path: Path) -> None:
    """One with a wrong checksum, and one whose checksum is right and whose columns are nonsense."""
    files = files_in(tmp_path)
    for number in range(1, 5):
        files.write(day_of(DAY - timedelta(number), number))
    path = files.folder / f"{DAY - timedelta(3)}.volumes"
    path.write_bytes(path.read_bytes()[:-1])
    forged = day_of(DAY - timedelta(2), 2)
    forged.columns[100] = b"nonsense"
    files.write(forged)
    life = Life(tmp_path)
    life.bars(("A", START, 1))

    with capture_logs() as logs:
        await life.look()

    assert life.recorder.history.days == (DAY - timedelta(4), DAY - timedelta(1))
    assert life.recorder.history.expected("A", 0) == (2.5, 2)
    assert [log["event"] for log in logs].count("volume_history_unusable") == 2


async def test_a_day_that_begins_while_its_predecessors_are_loaded_gets_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was loaded is not used then; the next look loads again."""
    files_in(tmp_path).write(day_of(DAY - timedelta(1), 7))
    life = Life(tmp_path)
    life.every_slot("A", last=5)
    loading, may_end = threading.Event(), threading.Event()

    def slow_load(*args: Any, **kwargs: Any) -> VolumeHistory:
        loading.set()
        assert may_end.wait(20)
        return load(*args, **kwargs)

    monkeypatch.setattr("mdp.processor.volume_stage.load", slow_load)
    looking = asyncio.create_task(life.look())
    await asyncio.to_thread(loading.wait, 20)
    life.next_day()
    may_end.set()
    await looking
    assert not life.recorder.history.days

    await life.look()

    assert life.recorder.history.days == (DAY - timedelta(1), DAY)


async def test_in_the_evening_a_day_ends_by_the_providers_time(tmp_path: Path) -> None:
    """A kill at night loses nothing of what a snapshot holds; before the end nothing ends."""
    life = Life(tmp_path)
    life.every_slot("A")
    life.server_ms = at(20)
    await life.look()
    assert life.recorder.covered == SLOTS - 1
    assert life.files.days() == []
    life.server_ms = at(20, 1)
    await life.look()
    await life.look()

    assert life.recorder.covered == SLOTS
    kept = life.files.read(DAY)
    assert kept is not None
    assert kept.complete
    assert life.stage.written == 1
    life.next_day()
    await life.look()
    assert life.recorder.history.days == (DAY,)


async def test_a_day_that_ended_just_before_a_stop_is_written(tmp_path: Path) -> None:
    """Nothing of it was packed yet."""
    life = Life(tmp_path)
    await life.stage.start()
    life.every_slot("A")
    life.next_day()
    await life.stage.stop()

    kept = life.files.read(DAY)
    assert kept is not None
    assert kept.complete


async def test_a_stop_ends_a_thread_that_loads(tmp_path: Path) -> None:
    """Loading takes seconds; a stop may not."""
    for number in range(1, 20):
        files_in(tmp_path).write(day_of(DAY - timedelta(number), number))
    began = threading.Event()

    def cancelled() -> bool:
        began.set()
        return True

    with pytest.raises(Cancelled):
        await asyncio.to_thread(load, files_in(tmp_path), DAY, 30, cancelled=cancelled)
    assert began.is_set()


async def test_a_failure_does_not_end_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next look may go well."""
    life = Life(tmp_path)
    calls = []

    def failing() -> list[DayVolumes]:
        calls.append(1)
        raise RuntimeError("a defect")

    monkeypatch.setattr("mdp.processor.volume_stage._LOOK_SECONDS", 0.001)
    monkeypatch.setattr(life.recorder, "take_ended", failing)
    await life.stage.start()
    async with asyncio.timeout(60):
        while len(calls) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    monkeypatch.undo()
    await life.stage.stop()


async def test_nothing_is_written_where_nothing_came(tmp_path: Path) -> None:
    """A start and a stop leave no file."""
    life = Life(tmp_path)
    await life.stage.start()
    await life.stage.stop()

    assert life.stage.written == 0
    assert life.files.days() == []


async def test_a_disk_that_cannot_be_written_shows_in_health(tmp_path: Path) -> None:
    """The platform works without a history."""
    obstacle = tmp_path / "file"
    obstacle.write_text("in the way")
    life = Life(obstacle)
    life.every_slot("A")
    life.next_day(NEXT_DAY)
    await life.look()

    assert life.stage.health().ok
    assert "cannot be written" in life.stage.health().detail
    assert isinstance(life.recorder, VolumeRecorder)
