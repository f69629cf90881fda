"""The raw ring: frames as received, waiting to be decoded. All that the client's callback touches.

Bounded by bytes and by age. What does not fit is shed as whole frames, oldest first, undecoded: its
events are counted by occurrences of `"ev":`, which costs a scan and no parsing.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

import msgspec

Frame = str | bytes


class RingCounters(msgspec.Struct):
    """`frames = taken + shed + waiting`; bytes of text frames are counted as characters."""

    frames: int = 0
    bytes: int = 0
    taken_frames: int = 0
    shed_frames: int = 0
    shed_events: int = 0


class RawRing:
    """See the module. Used from one event loop.

    Args:
        max_bytes: Bound on the frames that wait together.
        max_age_ns: Frames that waited longer are shed when the next is taken.
        clock: Monotonic nanoseconds.
    """

    def __init__(
        self, *, max_bytes: int, max_age_ns: int, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self.counters = RingCounters()
        #: Off while the feed is no live one (see `mdp.processor.pace`): nobody waits for a replay's news.
        self.shed_by_age = True
        self._max_bytes = max_bytes
        self._max_age_ns = max_age_ns
        self._clock = clock
        self._frames: deque[tuple[int, Frame]] = deque()
        self._bytes = 0
        self._wake = asyncio.Event()
        self._gate = asyncio.Event()
        self._gate.set()

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def bytes(self) -> int:
        """Bytes that wait."""
        return self._bytes

    @property
    def oldest_arrival_ns(self) -> int | None:
        """Arrival of the frame that waits longest."""
        return self._frames[0][0] if self._frames else None

    @property
    def newest(self) -> tuple[int, Frame] | None:
        """The frame that was read last, with its arrival, while it waits."""
        return self._frames[-1] if self._frames else None

    def append(self, frame: Frame, arrival_ns: int) -> None:
        """Keep a frame, shedding the oldest where it does not fit. Never waits."""
        size = len(frame)
        counters = self.counters
        counters.frames += 1
        counters.bytes += size
        self._bytes += size
        self._frames.append((arrival_ns, frame))
        if self._bytes > self._max_bytes:
            while self._bytes > self._max_bytes:
                self._shed()
        if len(self._frames) == 1:
            self._wake.set()

    def take(self) -> tuple[int, Frame] | None:
        """The oldest frame that is young enough, with its arrival; None where nothing waits."""
        frames = self._frames
        if not frames:
            self._wake.clear()
            return None
        if self.shed_by_age:
            too_old = self._clock() - self._max_age_ns
            while frames[0][0] < too_old:
                self._shed()
                if not frames:
                    self._wake.clear()
                    return None
        item = frames.popleft()
        self._bytes -= len(item[1])
        self.counters.taken_frames += 1
        return item

    async def wait(self) -> None:
        """Return once a frame waits (or `wake` was called)."""
        if not self._frames:
            self._wake.clear()
            await self._wake.wait()

    def wake(self) -> None:
        """Let whoever waits look again (used at shutdown)."""
        self._wake.set()

    @property
    def holding(self) -> bool:
        """Whether the reader is asked to pause (the socket then fills, and TCP holds the sender)."""
        return not self._gate.is_set()

    def hold(self) -> None:
        """Ask the reader to pause; see `mdp.processor.pace` for when that is right."""
        self._gate.clear()

    def release(self) -> None:
        """Let the reader go on."""
        self._gate.set()

    async def released(self) -> None:
        """What the reader awaits while `holding`."""
        await self._gate.wait()

    def _shed(self) -> None:
        _, frame = self._frames.popleft()
        self._bytes -= len(frame)
        self.counters.shed_frames += 1
        self.counters.shed_events += frame.count('"ev":') if isinstance(frame, str) else frame.count(b'"ev":')
