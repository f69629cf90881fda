"""Files of recorded volumes: what was written is read, and nothing else ever is."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from mdp.analyzers.volume_history import SLOTS, DayVolumes, pack_column
from mdp.processor.volume_files import VolumeFiles

DAY = date(2024, 3, 5)


def volumes_of(day: date = DAY, *, slots: int = 3, volume: float = 100) -> DayVolumes:
    """A day with one symbol and its first slots covered."""
    columns = {slot: pack_column([0], [volume]) for slot in range(slots)}
    return DayVolumes(day, SLOTS, SLOTS, ["A"], [(slot, 1) for slot in range(slots)], columns)


def files_in(folder: Path, *, feed: str = "RealTime", market: str = "stocks", keep: int = 30) -> VolumeFiles:
    return VolumeFiles(str(folder), feed, market, keep=keep)


def test_a_day_is_read_as_it_was_written(tmp_path: Path) -> None:
    """By another process, too; and there is nothing else in the folder."""
    assert files_in(tmp_path).write(volumes_of())

    files = files_in(tmp_path)
    assert files.read(DAY) == volumes_of()
    assert files.days() == [DAY]
    assert files.read(DAY + timedelta(1)) is None
    assert [path.name for path in files.folder.iterdir()] == ["2024-03-05.volumes"]
    assert (files.errors, files.unusable) == (0, 0)


@pytest.mark.parametrize(("feed", "market"), [("127.0.0.1:4300", "stocks"), ("RealTime", "crypto")])
def test_another_feed_or_market_has_days_of_its_own(tmp_path: Path, feed: str, market: str) -> None:
    """A demo's volumes never reach real boards, not even by a file that somebody copied."""
    demo = files_in(tmp_path, feed=feed, market=market)
    demo.write(volumes_of())
    files = files_in(tmp_path)
    assert files.days() == []

    files.folder.mkdir()
    name = "2024-03-05.volumes"
    (files.folder / name).write_bytes((demo.folder / name).read_bytes())

    assert files.read(DAY) is None
    assert files.unusable == 1


def test_a_file_under_another_days_name_is_not_taken(tmp_path: Path) -> None:
    """Else a day could count twice."""
    files = files_in(tmp_path)
    files.write(volumes_of())
    path = files.folder / "2024-03-05.volumes"
    path.rename(files.folder / "2024-03-06.volumes")

    assert files.read(date(2024, 3, 6)) is None


def test_a_damaged_file_is_warned_of_once(tmp_path: Path) -> None:
    """However often it is looked at."""
    files = files_in(tmp_path)
    files.write(volumes_of())
    path = files.folder / "2024-03-05.volumes"
    path.write_bytes(path.read_bytes()[:-5] + b"abcde")

    with capture_logs() as logs:
        assert files.read(DAY) is None
        assert files.read(DAY) is None

    assert [log["event"] for log in logs] == ["volume_history_unusable"]
    assert logs[0]["reason"] == "it is damaged"


@given(st.integers(0, 400), st.binary(max_size=20))
def test_no_damage_anywhere_passes_for_a_day(
    tmp_path_factory: pytest.TempPathFactory, at: int, other: bytes
) -> None:
    """Cut off, overwritten or filled up: the day as it was written, or none."""
    files = files_in(tmp_path_factory.mktemp("volumes"))
    files.write(volumes_of())
    path = files.folder / "2024-03-05.volumes"
    data = path.read_bytes()
    damaged = data[:at] + other
    path.write_bytes(damaged)

    assert files.read(DAY) == (volumes_of() if damaged == data else None)


def test_a_record_that_contradicts_itself_is_not_taken(tmp_path: Path) -> None:
    """Its checksum is right; whoever wrote it was wrong."""
    day = volumes_of()
    day.known[0] = (0, 7)
    files = files_in(tmp_path)
    files.write(day)

    assert files.read(DAY) is None
    assert files.unusable == 1


def test_of_two_records_of_a_day_the_one_that_covers_more_stays(tmp_path: Path) -> None:
    """A process that began in the afternoon does not replace a record of the whole day."""
    files = files_in(tmp_path)
    assert files.write(volumes_of(slots=5, volume=1))
    assert not files.write(volumes_of(slots=4, volume=2))
    assert files.read(DAY) == volumes_of(slots=5, volume=1)
    assert files.write(volumes_of(slots=5, volume=3)), "the newer of equals"
    assert files.write(volumes_of(slots=6, volume=4))

    assert files.read(DAY) == volumes_of(slots=6, volume=4)


def test_a_day_that_covers_nothing_is_not_written(tmp_path: Path) -> None:
    """It would only take the place of one that does."""
    files = files_in(tmp_path)

    assert not files.write(volumes_of(slots=0))
    assert files.days() == []


def test_old_days_are_deleted(tmp_path: Path) -> None:
    """So many are kept; other files are not ours to delete."""
    files = files_in(tmp_path, keep=3)
    files.write(volumes_of(DAY))
    (files.folder / "notes.txt").write_text("mine")
    (files.folder / "old.volumes").write_text("no day")
    for number in range(1, 6):
        files.write(volumes_of(DAY + timedelta(number)))

    assert files.days() == [DAY + timedelta(number) for number in (3, 4, 5)]
    assert {path.name for path in files.folder.iterdir()} >= {"notes.txt", "old.volumes"}


def test_an_old_day_that_was_written_just_now_stays(tmp_path: Path) -> None:
    """Built from an old recording: whoever does that wants it."""
    files = files_in(tmp_path, keep=1)
    files.write(volumes_of(DAY))
    files.write(volumes_of(DAY - timedelta(100)))

    assert files.days() == [DAY - timedelta(100), DAY]


def test_a_disk_that_cannot_be_written_is_counted(tmp_path: Path) -> None:
    """And said once."""
    obstacle = tmp_path / "file"
    obstacle.write_text("in the way")
    files = files_in(obstacle)

    with capture_logs() as logs:
        assert not files.write(volumes_of())
        assert not files.write(volumes_of())

    assert files.errors == 2
    assert [log["event"] for log in logs] == ["volume_history_not_written"]
    assert files.days() == []


def test_a_file_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    """A folder of that name, say."""
    files = files_in(tmp_path)
    (files.folder / "2024-03-05.volumes").mkdir(parents=True)

    assert files.days() == [DAY]
    assert files.read(DAY) is None
    assert files.unusable == 1


def test_a_file_beyond_all_measure_is_left_out(tmp_path: Path) -> None:
    """Nobody reads gigabytes into memory to find that they are none of ours."""
    files = files_in(tmp_path)
    files.folder.mkdir()
    with (files.folder / "2024-03-05.volumes").open("wb") as file:
        file.truncate(300 * 1024 * 1024)  # takes no room on the disk

    assert files.read(DAY) is None
