"""When to read, when to work.

Reading comes first: the provider cuts off whoever reads too slowly. So before each step of decoding
the loop is given to the reader, for 2 ms at most, until it finds nothing more to read.

With one exception. A source that sends as fast as we read (a replay at full speed) would by that rule
overflow any buffer. There the right thing is to pause reading and let TCP slow the sender. The two are
told apart by the market's own time: a live feed that we delay falls behind the wall clock, a replay
runs ahead of it. As long as the market's time has not fallen behind by more than `BEHIND_MS` against
the best of the last minute, a backlog pauses the reader; once it has, reading comes first again and
the ring sheds what is too old.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from mdp.listener.ring import RawRing

READ_NS = 2_000_000
HOLD_NS = 150_000_000  # of backlog: pause the reader
RELEASE_NS = 50_000_000
BEHIND_MS = 150.0
_WINDOW_NS = 30_000_000_000
# `asyncio.wait_for`, in which the official client reads, takes three turns of the loop per frame on 3.11.
_IDLE_TURNS = 4


class Pace:
    """See the module. `note` what was decoded, `turn` before each step."""

    def __init__(self, ring: RawRing, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._ring = ring
        self._clock = clock
        self._window_ends = 0
        self._best = self._best_before = float("inf")  # least drift in this window and the one before
        self._market_ms = 0.0
        self.behind = False
        self.holds = 0  # times the reader was paused
        #: Workers leave the loop to the reader meanwhile. Only where we are behind: each turn of the loop in
        #: which they take a batch is one of the few turns that reading a frame needs.
        self.reading = False

    def note(self, arrival_ns: int, market_ms: float) -> None:
        """What arrived at `arrival_ns` had brought the market clock to `market_ms`."""
        drift = arrival_ns / 1e6 - market_ms
        if market_ms < self._market_ms:  # the market began again (a replay): what was before says nothing
            self._best = self._best_before = drift
        self._market_ms = market_ms
        if arrival_ns >= self._window_ends:
            self._best_before, self._best = self._best, drift
            self._window_ends = arrival_ns + _WINDOW_NS
        elif drift < self._best:
            self._best = drift
        self.behind = drift - min(self._best, self._best_before) > BEHIND_MS

    async def turn(self) -> None:
        """Give the loop to the reader, as the rule says."""
        ring = self._ring
        oldest = ring.oldest_arrival_ns
        backlog = 0 if oldest is None else self._clock() - oldest
        if ring.holding:
            if self.behind or backlog < RELEASE_NS:
                ring.release()
        elif backlog > HOLD_NS and not self.behind:
            ring.hold()
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
