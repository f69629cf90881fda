"""The platform's gap ledger: whether it says of a time and a symbol that data was lost there."""

from __future__ import annotations

from typing import Any

import msgspec

from tests.failures.cluster import Cluster

#: An outage begins by the market clock, and bars come two seconds after their end. (Where they expired, it
#: is known which: then the loss begins where they do.)
_EARLIER_MS = 5_000
_LATER_MS = 1_000  # the length of a bar


class Entry(msgspec.Struct):
    """Of the ledger; the times are the market's, in ms."""

    start_ms: float
    end_ms: float | None  # None: it lasts
    symbols: frozenset[str] | None  # whose data; None: it may have been anybody's

    def covers(self, symbol: str, at_ms: float) -> bool:
        """Whether data of a symbol at a time may have been lost."""
        if self.symbols is not None and symbol not in self.symbols:
            return False
        return self.start_ms - _EARLIER_MS <= at_ms <= (self.end_ms or float("inf")) + _LATER_MS


def entry_of(gap: dict[str, Any]) -> Entry | None:
    """One entry of `GET /api/v1/gaps`; None where it says of no bars that they were lost."""
    if gap["market_start_ms"] is None or "daily_range_hod_alert" not in gap["not_recoverable"]:
        return None
    names, count = gap["symbols"], gap["symbols_count"]
    named = frozenset(names) if names is not None and count == len(names) else None
    return Entry(gap["market_start_ms"], gap["market_end_ms"], named)


def is_alert(key: tuple[Any, ...]) -> bool:
    """Whether an identity is an alert's, not a halt's."""
    return len(key) == 5


class Gaps:
    """All entries that any processor has told, by what identifies them."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._entries: dict[tuple[Any, ...], Entry] = {}

    async def look(self) -> None:
        """Ask all processors. What has moved to another ledger, or went with a process, is remembered."""
        for role in self._cluster.of("processor"):
            answer = await role.ask("/gaps") or {"gaps": ()}
            for gap in answer["gaps"]:
                entry = entry_of(gap)
                if entry is not None:
                    known = (role.name, gap.get("partition"), gap["number"], gap["start_ms"], gap["reason"])
                    self._entries[known] = entry

    def cover(self, key: tuple[Any, ...]) -> bool:
        """Whether an alert's bar, or a halt, is within an entry."""
        at_ms = key[4] * 1_000 if is_alert(key) else key[2]
        return any(entry.covers(key[0], at_ms) for entry in self._entries.values())
