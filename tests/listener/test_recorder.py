"""Recordings: the format, the bounds, and what becomes of each frame."""

from __future__ import annotations

import gzip
import threading
from pathlib import Path
from typing import Any

import pytest

from mdp.listener import recorder as recorder_module
from mdp.listener.recorder import Recorder, RecorderError

from .fake_provider import trade, until


def lines_of(path: Path) -> list[bytes]:
    """The lines of a finished recording."""
    with gzip.open(path) as file:
        return file.read().splitlines()


async def test_one_frame_a_line_with_its_arrival(tmp_path: Path) -> None:
    """`<epoch ns>TAB<frame as received>`, in order."""
    path = tmp_path / "day.frames.gz"
    recorder = Recorder(path)
    await recorder.start()
    for number in range(1_000):
        assert recorder.offer(trade(number=number), 1_700_000_000_000_000_000 + number)
    await recorder.stop()
    assert lines_of(path) == [
        f"{1_700_000_000_000_000_000 + number}\t{trade(number=number)}".encode() for number in range(1_000)
    ]
    counters = recorder.counters
    assert (counters.offered, counters.written, counters.dropped) == (1_000, 1_000, 0)
    assert counters.bytes_written == sum(len(line) + 1 for line in lines_of(path))


async def test_bytes_and_odd_text_are_written_as_one_line_each(tmp_path: Path) -> None:
    """A line break between JSON values is white space; no frame breaks the format."""
    path = tmp_path / "odd.frames.gz"
    recorder = Recorder(path)
    await recorder.start()
    for frame in (b'[{"ev":"T"}]', '[\n{"ev":"T"}\r\n]', '["\u00e9"]', ""):
        recorder.offer(frame, 1)
    await recorder.stop()
    assert lines_of(path) == [b'1\t[{"ev":"T"}]', b'1\t[ {"ev":"T"}  ]', '1\t["\u00e9"]'.encode(), b"1\t"]


async def test_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    """A day of data is not lost to a repeated command."""
    path = tmp_path / "day.frames.gz"
    path.write_bytes(b"precious")
    recorder = Recorder(path)
    with pytest.raises(RecorderError, match="exists already"):
        await recorder.start()
    assert path.read_bytes() == b"precious"
    assert not recorder.active
    assert not recorder.offer("[]", 1)


async def test_file_that_cannot_be_created_says_why(tmp_path: Path) -> None:
    """One line with the path."""
    with pytest.raises(RecorderError, match=r"nowhere.*cannot be created: No such file or directory"):
        await Recorder(tmp_path / "nowhere" / "day.frames.gz").start()


async def test_recorder_runs_once(tmp_path: Path) -> None:
    """A second start would find its own file."""
    recorder = Recorder(tmp_path / "day.frames.gz")
    await recorder.start()
    await recorder.stop()
    await recorder.stop()
    with pytest.raises(RecorderError, match="has run already"):
        await recorder.start()


async def test_stop_before_start_is_safe(tmp_path: Path) -> None:
    """And makes no file."""
    await Recorder(tmp_path / "day.frames.gz").stop()
    assert not list(tmp_path.glob("*"))  # noqa: ASYNC240 - an empty directory


class StuckDisk:
    """Stands in for the compressor: every write waits for the test, then works or fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
        self.writing = threading.Event()
        self.release = threading.Event()
        disk = self
        real = gzip.GzipFile

        class Stuck(real):  # type: ignore[valid-type,misc]
            def write(self, data: Any) -> int:
                disk.writing.set()
                disk.release.wait(10)
                if error is not None:
                    raise error
                return int(super().write(data))

        monkeypatch.setattr(gzip, "GzipFile", Stuck)


async def test_slow_disk_drops_frames_and_never_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The buffer is bounded in bytes; what does not fit is counted, and later frames are taken again."""
    disk = StuckDisk(monkeypatch)
    path = tmp_path / "slow.frames.gz"
    recorder = Recorder(path, max_buffer_bytes=1_000)
    await recorder.start()
    frame = "x" * 100
    taken = [recorder.offer(frame, number) for number in range(25)]
    assert taken == [True] * 10 + [False] * 15
    disk.release.set()
    await until(lambda: recorder.counters.written == 10)
    assert recorder.offer(frame, 99)
    await recorder.stop()
    counters = recorder.counters
    assert (counters.offered, counters.written, counters.dropped) == (26, 11, 15)
    assert [int(line.split(b"\t")[0]) for line in lines_of(path)] == [*range(10), 99]


async def test_full_disk_ends_the_recording_and_the_counts_still_add_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The feed goes on; the recorder says why it does not."""
    disk = StuckDisk(monkeypatch, OSError(28, "No space left on device"))
    recorder = Recorder(tmp_path / "full.frames.gz")
    await recorder.start()
    for number in range(5):
        recorder.offer("[]", number)
    disk.release.set()
    await until(lambda: bool(recorder.error))
    assert "No space left on device" in recorder.error
    assert not recorder.active
    assert not recorder.offer("[]", 6)
    await recorder.stop()
    counters = recorder.counters
    assert (counters.offered, counters.written, counters.dropped) == (6, 0, 6)


async def test_written_frames_can_be_read_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is killed loses about a second, not the day."""
    monkeypatch.setattr(recorder_module, "FLUSH_SECONDS", 0.01)
    path = tmp_path / "day.frames.gz"
    recorder = Recorder(path)
    await recorder.start()
    recorder.offer(trade(), 7)

    def readable() -> bytes:
        try:
            with gzip.open(path) as file:
                return file.read1(100_000)
        except EOFError:
            return b""

    await until(lambda: readable() == f"7\t{trade()}\n".encode())
    await recorder.stop()
