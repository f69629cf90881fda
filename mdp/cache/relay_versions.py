"""Whether what others publish can be read here: payloads of a newer version are left alone, not misread.

Messages, items of event feeds and values of the whole market carry their version. A symbol's plain key is
the bare payload; for it, newer writers keep `mdp:schema` alive, which is looked at every three seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

from mdp.cache import schemas
from mdp.cache.keys import Keys
from mdp.cache.redis_link import REDIS_ERRORS
from mdp.cache.tasks import Part

#: How long a newer writer counts as there after its last word; as long as `mdp:schema` lives.
LIFE_SECONDS = 10
_LOOK_SECONDS = 3.0


class NewerFeeds(Exception):
    """A value that may be of a newer version than is read here. One line for a person."""


class FeedVersions(Part):
    """See the module. For the event loop's thread.

    Args:
        client: Redis, where clients' data is.
        keys: Names.
        clock: Monotonic seconds.

    Attributes:
        reads: Up to which version.
        refused: What was left alone.
    """

    name = "relay-versions"

    def __init__(self, client: Any, keys: Keys, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.reads = schemas.FEEDS
        self.refused = schemas.Refused("feeds", self.reads)
        self._client = client
        self._key = keys.schema
        self._clock = clock
        self._until = float("-inf")  # a newer writer counts as there

    @property
    def newer(self) -> str:
        """Why feeds cannot be read here, as long as somebody writes newer ones; empty where nobody does."""
        return self.refused.reason if self._clock() < self._until else ""

    def refuse(self, version: int) -> None:
        """Something of a newer version came: it is left alone."""
        self._until = self._clock() + LIFE_SECONDS
        self.refused.note(version)

    def check(self) -> None:
        """Before a value without a version of its own is read.

        Raises:
            NewerFeeds: It may be of a newer one.
        """
        if reason := self.newer:
            raise NewerFeeds(reason)

    async def look(self) -> None:
        """See whether newer writers are there.

        Raises:
            REDIS_ERRORS: Nothing was learnt.
        """
        found = await self._client.get(self._key)
        if found is not None and found.isdigit() and int(found) > self.reads:
            self.refuse(int(found))

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(*REDIS_ERRORS):  # others tell of it
                await self.look()
            await asyncio.sleep(_LOOK_SECONDS)
