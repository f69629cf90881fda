"""What came before a place in a stream: for a successor whose checkpoint cannot hold all that was known.

Which trades came already, and the last events of seconds ago, are too much for a checkpoint, and they are in
the streams anyway for a while.
"""

from __future__ import annotations

from typing import Any

import msgspec

from mdp.queues.entry import EntryError, Header, unpack_header
from mdp.queues.stream_reader import Cursor
from mdp.queues.streams import START, format_id, parse_id

_ENTRIES = 500  # of one command
_MOST_BYTES = 16 * 1024 * 1024


class Past(msgspec.Struct, frozen=True):
    """An entry that was delivered before."""

    ms: int  # of its id: Redis's clock
    header: Header
    data: bytes


async def look_back(client: Any, key: str, cursor: Cursor, *, since_ms: int = 0, events: int) -> list[Past]:
    """The entries of a stream up to a cursor, oldest first; those without events are left out.

    Args:
        client: Redis, where streams are.
        key: The stream.
        cursor: Up to and with which entry.
        since_ms: Older entries are not wanted.
        events: So many are enough. (16 MB are, too.)

    Raises:
        REDIS_ERRORS: It may be tried again.
    """
    found: list[Past] = []
    if cursor.id == START:
        return found
    until, size = format_id(cursor.id), 0
    while events > 0 and size < _MOST_BYTES:
        answer = await client.xrevrange(key, until, str(since_ms) if since_ms else "-", count=_ENTRIES)
        for entry_id, fields in answer:
            try:
                header = unpack_header(fields.get(b"h", b""))
            except EntryError:
                continue
            if header.count:
                data = fields.get(b"d", b"")
                found.append(Past(parse_id(entry_id)[0], header, data))
                events -= header.count
                size += len(data)
        if len(answer) < _ENTRIES:
            break
        last = answer[-1][0]
        until = "(" + (last.decode() if isinstance(last, bytes) else last)
    found.reverse()
    highest = 0
    taken = []
    for past in found:  # what a listener wrote after it lost its lease was not delivered
        if past.header.epoch >= highest:
            highest = past.header.epoch
            taken.append(past)
    return taken
