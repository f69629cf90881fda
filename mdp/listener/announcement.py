"""What the active listener says of itself to the other roles: the hash `mdp:listener` (`docs/redis.md`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

#: Fields that hold JSON.
_JSON = ("ledger", "accounting")
MAX_LEDGER = 100  # entries of the gap ledger, the newest
_decode = msgspec.json.decode


class Announcement(msgspec.Struct, kw_only=True):
    """One second's word. Times are epoch milliseconds; `wall` is the listener's clock."""

    epoch: int = 0  # of its lease
    id: str = ""  # of its process
    ts: int = 0  # when it was said, wall
    state: str = ""  # `mdp.listener.states.FeedState`
    detail: str = ""
    since: int = 0  # wall
    gaps: int = 0  # entries of the gap ledger, those of predecessors included
    server_ms: int = 0  # the provider's time; 0: unknown
    market_ms: int = 0  # the market clock; 0: unknown
    ledger: list[dict[str, Any]] = []  # the newest entries, as `GapLedger.entries`
    accounting: dict[str, Any] = {}  # as the role's: ring, decoded, rejected, queues, streams

    def fields(self) -> dict[str, bytes]:
        """As the fields of the hash."""
        values = msgspec.structs.asdict(self)
        return {
            name: msgspec.json.encode(value) if name in _JSON else str(value).encode()
            for name, value in values.items()
        }


def read_announcement(fields: Mapping[bytes, bytes]) -> Announcement:
    """From the answer of HGETALL. What is missing or damaged is as if nothing had been said."""
    values: dict[str, Any] = {}
    for name in Announcement.__struct_fields__:
        raw = fields.get(name.encode())
        if raw is None:
            continue
        try:
            values[name] = _decode(raw) if name in _JSON else raw.decode()
        except ValueError:  # msgspec's errors and UnicodeDecodeError are ValueErrors
            continue
    while True:
        try:
            return msgspec.convert(values, Announcement, strict=False)
        except msgspec.ValidationError as error:
            # "... - at `$.name`": that field counts as not said.
            name = str(error).partition("$.")[2].split("`")[0].split("[")[0].split(".")[0]
            if name not in values:
                return Announcement()
            del values[name]


def feed_fields(fields: Mapping[bytes, bytes]) -> tuple[dict[str, Any], float | None]:
    """What `market:status` says of the provider's feed, and the lag in ms (None: unknown)."""
    said = read_announcement(fields)
    lag = said.server_ms - said.market_ms if said.server_ms and said.market_ms else None
    return {
        "feed_state": said.state or "down",
        "feed_detail": said.detail if said.ts else "no listener has said anything",
        "feed_since": said.since,
        "gaps": said.gaps,
    }, lag
