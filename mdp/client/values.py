"""Messages as values, without a connection: deltas applied, names compared."""

from __future__ import annotations

import functools
from typing import Any, Literal

import msgspec

#: Feeds whose messages are events (docs/feeds.md); all others have a state.
EVENT_FEEDS = (
    "unknown",
    "halts",
    "alerts",
    "daily_range_hod_alert",
    "daily_range_lod_alert",
    "news:feed:latest",
    "news:ticker:*",
    "stocks:trades:*",
    "stocks:luld:*",
    "scanners:*:events",
)


class Update(msgspec.Struct, frozen=True):
    """What a subscription yields. Values share parts with the ones after them: do not change them.

    Attributes:
        feed: The feed's own name, also where a wildcard was subscribed. Of version 1: what was subscribed.
        value: The whole value of a state feed (None: there is none, or it fails `where`), or one event, or
            the last events of a feed, newest first.
        epoch, seq: The publisher's numbers; 0 from a service of version 1.
        ts: When it was published, in ms since the Unix epoch; 0 from a service of version 1.
        kind: `value` (state), `event`, or `list`: what an event feed had before the events that follow.
        gap: Events between the last update of this feed and this one were missed and are not kept any more.
    """

    feed: str
    value: Any
    epoch: int = 0
    seq: int = 0
    ts: int = 0
    kind: Literal["value", "event", "list"] = "value"
    gap: bool = False


def apply_delta(value: Any, delta: Any) -> Any:
    """The value after a delta (docs/protocol.md); the value before stays as it is.

    Args:
        value: A value's fields, or rows of a board in order.
        delta: `data` of a message of kind `delta`.

    Raises:
        KeyError, TypeError, AttributeError: The delta does not fit the value.
    """
    if isinstance(value, dict):
        return {**value, **delta}
    rows: dict[str, dict[str, Any]] = {row["symbol"]: row for row in value}
    for symbol in delta.get("gone", ()):
        del rows[symbol]
    for symbol, change in delta.get("set", {}).items():
        rows[symbol] = {**rows.get(symbol, {}), **change}
    if "order" in delta:
        return [rows[symbol] for symbol in delta["order"]]
    if all("rank" in row for row in rows.values()):
        return sorted(rows.values(), key=_rank)
    return list(rows.values())


def _rank(row: dict[str, Any]) -> Any:
    return row["rank"]


def overlap(one: str, other: str) -> bool:
    """Whether a feed may exist that both patterns name; True where that is not plain.

    A `*` stands for one or more segments, as symbols may hold colons.
    """
    if "*" not in one and "*" not in other:
        return one == other
    (start, end), (other_start, other_end) = _ends(one), _ends(other)
    return all(a == b for a, b in zip(start, other_start, strict=False)) and all(
        a == b for a, b in zip(end, other_end, strict=False)
    )


@functools.lru_cache(maxsize=4096)
def _ends(pattern: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The segments before the first `*`, and those behind the last one, the last first."""
    segments = pattern.split(":")
    if "*" not in segments:
        return tuple(segments), tuple(reversed(segments))
    back = segments[::-1]
    return tuple(segments[: segments.index("*")]), tuple(back[: back.index("*")])


@functools.lru_cache(maxsize=4096)
def is_event(feed: str) -> bool:
    """Whether a feed (or all that a pattern names) are events."""
    segments = feed.split(":")
    for pattern in EVENT_FEEDS:
        start, end = _ends(pattern)
        if "*" not in pattern:
            if feed == pattern:
                return True
        elif (
            len(segments) > len(start) + len(end)
            and tuple(segments[: len(start)]) == start
            and tuple(segments[::-1][: len(end)]) == end
        ):
            return True
    return False
