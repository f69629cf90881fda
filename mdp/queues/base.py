"""What a market data queue (MDQ) carries and counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

#: A frame as received (text, or a `mdp.queues.entry.PackedEvents`), with its arrival on the monotonic clock.
Source = tuple[int, Any]


class Batch:
    """Events of one queue that were decoded in one step, in order of arrival.

    Attributes:
        events: The events. Analyzers must not change the list.
        arrival_ns: When the oldest of them arrived, on the monotonic clock.
        sources: The frames of the step, oldest first: one list shared by the batches of all queues, so
            that keeping frames costs nothing per event (see `RawFeeds`). Empty where they are not known.
    """

    __slots__ = ("_symbols", "arrival_ns", "events", "sources")

    def __init__(self, events: list[Any], arrival_ns: int, sources: Sequence[Source] = ()) -> None:
        self.events = events
        self.arrival_ns = arrival_ns
        self.sources = sources
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
        return Batch(self.events[start:end], self.arrival_ns, self.sources)


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
