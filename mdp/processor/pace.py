"""When to read, when to work.

Reading comes first: the provider cuts off whoever reads too slowly. So before each step of decoding
the loop is given to the reader, for 2 ms at most, until it finds nothing more to read.

With one exception. A source that sends as fast as we read (a replay at full speed) would by that rule
overflow any buffer. There the right thing is to pause reading and let TCP slow the sender. The two are
told apart by the market's own time: a live feed that we delay falls behind the wall clock, a replay
runs ahead of it. As long as the market's time has not fallen behind by more than `BEHIND_MS` against
the best of the last minute, a backlog pauses the reader; once it has, reading comes first again and
the ring sheds what is too old.

The time of what is read *now* decides, not of what is decoded now: that may have waited in the ring for
a second, in which an overloaded feed sends more than the provider lets wait. So a pause is short, and
after each the newest frame is looked at, without decoding it.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable

from mdp.events import milliseconds
from mdp.listener.ring import Frame, RawRing

READ_NS = 2_000_000
HOLD_NS = 150_000_000  # of backlog: pause the reader
RELEASE_NS = 50_000_000
PAUSE_NS = 50_000_000  # longest pause, before the newest frame is looked at
BEHIND_MS = 150.0
STICKY_NS = 10_000_000_000  # a feed that was late when read is taken for a live one for so long
_WINDOW_NS = 30_000_000_000
# `asyncio.wait_for`, in which the official client reads, takes three turns of the loop per frame on 3.11.
_IDLE_TURNS = 4
_TAIL = 400  # characters at a frame's end: its last event, or nearly all of it
_TIME = re.compile(r'"[ts]":\s*(\d{13,19})\b')


class Pace:
    """See the module. `note` what was decoded, `turn` before each step."""

    def __init__(self, ring: RawRing, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._ring = ring
        self._clock = clock
        self._window_ends = 0
        self._best = self._best_before = float("inf")  # least drift in this window and the one before
        self._market_ms = 0.0  # of what was decoded
        self._newest_ms = 0.0  # of what was read
        self._late = False
        self._live_until = 0
        self._held_ns = 0
        self.holds = 0  # times the reader was paused
        #: Workers leave the loop to the reader meanwhile. Only where we are behind: each turn of the loop in
        #: which they take a batch is one of the few turns that reading a frame needs.
        self.reading = False

    @property
    def behind(self) -> bool:
        """Whether the feed is a live one that we delay."""
        return self._late or self._clock() < self._live_until

    def note(self, arrival_ns: int, market_ms: float) -> None:
        """What arrived at `arrival_ns` had brought the market clock to `market_ms`."""
        if market_ms < self._market_ms:  # the market began again (a replay): what was before says nothing
            self._best = self._best_before = arrival_ns / 1e6 - market_ms
            self._newest_ms = market_ms
            self._live_until = 0
        self._market_ms = market_ms
        self._late = self._judge(arrival_ns, market_ms)

    def _judge(self, arrival_ns: int, market_ms: float) -> bool:
        drift = arrival_ns / 1e6 - market_ms
        if arrival_ns >= self._window_ends:
            self._best_before, self._best = self._best, drift
            self._window_ends = arrival_ns + _WINDOW_NS
        elif drift < self._best:
            self._best = drift
        return drift - min(self._best, self._best_before) > BEHIND_MS

    def _look(self) -> None:
        """Judge by the newest frame that was read."""
        newest = self._ring.newest
        if newest is None:
            return
        arrival_ns, frame = newest
        market_ms = _time_of(frame)
        if market_ms is None:
            return
        # A frame may end with a late event; the clock does not go back for it.
        self._newest_ms = max(self._newest_ms, market_ms)
        if self._judge(arrival_ns, self._newest_ms):
            self._late = True
            self._live_until = self._clock() + STICKY_NS

    async def turn(self) -> None:
        """Give the loop to the reader, as the rule says."""
        ring = self._ring
        now = self._clock()
        oldest = ring.oldest_arrival_ns
        backlog = 0 if oldest is None else now - oldest
        if ring.holding:
            if self.behind or backlog < RELEASE_NS or now - self._held_ns > PAUSE_NS:
                ring.release()
        elif backlog > HOLD_NS and not self.behind:
            ring.hold()
            self._held_ns = now
            self.holds += 1
        if ring.holding:
            await asyncio.sleep(0)
            return
        if self.behind:
            await asyncio.sleep(0)  # the workers' turn: one batch each
        self.reading = self.behind
        try:
            await self._read()
        finally:
            self.reading = False
        if backlog > RELEASE_NS:
            self._look()

    async def _read(self) -> None:
        ring = self._ring
        until = self._clock() + READ_NS
        idle = 0
        seen = ring.counters.frames
        while idle < _IDLE_TURNS:
            await asyncio.sleep(0)
            now_seen = ring.counters.frames
            if now_seen == seen:
                idle += 1
            else:
                seen, idle = now_seen, 0
                if self._clock() > until:
                    return


def _time_of(frame: Frame) -> float | None:
    """The market time, in ms, of the last event of a frame; None where its end shows none."""
    tail = frame[-_TAIL:]
    text = tail if isinstance(tail, str) else tail.decode("utf-8", "replace")
    times = _TIME.findall(text)
    return float(milliseconds(int(times[-1]))) if times else None
