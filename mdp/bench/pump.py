"""When frames are sent: closed loop (as fast as they are read) or open loop (when they are due)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

from mdp.bench.control import Sent
from mdp.bench.figures import Histogram
from mdp.bench.frames import Frame, FrameSource
from mdp.bench.outbox import Outbox
from mdp.bench.wire import text_frame

_STEP_FRAMES = 32  # before the loop gets its turn: clients receive in between
_TICK_SECONDS = 0.001
_EVENTS_PER_MARKET_MS = 100  # closed loop: market time goes as at 100,000 events a second


class Pump:
    """Moves frames from a source into an outbox, one phase at a time.

    Counts a frame as sent when it goes into the outbox; a phase is over only when the outbox is empty,
    so between phases the count is exactly what the kernel took (unless the connection was cut).

    Args:
        source: Where frames come from.
        base_ms: Market time of the first frame, epoch ms.
        slow_bytes: Bytes that may wait for the reader in open loop before `cut` is called.
        slow_seconds: The same for the oldest of them.
        cut: Told why, when the reader is too slow.
    """

    def __init__(
        self,
        source: FrameSource,
        *,
        base_ms: int,
        slow_bytes: int,
        slow_seconds: float,
        cut: Callable[[str], None],
    ) -> None:
        self._source = source
        self._slow_bytes, self._slow_ns = slow_bytes, int(slow_seconds * 1e9)
        self._cut = cut
        self._loop = asyncio.get_running_loop()
        self._outbox: Outbox | None = None
        self._frames: Iterator[Frame] | None = None  # of a fill
        self._active = False
        self._open_loop = False
        self._window = 0
        self._credited = 0
        self._scheduled: asyncio.Handle | None = None
        self._finished: asyncio.Future[None] | None = None
        self._market_ms = float(base_ms)
        self._phase_ns = 0  # monotonic start of an open loop
        self._phase_ms = 0.0  # its market time
        self._interval_ns = 0.0
        self._due_index = 0
        self._due_frames = 0
        self.sent = Sent()
        self.lateness = Histogram()

    @property
    def market_ms(self) -> float:
        """Market time of the newest frame, epoch ms."""
        return self._market_ms

    def attach(self, outbox: Outbox) -> None:
        """Send through this connection from now on."""
        self._outbox = outbox

    def age_ms(self, market_ms: int) -> float | None:
        """How long ago a frame with this market time was due; None if it was before this open loop."""
        if market_ms < self._phase_ms:
            return None
        return (time.monotonic_ns() - self._phase_ns) / 1e6 - (market_ms - self._phase_ms)

    def closed(self, window_events: int) -> None:
        """Send without end, at most `window_events` ahead of the credit (0: no such limit)."""
        self._window, self._frames, self._open_loop = window_events, None, False
        self._begin()

    def fill(self, full_windows: int, window_events: int) -> asyncio.Future[None]:
        """Send the source's fill under the same rule; done when the kernel has all of it."""
        self._window, self._open_loop = window_events, False
        self._frames = self._fill_frames(full_windows)
        self._begin()
        return self._finish()

    def open(self, events_per_second: float, seconds: float) -> asyncio.Future[None]:
        """Send frames when they are due; done when the kernel has all of them, or at the cut."""
        size = self._source.options.events_per_frame
        self._frames, self._open_loop = None, True
        self._interval_ns = size / events_per_second * 1e9
        self._due_index, self._due_frames = 0, max(round(events_per_second * seconds / size), 1)
        self._phase_ms = float(int(self._market_ms) + 1)
        self._phase_ns = time.monotonic_ns()
        self.lateness = Histogram()
        self._begin()
        return self._finish()

    def pause(self) -> asyncio.Future[None]:
        """Send no more; done when the kernel has everything."""
        self._active = False
        future = self._finish()
        self._settle()
        return future

    def credit(self, events: int) -> None:
        """The platform is through with this many events since the start."""
        if events > self._credited:
            self._credited = events
            self._wake()

    def room(self) -> None:
        """The outbox is empty again."""
        self._wake()
        self._settle()

    def abandon(self) -> None:
        """The connection is gone: what waits is lost, the phase is over."""
        self._active = False
        if self._finished is not None and not self._finished.done():
            self._finished.set_result(None)

    def _begin(self) -> None:
        if self._outbox is None:
            raise RuntimeError("nobody is subscribed")
        self._active = True
        self._wake()

    def _finish(self) -> asyncio.Future[None]:
        self._finished = self._loop.create_future()
        return self._finished

    def _settle(self) -> None:
        done = self._outbox is None or self._outbox.error is not None or not self._outbox.waiting_bytes
        if not self._active and done and self._finished is not None and not self._finished.done():
            self._finished.set_result(None)

    def _wake(self) -> None:
        if self._active and self._scheduled is None:
            self._scheduled = self._loop.call_soon(self._step)

    def _step(self) -> None:
        self._scheduled = None
        if not self._active or self._outbox is None:
            return
        if self._open_loop:
            self._step_open(self._outbox)
        else:
            self._step_closed(self._outbox)
        if self._outbox.error is not None:
            self.abandon()
        self._settle()

    def _step_closed(self, outbox: Outbox) -> None:
        now = time.monotonic_ns()
        for _ in range(_STEP_FRAMES):
            if self._window and self.sent.events - self._credited >= self._window:
                outbox.flush()
                return  # `credit` wakes
            frame = self._next_closed()
            if frame is None:
                self._active = False
                outbox.flush()
                return
            self._put(outbox, frame, now)
        if outbox.flush():
            self._wake()  # else `room` wakes

    def _next_closed(self) -> Frame | None:
        if self._frames is not None:
            self._market_ms += 1
            return next(self._frames, None)
        self._market_ms += self._source.options.events_per_frame / _EVENTS_PER_MARKET_MS
        return self._source.next(int(self._market_ms))

    def _fill_frames(self, full_windows: int) -> Iterator[Frame]:
        for part in self._source.fill_parts(full_windows):
            yield from part(int(self._market_ms))

    def _step_open(self, outbox: Outbox) -> None:
        now = time.monotonic_ns()
        for _ in range(_STEP_FRAMES):
            due = self._phase_ns + int(self._due_index * self._interval_ns)
            if due > now or self._due_index >= self._due_frames:
                break
            self.lateness.add((now - due) / 1e6)
            self._market_ms = self._phase_ms + (due - self._phase_ns) / 1e6
            self._put(outbox, self._source.next(int(self._market_ms)), due)
            self._due_index += 1
        else:
            self._wake()  # behind: go on as soon as the clients had their turn
        outbox.flush()
        if outbox.waiting_bytes > self._slow_bytes or outbox.waited_ns > self._slow_ns:
            waited = f"{outbox.waiting_bytes} bytes and {outbox.waited_ns / 1e9:.1f} s of data wait"
            self.abandon()
            self._cut(waited)
        elif self._due_index >= self._due_frames:
            self._active = False
        elif self._scheduled is None:
            # call_later counts in whole milliseconds under uvloop: frames go out at most 1 ms late
            self._scheduled = self._loop.call_later(_TICK_SECONDS, self._step)

    def _put(self, outbox: Outbox, frame: Frame, due_ns: int) -> None:
        outbox.put(text_frame(frame.data), due_ns)
        sent = self.sent
        sent.frames += 1
        sent.bytes += len(frame.data)
        sent.trades += frame.trades
        sent.quotes += frame.quotes
        sent.aggregates += frame.aggregates
