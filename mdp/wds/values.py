"""What the cache holds, as JSON for clients, without holding the loop."""

from __future__ import annotations

import asyncio

from mdp.cache.base import Entry, encode_json
from mdp.wds.views import View

_STEP = 500  # items of a long list encoded before others get a turn


async def entry_json(entry: Entry | None, limit: int, view: View | None = None) -> bytes:
    """An entry's value as JSON, `null` where there is none; long lists are encoded in steps.

    Args:
        entry: As the cache gave it.
        limit: Rows or items at most, of those that the view selects; 0: all.
        view: Selects and cuts; None: everything as it is.
    """
    if entry is None:
        return b"null"
    value = entry.value
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
