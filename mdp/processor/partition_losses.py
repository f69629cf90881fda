"""What of a partition's events was never processed: counts of the process, ledgers of partitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mdp.processor.partition_gaps import PartitionGaps
from mdp.queues.base import Batch


class PartitionLosses:
    """Of all partitions of a process. Quick: the ledger is brought up to date once a second (`Repairs`).

    Args:
        gaps_of: The ledger of a partition; None where it is not worked on (any more).

    Attributes:
        events: Lost, by (queue, reason).
    """

    def __init__(self, gaps_of: Callable[[int], PartitionGaps | None]) -> None:
        self.events: dict[tuple[str, str], int] = {}
        self._gaps_of = gaps_of

    def note(
        self, queue: str, partition: int, events: int, reason: str, bars: list[Any] | None = None
    ) -> None:
        """Events of a partition went by unprocessed.

        Args:
            queue: Whose.
            partition: Which.
            events: How many.
            reason: `missed` (trimmed before they were read), `expired` or `unreadable`.
            bars: Those that were lost; None: it may have been any symbol's of the partition.
        """
        key = (queue, reason)
        self.events[key] = self.events.get(key, 0) + events
        gaps = self._gaps_of(partition)
        if gaps is None or not events:
            return
        if bars is None:
            gaps.losses.note(queue, reason, events, None)
        else:
            gaps.losses.queue_lost(queue, reason, Batch(bars, 0))
