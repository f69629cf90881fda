"""An in-process queue: batches in a deque, one event to wake the worker."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from mdp.queues.base import Batch, QueueCounters


class MemoryQueue:
    """See `mdp.queues.base.Queue`. Made and used in one event loop.

    Args:
        name: The queue's name in metrics.
        max_events: Bound on waiting events; the oldest go first.
        ttl_ns: Age by arrival from which a batch is not handed out; 0 means never (halts).
        clock: Monotonic nanoseconds, the clock of `Batch.arrival_ns`.
    """

    def __init__(
        self, name: str, *, max_events: int, ttl_ns: int = 0, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self.name = name
        self.counters = QueueCounters()
        #: Told of what nobody will get: "expired" or "dropped", and the events as a batch. Must be quick.
        self.on_loss: Callable[[str, Batch], None] | None = None
        self._max_events = max_events
        self._ttl_ns = ttl_ns
        self._clock = clock
        self._batches: deque[Batch] = deque()
        self._waiting = 0
        self._closed = False
        self._wake = asyncio.Event()

    @property
    def waiting(self) -> int:
        return self._waiting

    @property
    def closed(self) -> bool:
        return self._closed

    def put(self, batch: Batch) -> int:
        count = len(batch)
        if not count:
            return 0
        self.counters.received += count
        if self._closed:
            self.counters.dropped += count
            return count
        self._batches.append(batch)
        self._waiting += count
        if not self._wake.is_set():
            self._wake.set()
        return self._make_room() if self._waiting > self._max_events else 0

    def take(self) -> Batch | None:
        oldest = self._clock() - self._ttl_ns
        while self._batches:
            batch = self._batches.popleft()
            count = len(batch)
            self._waiting -= count
            if self._ttl_ns and batch.arrival_ns < oldest:
                self.counters.expired += count
                if self.on_loss is not None:
                    self.on_loss("expired", batch)
                continue
            self.counters.taken += count
            if not self._batches and not self._closed:
                self._wake.clear()
            return batch
        if not self._closed:
            self._wake.clear()
        return None

    async def wait(self) -> None:
        await self._wake.wait()

    def close(self) -> None:
        self._closed = True
        self._wake.set()

    def _make_room(self) -> int:
        """Drop exactly as many of the oldest events as are over the bound."""
        surplus = self._waiting - self._max_events
        left = surplus
        while left:
            oldest = self._batches[0]
            if len(oldest) <= left:
                lost = self._batches.popleft()
            else:
                lost = oldest.part(0, left)
                self._batches[0] = oldest.part(left, len(oldest))
            left -= len(lost)
            if self.on_loss is not None:
                self.on_loss("dropped", lost)
        self._waiting -= surplus
        self.counters.dropped += surplus
        return surplus
