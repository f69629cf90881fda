"""What the clients of this replica want, said in Redis so that publishers publish it.

A set that ends by itself when the replica does says what is wanted; a word on a channel says it at once,
which makes publishers send the present value, too (`mdp.cache.redis_interest` is who listens).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from redis.exceptions import ResponseError

from mdp.cache.keys import Keys
from mdp.cache.redis_link import REDIS_ERRORS, Link
from mdp.cache.tasks import Part

LIFE_SECONDS = 10
RENEW_SECONDS = 3.0
_REPEAT_SECONDS = 8.0  # between two sayings of everything, where the set cannot be written
_CHUNK = 1_000  # patterns of one command


class Interests(Part):
    """See the module. For the event loop's thread; nothing here waits but `stop`.

    Args:
        client: Redis, where clients' data is.
        keys: Names.
        owner: Id of this process.
        link: Told how commands went.
    """

    name = "relay-interest"

    def __init__(self, client: Any, keys: Keys, owner: str, link: Link) -> None:
        self._client = client
        self._key = keys.interest(owner)
        self._channel = keys.interest_channel
        self._link = link
        self._wanted: set[str] = set()
        self._written: set[str] = set()
        self._words: dict[str, str] = {}  # pattern -> + or -, to be said
        self._wake = asyncio.Event()
        self._repeated_at = float("-inf")  # when all words were said instead of the set

    async def stop(self) -> None:
        """Want nothing any more, and say so where Redis answers. Within a bound of time."""
        if self._task is None:
            return
        await super().stop()
        with contextlib.suppress(*REDIS_ERRORS):
            async with asyncio.timeout(0.5):
                await self._client.delete(self._key)

    def begin(self, pattern: str) -> None:
        """A pattern is wanted: from now on, or after a lost connection still. So are its present values."""
        self._wanted.add(pattern)
        self._words[pattern] = "+"
        self._wake.set()

    def end(self, pattern: str) -> None:
        """A pattern is wanted no more."""
        self._wanted.discard(pattern)
        if self._words.pop(pattern, "-") == "-":
            self._words[pattern] = "-"
        self._wake.set()

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            words, self._words = self._words, {}
            try:
                if await self._write(words):
                    self._link.good()
            except REDIS_ERRORS as error:
                self._words = {**words, **self._words}
                self._written.clear()  # nobody knows what arrived
                self._link.bad(error)
                await self._link.pause()
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RENEW_SECONDS):
                    await self._wake.wait()

    async def _write(self, words: dict[str, str]) -> bool:
        """Renew the set, bring it up to date, then say what changed: whoever hears a word finds it there.

        Where Redis refuses the set (it has no memory left), words alone must do: they count for ten seconds.

        Returns:
            Whether Redis took everything.
        """
        refused: ResponseError | None = None
        try:
            await self._renew()
        except ResponseError as error:
            refused = error
            now = asyncio.get_running_loop().time()
            if now - self._repeated_at >= _REPEAT_SECONDS:
                self._repeated_at = now
                words = {**dict.fromkeys(self._wanted, "+"), **words}
        for some in _chunks(words):
            pipeline = self._client.pipeline(transaction=False)
            for pattern in some:
                # Not `publish`: the client blocks that in a pipeline to a cluster.
                pipeline.execute_command("PUBLISH", self._channel, words[pattern] + pattern)
            await pipeline.execute()
        if refused is None:
            return True
        self._written.clear()
        self._link.bad(refused)
        return False

    async def _renew(self) -> None:
        if self._written and not await self._client.expire(self._key, LIFE_SECONDS):
            self._written.clear()  # it expired, or Redis began anew
        new, gone = self._wanted - self._written, self._written - self._wanted
        for some in _chunks(new):
            await self._client.sadd(self._key, *some)
        for some in _chunks(gone):
            await self._client.srem(self._key, *some)
        self._written = self._written - gone | new
        if new:
            await self._client.expire(self._key, LIFE_SECONDS)


def _chunks(names: Iterable[str]) -> Iterator[list[str]]:
    found = sorted(names)
    for at in range(0, len(found), _CHUNK):
        yield found[at : at + _CHUNK]
