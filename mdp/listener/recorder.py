"""Raw frames with their arrival times, written to a file without ever holding up the reading.

One frame a line, gzip: `<arrival epoch in ns>TAB<the frame as received>`.
"""

from __future__ import annotations

import asyncio
import gzip
import threading
import time
import zlib
from collections import deque
from pathlib import Path
from typing import BinaryIO

import msgspec
import structlog

from .outcome import one_line
from .ring import Frame

log = structlog.get_logger(__name__)

MAX_BUFFER_BYTES = 64 * 1024 * 1024
FLUSH_SECONDS = 1.0  # at most this much is lost when the process is killed
_IDLE_SECONDS = 0.05
_COMPRESS_LEVEL = 3  # keeps up with the feed; the default costs three times as much for a few percent


class RecorderError(ValueError):
    """A recording cannot begin. The message is one line that names the file."""


class RecorderCounters(msgspec.Struct):
    """`offered = written + dropped + waiting`, in frames."""

    offered: int = 0
    written: int = 0
    dropped: int = 0  # the buffer was full, or the file could not be written
    bytes_written: int = 0  # before compression


class Recorder:
    """Writes one file, in a thread of its own. Runs once.

    `offer` belongs to the event loop, the writing to the thread; each counter has one writer, so no lock
    is needed.

    Args:
        path: The file; must not exist.
        max_buffer_bytes: Bound on what waits for the disk.
    """

    def __init__(self, path: str | Path, *, max_buffer_bytes: int = MAX_BUFFER_BYTES) -> None:
        self.path = Path(path)
        self.error = ""  # why writing ended early, one line
        self._max_buffer_bytes = max_buffer_bytes
        self._frames: deque[tuple[int, Frame]] = deque()
        self._offered = 0
        self._offered_bytes = 0
        self._refused = 0
        self._written = 0
        self._written_bytes = 0
        self._done_bytes = 0  # of what was offered: written, or lost to an error
        self._lost = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def counters(self) -> RecorderCounters:
        """What was offered so far and what became of it."""
        return RecorderCounters(
            offered=self._offered + self._refused,
            written=self._written,
            dropped=self._refused + self._lost,
            bytes_written=self._written_bytes,
        )

    @property
    def active(self) -> bool:
        """Whether frames are being written."""
        return self._thread is not None and not self._stop.is_set() and not self.error

    async def start(self) -> None:
        """Create the file and begin.

        Raises:
            RecorderError: The file exists, or cannot be created, or this recorder ran before.
        """
        if self._thread is not None:
            raise RecorderError(f"{self.path}: this recording has run already; begin a new one")
        try:
            file = await asyncio.to_thread(self.path.open, "xb")
        except FileExistsError:
            raise RecorderError(f"{self.path}: exists already; choose another name or move it away") from None
        except OSError as exc:
            raise RecorderError(f"{self.path}: cannot be created: {exc.strerror or exc}") from None
        self._thread = threading.Thread(target=self._write, args=(file,), name="recorder", daemon=True)
        self._thread.start()
        log.info("recording_started", path=str(self.path))

    async def stop(self) -> None:
        """Write what waits, close the file. Safe to call twice, or before `start`."""
        thread = self._thread
        if thread is None:
            return
        first = not self._stop.is_set()
        self._stop.set()
        await asyncio.to_thread(thread.join)
        self._lose_waiting()  # offered just when writing failed
        if first:
            counters = self.counters
            log.info(
                "recording_stopped",
                path=str(self.path),
                written=counters.written,
                dropped=counters.dropped,
                error=self.error,
            )

    def offer(self, frame: Frame, epoch_ns: int) -> bool:
        """Take a frame with its arrival if there is room for it. Never waits, never raises.

        Returns:
            Whether it was taken; if not it counts as dropped.
        """
        size = len(frame)
        waiting = self._offered_bytes - self._done_bytes
        if not self.active or waiting + size > self._max_buffer_bytes:
            self._refused += 1
            return False
        self._offered += 1
        self._offered_bytes += size
        self._frames.append((epoch_ns, frame))
        return True

    def _write(self, file: BinaryIO) -> None:
        try:
            # No time stamp and no name inside: equal frames make equal files.
            with file, gzip.GzipFile("", "wb", _COMPRESS_LEVEL, file, mtime=0) as out:
                self._drain(out)
        except Exception as exc:  # a full disk, most likely; the feed goes on without the recording
            self.error = one_line(f"writing failed: {exc}")
            log.error("recording_failed", path=str(self.path), error=self.error)
        self._lose_waiting()

    def _lose_waiting(self) -> None:
        """After an error nothing more will be written, and the counts must still add up."""
        self._lost += len(self._frames)
        self._frames.clear()

    def _drain(self, out: gzip.GzipFile) -> None:
        flushed_at = time.monotonic()
        dirty = False
        while True:
            stopping = self._stop.is_set()  # read first: what was offered before it is then in the buffer
            while self._frames:
                epoch_ns, frame = self._frames[0]
                line = _line(epoch_ns, frame)
                out.write(line)
                self._frames.popleft()  # only now: a frame whose write failed counts as lost
                self._written += 1
                self._written_bytes += len(line)
                self._done_bytes += len(frame)
                dirty = True
                if time.monotonic() - flushed_at >= FLUSH_SECONDS:
                    break
            if dirty and time.monotonic() - flushed_at >= FLUSH_SECONDS:
                out.flush(zlib.Z_SYNC_FLUSH)
                flushed_at, dirty = time.monotonic(), False
            if not self._frames:
                if stopping:
                    return
                self._stop.wait(_IDLE_SECONDS)


def _line(epoch_ns: int, frame: Frame) -> bytes:
    data = frame.encode("utf-8", "surrogatepass") if isinstance(frame, str) else frame
    if b"\n" in data or b"\r" in data:
        # In JSON a line break can only be white space between values: a blank means the same.
        data = data.replace(b"\r", b" ").replace(b"\n", b" ")
    return b"%d\t%b\n" % (epoch_ns, data)
