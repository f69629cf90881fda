"""What a partition never saw: it marks its symbols, as `mdp.processor.losses` does in one process.

Bars that were trimmed unread, were damaged or expired may have been any symbol's of the partition. What the
listener itself missed, it says in the hash `mdp:listener` (`mdp.processor.listener_gaps`).
"""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from mdp.analyzers.state import Market
from mdp.events import AGGREGATES

log = structlog.get_logger(__name__)


class PartitionLosses:
    """Of all partitions of a process. `note` is quick; `mark` is called once a second or so.

    Attributes:
        events: Lost, by (queue, reason).
    """

    def __init__(self) -> None:
        self.events: dict[tuple[str, str], int] = {}
        self._noted: dict[int, int] = {}  # partition -> events of bars lost since the last look
        self._since: dict[int, float] = {}  # partition -> market clock at the last look

    def note(self, queue: str, partition: int, events: int, reason: str) -> None:
        """Events of a partition went by unread."""
        key = (queue, reason)
        self.events[key] = self.events.get(key, 0) + events
        if queue == AGGREGATES and events:
            self._noted[partition] = self._noted.get(partition, 0) + events

    def mark(self, markets: Mapping[int, Market]) -> None:
        """Mark the markets of partitions that lost bars since the last call."""
        for partition, market in markets.items():
            now_ms = market.clock.now_ms
            lost = self._noted.pop(partition, 0)
            if lost and now_ms:
                market.lose(since_ms=min(self._since.get(partition, now_ms), now_ms))
                log.warning("data_lost", partition=partition, events=lost)
            self._since[partition] = now_ms
        for partition in [known for known in self._since if known not in markets]:
            del self._since[partition]
