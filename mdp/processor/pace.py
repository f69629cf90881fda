"""When to read, when to work.

Reading comes first: the provider cuts off whoever reads too slowly. So before each step of decoding
the loop is given to the reader, for 2 ms at most (20 where we are late), until it finds nothing more to
read; what then waits too long, the ring sheds.

With one exception. A source that sends as fast as we read (a replay at full speed) would by that rule
overflow any buffer, for nobody's good. It shows by the market's own time, which runs faster than the
wall clock, as no live feed's can. While it does, a backlog pauses the reader, TCP slows the sender, and
nothing is too old. A feed that falls behind the wall clock is a live one, whatever it was before.

The time of what is read now decides, not of what is decoded now, which may have waited for a second.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable

from mdp.events import milliseconds
from mdp.listener.ring import Frame, RawRing

READ_NS = 2_000_000
READ_BEHIND_NS = (
    20_000_000  # while a live feed is late: a fast one leaves half a second before it cuts us off
)
HOLD_NS = 150_000_000  # of backlog: pause the reader of a replay
RELEASE_NS = 50_000_000
BEHIND_MS = 150.0  # later than at best by so much: a live feed that we delay
AHEAD_MS = 20.0  # earlier than ever before by so much: a replay
STICKY_NS = 10_000_000_000  # for so long it is taken for the one or the other
LOOK_NS = 10_000_000  # of backlog, from which on the newest frame is looked at
_NEVER = float("inf")
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
        self._best = self._best_before = _NEVER  # least drift in this window and the one before
        self._market_ms = 0.0  # of what was decoded
        self._newest_ms = 0.0  # of what was read
        self._behind_until = 0
        self._replaying_until = 0
        self.holds = 0  # times the reader was paused
        #: Cleared while workers leave the loop to the reader. Only where we are behind: each turn of the loop
        #: in which they take a batch is one of the few turns that reading a frame needs.
        self.may_work = asyncio.Event()
        self.may_work.set()

    @property
    def behind(self) -> bool:
        """Whether the feed is a live one that we delayed lately."""
        return self._clock() < self._behind_until

    @property
    def replaying(self) -> bool:
        """Whether the market's time ran faster than the wall clock lately."""
        return self._clock() < self._replaying_until

    def note(self, arrival_ns: int, market_ms: float) -> None:
        """What arrived at `arrival_ns` had brought the market clock to `market_ms`."""
        if market_ms < self._market_ms:  # the market began again (a replay): what was before says nothing
            self._best = self._best_before = arrival_ns / 1e6 - market_ms
            self._newest_ms = market_ms
            self._behind_until = 0
        self._market_ms = market_ms
        if market_ms >= self._newest_ms:  # else what was read since knows better
            self._judge(arrival_ns, market_ms)

    def _judge(self, arrival_ns: int, market_ms: float) -> None:
        drift = arrival_ns / 1e6 - market_ms
        best = min(self._best, self._best_before)
        if drift - best > BEHIND_MS:
            self._behind_until = self._clock() + STICKY_NS
            self._replaying_until = 0
        elif best - drift > AHEAD_MS and best != _NEVER:
            self._replaying_until = self._clock() + STICKY_NS
            self._behind_until = 0
        if arrival_ns >= self._window_ends:
            self._best_before, self._best = self._best, drift
            self._window_ends = arrival_ns + _WINDOW_NS
        elif drift < self._best:
            self._best = drift

    def _look(self) -> None:
        """Judge by the newest frame that was read."""
        newest = self._ring.newest
        market_ms = None if newest is None else _time_of(newest[1])
        if newest is None or market_ms is None:
            return
        # A frame may end with a late event; the clock does not go back for it.
        self._newest_ms = max(self._newest_ms, market_ms)
        self._judge(newest[0], self._newest_ms)

    async def turn(self) -> None:
        """Give the loop to the reader, as the rule says."""
        ring = self._ring
        replaying = self.replaying
        ring.shed_by_age = not replaying
        oldest = ring.oldest_arrival_ns
        backlog = 0 if oldest is None else self._clock() - oldest
        if ring.holding:
            if not replaying or backlog < RELEASE_NS:
                ring.release()
        elif backlog > HOLD_NS and replaying:
            ring.hold()
            self.holds += 1
        if ring.holding:
            await asyncio.sleep(0)
            return
        await asyncio.sleep(0)  # the workers' turn: one batch each, which must not count as reading
        if self.behind:
            self.may_work.clear()
        try:
            await self._read()
        finally:
            self.may_work.set()
        if backlog > LOOK_NS:
            self._look()

    async def _read(self) -> None:
        ring = self._ring
        until = self._clock() + (READ_BEHIND_NS if self.behind else READ_NS)
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
