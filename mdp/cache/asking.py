"""A value that is under no key because nobody subscribes to it: its owner is asked, and answers at once.

The last trade and the last quote of a symbol are looked for when somebody wants them: writing them for every
symbol would cost more than all the rest. The question is a word on the channel of interest,
`?{number} {feed}`; the answer is the only item of a list that expires (`Keys.answer`), for which the asker
waits. The owner also answers that there is none. Older processors do not know the word and do not answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Mapping
from typing import Any

from mdp.cache.keys import Keys
from mdp.cache.memory import stepped
from mdp.cache.redis_link import REDIS_ERRORS
from mdp.cache.redis_output import RedisOutput
from mdp.cache.tasks import end
from mdp.feeds import HALT, QUOTES, TRADES, Family, resolve

#: Families whose values nobody writes before somebody subscribes, and which expire in seconds; and one whose
#: value is written when a halt or a band changes, while its price and time go on with each bar.
ASKED = frozenset({TRADES.name, QUOTES.name, HALT.name})
WAIT_SECONDS = 0.3
_AT_ONCE = 6  # questions of one process; each has a connection while it waits
_MOST_ANSWERS = 200  # under way at once; further questions are not answered
_KEEP_MS = 2_000
_NONE = b"null"


class Unheard(Exception):
    """Nobody answered in time."""


class Asker:
    """Asks on behalf of a process's clients.

    Args:
        client: Redis, where clients' data is.
        keys: Names.
        owner: Id of this process.
    """

    def __init__(self, client: Any, keys: Keys, owner: str) -> None:
        self.asked = 0
        self.unheard = 0
        self._client = client
        self._keys = keys
        self._owner = owner
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._under_way: dict[str, asyncio.Task[bytes | None]] = {}  # feed -> one question for all who ask

    async def ask(self, feed: str) -> bytes | None:
        """The present value as JSON; None: there is none. Takes 0.3 s at most.

        Raises:
            Unheard: Its owner did not answer in time; perhaps nobody owns it.
            REDIS_ERRORS: Redis did not.
        """
        task = self._under_way.get(feed)
        if task is None:
            task = self._under_way[feed] = asyncio.create_task(self._ask(feed), name="relay-ask")
            task.add_done_callback(lambda done: self._done(feed, done))
        return await asyncio.shield(task)

    async def stop(self) -> None:
        """Ask nothing any more."""
        await end(*self._under_way.values())

    def _done(self, feed: str, task: asyncio.Task[bytes | None]) -> None:
        self._under_way.pop(feed, None)
        if not task.cancelled():
            task.exception()  # whoever asked may have gone

    async def _ask(self, feed: str) -> bytes | None:
        try:
            async with asyncio.timeout(WAIT_SECONDS), self._slots:
                self.asked += 1
                number = f"{self._owner}.{self.asked}"
                word = f"?{number} {feed}"
                await self._client.publish(self._keys.interest_channel, word)
                found = await self._client.blpop([self._keys.answer(number)], timeout=WAIT_SECONDS)
        except TimeoutError:
            found = None
        if found is None:
            self.unheard += 1
            raise Unheard(feed)
        body: bytes = found[1]
        return None if body == _NONE else body


class Answerer:
    """Answers for the outputs of a process.

    Args:
        client: Redis, where clients' data is.
        keys: Names.
        outputs: Those of now, by name.
    """

    def __init__(self, client: Any, keys: Keys, outputs: Mapping[str, RedisOutput]) -> None:
        self.answered = 0
        self._client = client
        self._keys = keys
        self._outputs = outputs
        self._tasks: set[asyncio.Task[None]] = set()

    def heard(self, message: str) -> None:
        """Take a question, without its `?`."""
        number, _, feed = message.partition(" ")
        found = resolve(feed)
        if found is None or found[0].name not in ASKED or not number or "{" in number or len(number) > 100:
            return
        family, symbol = found
        for output in self._outputs.values():
            if (
                family.name in output.providers
                and output.owns(symbol)
                and output.valid()
                and not (output.silent or output.refused)
                and len(self._tasks) < _MOST_ANSWERS
            ):
                task = asyncio.create_task(self._answer(number, output, family, symbol), name="answer")
                self._tasks.add(task)
                task.add_done_callback(self._done)
                return

    async def stop(self) -> None:
        """Answer nothing any more."""
        await end(*self._tasks)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)

    async def _answer(self, number: str, output: RedisOutput, family: Family, symbol: str) -> None:
        value = output.providers[family.name](symbol)
        if isinstance(value, Generator):
            value = await stepped(value)
        body = _NONE if value is None else output.encoded(value) or _NONE
        key = self._keys.answer(number)
        try:
            pipe = self._client.pipeline(transaction=False)
            pipe.lpush(key, body)
            pipe.pexpire(key, _KEEP_MS)
            await pipe.execute()
        except REDIS_ERRORS:
            return  # the asker does not wait for long
        self.answered += 1
