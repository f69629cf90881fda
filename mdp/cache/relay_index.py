"""Which symbols have a value under a plain key, for wildcards.

Redis keeps no list of them: the keys are looked through (SCAN, in steps that cost it a millisecond) when the
relay starts, when somebody wants all of a family, and once a minute. In between symbols are learned from
messages. So a wildcard's snapshot may lack symbols that are new; their first message names them.
"""

from __future__ import annotations

import asyncio
from typing import Any

from mdp.cache.keys import Keys
from mdp.cache.redis_link import REDIS_ERRORS, Link
from mdp.cache.relay_channels import glob
from mdp.cache.tasks import Part, end
from mdp.feeds import Family, resolve

_PERIOD_SECONDS = 60.0
_FRESH_SECONDS = 5.0  # a look that recent is good enough for a new wildcard
_COUNT = 2_000  # keys looked at by one command
_MAX_NAMES = 500_000  # of all families together


class SymbolIndex(Part):
    """See the module. For the event loop's thread.

    Args:
        client: Redis, where clients' data is.
        keys: Names.
        link: Told how commands went.
    """

    name = "relay-index"

    def __init__(self, client: Any, keys: Keys, link: Link) -> None:
        self._client = client
        self._prefix = keys.value("")
        self._link = link
        self._names: dict[str, dict[str, None]] = {}  # family name -> symbols
        self._looked_at = float("-inf")
        self._looking: asyncio.Task[None] | None = None

    async def stop(self) -> None:
        """End. Safe to call twice, or before `start`."""
        await super().stop()
        looking, self._looking = self._looking, None
        await end(looking)

    @property
    def loaded(self) -> bool:
        """Whether the keys were looked through once."""
        return self._looked_at > float("-inf")

    def symbols(self, family: Family) -> dict[str, None]:
        """Those known to have a value."""
        return self._names.get(family.name, {})

    async def refresh(self) -> None:
        """Look now, unless somebody did a moment ago. Callers share one look.

        Raises:
            REDIS_ERRORS: What was known stays.
        """
        if asyncio.get_running_loop().time() - self._looked_at < _FRESH_SECONDS:
            return
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name="relay-index-look")
        await asyncio.shield(self._looking)

    async def _look(self) -> None:
        found: dict[str, dict[str, None]] = {}
        left, cut = _MAX_NAMES, len(self._prefix)
        search = self._client.scan_iter(match=glob(self._prefix, ""), count=_COUNT, _type="string")
        async for key in search:
            known = resolve(key[cut:].decode("utf-8", "replace"))
            if known is not None and known[0].hole and not known[0].max_items and left:
                left -= 1
                found.setdefault(known[0].name, {})[known[1]] = None
        self._names = found
        self._looked_at = asyncio.get_running_loop().time()

    async def _run(self) -> None:
        while True:
            pause = _PERIOD_SECONDS
            try:
                await self.refresh()
                self._link.good()
            except REDIS_ERRORS as error:
                self._link.bad(error)
                pause = 1.0
            await asyncio.sleep(pause)
