"""Keeps recorded volumes by time of day: writes a day's when it is over, loads those before today's.

All in a thread that rests most of the time, so that the event loop never waits for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from datetime import date

import structlog

from mdp.analyzers.volume_history import BadColumn, DayVolumes, VolumeHistory, summarize
from mdp.analyzers.volume_recorder import VolumeRecorder
from mdp.processor.volume_files import VolumeFiles
from mdp.stage import Health

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 1.0
_AFTER_MS = 60_000  # that long after a session's end its last bars are there
_WORK_SECONDS = 0.001
_REST_SECONDS = 0.002


class Cancelled(Exception):
    """The stage was stopped while it loaded."""


def load(
    files: VolumeFiles, before: date, count: int, *, cancelled: Callable[[], bool] = lambda: False
) -> VolumeHistory:
    """The history of the last `count` days before a date. Works a third of the time: for a thread.

    Raises:
        Cancelled: `cancelled` said so.
    """
    days = [day for day in files.days() if day < before][-count:]
    while True:
        at: list[date] = []
        try:
            return _load(files, days, at, cancelled)
        except BadColumn as exc:  # its checksum is right, and it is nonsense all the same
            files.refuse(at[-1], str(exc))
            days.remove(at[-1])


def _load(
    files: VolumeFiles, days: list[date], at: list[date], cancelled: Callable[[], bool]
) -> VolumeHistory:
    def read() -> Iterator[DayVolumes]:
        for day in days:
            volumes = files.read(day)
            if volumes is not None:
                at.append(day)
                yield volumes

    steps = summarize(read())
    rested = time.perf_counter()
    while True:
        try:
            next(steps)
        except StopIteration as done:
            history: VolumeHistory = done.value
            return history
        if time.perf_counter() - rested >= _WORK_SECONDS:
            if cancelled():
                raise Cancelled
            time.sleep(_REST_SECONDS)
            rested = time.perf_counter()


class VolumeStage:
    """The stage that serves a `VolumeRecorder`. It may start and stop before or after the processor.

    Args:
        recorder: The analyzer.
        files: Where days are kept.
        days: How many a history rests on at most.
        server_ms: The provider's time, ms since the epoch; None while unknown.
    """

    name = "volume_history"

    def __init__(
        self,
        recorder: VolumeRecorder,
        files: VolumeFiles,
        *,
        days: int,
        server_ms: Callable[[], float | None] = lambda: None,
    ) -> None:
        self.recorder = recorder
        self.files = files
        self._days = days
        self._server_ms = server_ms
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._loaded_for: date | None = None
        self._ended: date | None = None  # the last day that was over by the provider's time
        self.written = 0

    async def start(self) -> None:
        """Begin to look for days that are over, and for a new one."""
        self._stopping = False
        self._task = asyncio.create_task(self._run(), name="volume-history")

    async def stop(self) -> None:
        """Write what is there of the present day, marked by what it covers. Safe to call twice."""
        if self._task is None:
            return
        self._stopping = True  # ends a thread that loads
        task, self._task = self._task, None
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        self._end_day_in_time()
        await self._write_ended()
        await self._write_present()

    def health(self) -> Health:
        days = len(self.recorder.history.days)
        if self.files.errors:
            return Health(True, f"{days} days; recorded volumes cannot be written")
        return Health(True, f"{days} days of recorded volumes, {self.recorder.covered} slots of today's")

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
            except Exception as exc:  # a defect of ours must not end the recording of further days
                log.error("volume_history_failed", exc_info=exc)
            await asyncio.sleep(_LOOK_SECONDS)

    async def look(self) -> None:
        """What is due now: a day that is over to write, a new one to load the history for."""
        if self._end_day_in_time():
            await self._write_present()
        await self._write_ended()
        day = self.recorder.market.clock.day
        if day is None or day.day == self._loaded_for:
            return
        self._loaded_for = wanted = day.day
        try:
            history = await asyncio.to_thread(
                load, self.files, wanted, self._days, cancelled=lambda: self._stopping
            )
        except Cancelled:
            return
        day = self.recorder.market.clock.day
        if day is not None and day.day == wanted:  # else another day began meanwhile: look again
            self.recorder.use(history)
            log.info("volume_history", days=len(history.days), symbols=len(history))

    def _end_day_in_time(self) -> bool:
        """End the present day's recording once its session is over; whether that is news."""
        day, now_ms = self.recorder.market.clock.day, self._server_ms()
        if day is None or now_ms is None or now_ms < day.post_ms + _AFTER_MS or self._ended == day.day:
            return False
        self._ended = day.day
        self.recorder.end_day()
        return True

    async def _pack(self) -> None:
        for _ in self.recorder.flush():
            await asyncio.sleep(0)

    async def _write_ended(self) -> None:
        await self._pack()
        for volumes in self.recorder.take_ended():
            await self._write(volumes)
            self._loaded_for = None  # it may be the day before today

    async def _write_present(self) -> None:
        await self._pack()
        volumes = self.recorder.so_far()
        if volumes is not None:
            await self._write(volumes)

    async def _write(self, volumes: DayVolumes) -> None:
        if await asyncio.to_thread(self.files.write, volumes):
            self.written += 1
            log.info(
                "volumes_recorded",
                day=volumes.day.isoformat(),
                symbols=len(volumes.symbols),
                slots=volumes.covered,
                complete=volumes.complete,
            )
