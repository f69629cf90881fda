"""What drives the data: the simulated market against the clock, or a recording."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from .hub import Hub
from .intraday import RecentBars
from .market import STEP_MS, SyntheticMarket
from .recording import Line, first_arrival_ns, read_chunks, split_events

_MAX_BEHIND_SECONDS = 5.0  # a machine that slept does not get all it missed at once
_CLOSED_LOOP_BYTES = 256 * 1024  # waiting for the slowest reader before "max" pauses
_FRAMES_BETWEEN_YIELDS = 64
_PAUSE_SECONDS = 0.02  # between two looks whether a market that stands still may go on


class MarketFeed:
    """The simulated market at its own pace: `speed` market seconds a second, 0 as fast as it is read."""

    def __init__(
        self,
        market: SyntheticMarket,
        speed: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.market = market
        self.recent = RecentBars()  # what the range endpoint answers from
        self._speed = speed
        self._clock = clock

    @property
    def now_ms(self) -> int:
        """The simulated time."""
        return self.market.now_ms

    async def run(self, hub: Hub) -> None:
        """Until cancelled."""
        if not self._speed:
            while True:
                await hub.subscribed()
                await self._unpaused(hub)
                self._step(hub)
                await hub.room(_CLOSED_LOOP_BYTES)
                await asyncio.sleep(0)
        seconds = STEP_MS / 1_000 / self._speed
        due = self._clock()
        while True:
            now = self._clock()
            if now < due:
                await asyncio.sleep(due - now)
                continue
            if hub.paused:
                await self._unpaused(hub)
                due = self._clock()
                continue
            if now - due > _MAX_BEHIND_SECONDS:
                due = now
            self._step(hub)
            due += seconds
            await asyncio.sleep(0)

    @staticmethod
    async def _unpaused(hub: Hub) -> None:
        while hub.paused:  # noqa: ASYNC110  rare, and nobody waits for it
            await asyncio.sleep(_PAUSE_SECONDS)

    def _step(self, hub: Hub) -> None:
        events = self.market.advance()
        self.recent.note(events)
        hub.publish(events)


class ReplayFeed:
    """A recording with its own gaps between frames divided by `speed`, 0 as fast as it is read."""

    def __init__(
        self,
        path: Path,
        speed: float,
        *,
        wait: bool = True,
        loop: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Looks at the first frame.

        Raises:
            RecordingError: The file cannot be read.
        """
        self.path = path
        self.finished = asyncio.Event()  # every frame has been handed to the sockets, once through
        self.frames = 0
        self._arrival_ns = first_arrival_ns(path)
        self._speed = speed
        self._wait = wait
        self._loop = loop
        self._clock = clock

    @property
    def now_ms(self) -> int:
        """Arrival of the last frame sent; of the first one before that."""
        return self._arrival_ns // 1_000_000

    @property
    def now_ns(self) -> int:
        """The same in ns."""
        return self._arrival_ns

    async def run(self, hub: Hub) -> None:
        """Once through the recording, or for ever.

        Raises:
            RecordingError: A line cannot be read; what came before it has been sent.
        """
        if self._wait:
            await hub.subscribed()
        while True:
            await self._once(hub)
            hub.release_late()
            await hub.flushed()
            self.finished.set()
            if not self._loop:
                return
            await asyncio.sleep(0.01)

    async def _once(self, hub: Hub) -> None:
        chunks = read_chunks(self.path)
        begin = first = 0.0
        while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
            if not self._speed:
                await self._closed_loop(hub, chunk)
                continue
            for line in chunk:
                if not first:
                    begin, first = self._clock(), line.arrival_ns
                due = begin + (line.arrival_ns - first) / 1e9 / self._speed
                ahead = due - self._clock()
                # Sleeps below a millisecond cost more than they are worth.
                if ahead > 0.001 or self.frames % _FRAMES_BETWEEN_YIELDS == 0:
                    await asyncio.sleep(max(0.0, ahead))
                self._send(hub, line)

    async def _closed_loop(self, hub: Hub, chunk: list[Line]) -> None:
        for line in chunk:
            if self.frames % _FRAMES_BETWEEN_YIELDS == 0:
                await asyncio.sleep(0)
                if self._wait:
                    await hub.subscribed()
                await hub.room(_CLOSED_LOOP_BYTES)
            self._send(hub, line)

    def _send(self, hub: Hub, line: Line) -> None:
        self.frames += 1
        self._arrival_ns = line.arrival_ns
        if hub.corrupting:
            hub.publish(split_events(line.payload))
        else:
            hub.publish_frame(line.payload)
