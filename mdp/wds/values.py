"""What the cache holds, as JSON for clients, without holding the loop."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from mdp.cache.base import Entry, Message, encode_json
from mdp.wds.views import View

_STEP = 500  # items of a long list encoded before others get a turn
_MANY = 1_000  # entries of a dict that are not encoded in one step


async def entry_json(entry: Entry | None, limit: int, view: View | None = None) -> bytes:
    """An entry's value as JSON, `null` where there is none; long lists are encoded in steps.

    Args:
        entry: As the cache gave it.
        limit: Rows or items at most, of those that the view selects; 0: all.
        view: Selects and cuts; None: everything as it is.
    """
    if entry is None:
        return b"null"
    value = await lightened(entry.value)
    if not isinstance(value, list | tuple):
        if view is not None:
            selected = view.select([value])
            value = selected[0] if selected else None
        return encode_json(value)
    parts = []
    left = limit or len(value)
    for start in range(0, len(value), _STEP):
        if not left:
            break
        if start:
            await asyncio.sleep(0)
        items = value[start : start + _STEP]
        if view is not None:
            items = view.select(items)
        items = items[:left]
        left -= len(items)
        if items:
            parts.append(encode_json(items)[1:-1])
    return b"[" + b",".join(parts) + b"]"


async def lightened(value: Any) -> Any:
    """A value whose large parts (statistics of the whole market: 2 MB) are JSON already, made in steps.

    Encoding it again, once for each way in which clients see it, is then no more than copying.

    Args:
        value: Is not changed, by nobody while this works.
    """
    if not isinstance(value, dict) or not any(map(_is_large, value.values())):
        return value
    return {
        name: msgspec.Raw(await _in_steps(part)) if _is_large(part) else part for name, part in value.items()
    }


async def light_message(message: Message) -> Message:
    """The same message with such a value."""
    value = await lightened(message.value)
    if value is message.value:
        return message
    return Message(message.feed, message.family, message.epoch, message.seq, value, message.ts)


def _is_large(part: Any) -> bool:
    return isinstance(part, dict) and len(part) > _MANY


async def _in_steps(large: dict[str, Any]) -> bytes:
    parts = []
    items = list(large.items())
    for start in range(0, len(items), _MANY):
        if start:
            await asyncio.sleep(0)
        parts.append(encode_json(dict(items[start : start + _MANY]))[1:-1])
    return b"{" + b",".join(parts) + b"}"
