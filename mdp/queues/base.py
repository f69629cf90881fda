"""What a market data queue (MDQ) carries and counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

#: Up to which index of a batch's events they came in a frame (an arrival, the frame as received).
Mark = tuple[int, tuple[int, str | bytes]]


class Batch:
    """Events of one queue that were decoded in one step, in order of arrival.

    Attributes:
        events: The events. Analyzers must not change the list.
        arrival_ns: When the oldest of them arrived, on the monotonic clock.
        marks: Where they came from: `(end, (arrival_ns, frame))` for each frame, in order; empty where
            that is not known. Keeping a frame is cheaper than keeping its events: see `RawFeeds`.
    """

    __slots__ = ("_symbols", "arrival_ns", "events", "marks")

    def __init__(self, events: list[Any], arrival_ns: int, marks: Sequence[Mark] = ()) -> None:
        self.events = events
        self.arrival_ns = arrival_ns
        self.marks = marks
        self._symbols: set[str] | None = None

    def __len__(self) -> int:
        return len(self.events)

    @property
    def symbols(self) -> set[str]:
        """The symbols the batch touches; worked out once for all analyzers."""
        symbols = self._symbols
        if symbols is None:
            symbols = self._symbols = {event.symbol for event in self.events}
        return symbols

    def part(self, start: int, end: int) -> Batch:
        """The events from `start` up to `end`, as a batch."""
        marks = [(min(to, end) - start, source) for to, source in self.marks if to > start]
        while len(marks) > 1 and marks[-2][0] >= end - start:
            marks.pop()
        return Batch(self.events[start:end], self.arrival_ns, marks)


class QueueCounters(msgspec.Struct):
    """What came into a queue and what became of it, in events.

    At any time `received = taken + expired + dropped + waiting`; each is counted where it happens.
    """

    received: int = 0
    taken: int = 0
    expired: int = 0  # older than the TTL when their turn came
    dropped: int = 0  # oldest first, to make room


class Queue(Protocol):
    """First in, first out; bounded by events; what is older than the TTL is never handed out."""

    name: str
    counters: QueueCounters

    def put(self, batch: Batch) -> int:
        """Queue a batch, dropping the oldest events when full. Never waits. Returns how many were dropped."""

    def take(self) -> Batch | None:
        """The oldest batch that has not expired, or None where nothing waits."""

    async def wait(self) -> None:
        """Return once something waits or the queue was closed."""

    def close(self) -> None:
        """Refuse further batches (they count as dropped) and wake whoever waits."""

    @property
    def waiting(self) -> int:
        """Events that wait."""

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
