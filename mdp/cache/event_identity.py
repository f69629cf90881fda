"""Which two events of a feed are the same one, told twice: after a replay, and only then, one may be."""

from __future__ import annotations

from typing import Any

import msgspec

from mdp.feeds import HALTS, HOD_ALERT, LOD_ALERT

_decode = msgspec.json.Decoder().decode

# Whatever else a payload says is as of the moment it was made, and may differ a little after a replay.
_FIELDS: dict[str, tuple[str, ...]] = {
    HOD_ALERT.name: ("symbol", "session", "direction", "price", "timestamp"),
    LOD_ALERT.name: ("symbol", "session", "direction", "price", "timestamp"),
    HALTS.name: ("symbol", "event", "halt_timestamp", "resume_timestamp"),
}


def identity(feed: str, body: bytes) -> Any:
    """What is equal for two payloads (JSON) that tell the same event; the payload itself for other feeds."""
    fields = _FIELDS.get(feed)
    if fields is None:
        return body
    payload = _decode(body)
    return tuple(payload.get(name) for name in fields)
