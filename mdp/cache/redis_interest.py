"""What subscribers want, as the `wds` replicas say it in Redis, for those who publish.

Each replica keeps a set of patterns that ends by itself when the replica does, and says on a channel what
begins, so that nobody waits for the next look. A channel's word counts for as long as a set lives; the end
of an interest is learned from the sets alone, because another replica may have the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import structlog

from mdp.cache.base import Interest
from mdp.cache.control import listen
from mdp.cache.keys import Keys
from mdp.cache.redis_link import REDIS_ERRORS, Link
from mdp.cache.tasks import begin, end
from mdp.feeds import Family, Target, match
from mdp.stage import Health

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 1.0
_SEARCH_LOOKS = 5  # replicas are searched for every so many looks, and when one is heard of
_SEARCH_COUNT = 2_000  # keys looked at by one command
_HEARD_SECONDS = 10.0
_RETRY_SECONDS = 0.3
_MAX_REPLICAS = 1_000
_MAX_PATTERNS = 200_000

_GLOB = re.compile(r"[*?\[\]\\]")

#: Told of a target that is wanted (again): its present value is to be sent.
Begun = Callable[[Target], None]


class InterestWatch:
    """A stage: knows what all replicas together want.

    Args:
        client: Redis, where clients' data is.
        keys: Names.
        link: Told how commands went.
        clock: Monotonic seconds.

    Attributes:
        wanted: By family name: what is wanted now. One object per family for the life of the watch.
        on_change: Called with a target that is wanted now (True) or by nobody any more (False).
        on_ask: Called with each question (`mdp.cache.asking`).
        on_begin: Called with each target that begins to be wanted, by one more replica at least.
    """

    name = "interest"

    def __init__(
        self, client: Any, keys: Keys, link: Link, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.wanted: dict[str, Interest] = {}
        self.on_change: list[Callable[[Target, bool], None]] = []
        self.on_begin: list[Begun] = []
        self.on_ask: list[Callable[[str], None]] = []
        self._client = client
        self._keys = keys
        self._link = link
        self._clock = clock
        self._sets: dict[str, frozenset[str]] = {}  # key of a replica's set -> its patterns
        self._heard: dict[str, float] = {}  # pattern -> counts until
        self._patterns: dict[str, tuple[Target, ...]] = {}  # those in force
        self._count: dict[tuple[str, str | None], int] = {}  # (family, symbol or all) -> patterns naming it
        self._looks = 0
        self.failures = 0
        self._tasks: list[asyncio.Task[None]] = []

    def of(self, family: Family) -> Interest:
        """The family's interest."""
        return self.wanted.setdefault(family.name, Interest())

    def targets(self) -> Iterator[Target]:
        """Everything that is wanted now."""
        for targets in self._patterns.values():
            yield from targets

    async def start(self) -> None:
        """Begin to look and to listen; returns at once."""
        if not self._tasks:
            self._tasks = [
                begin(self._run(), "interest-look"),
                begin(self._hear(), "interest-hear"),
            ]

    async def stop(self) -> None:
        """End. Safe to call twice, or before `start`."""
        tasks, self._tasks = self._tasks, []
        await end(*tasks)

    def health(self) -> Health:
        """Good while Redis answers."""
        if any(task.done() for task in self._tasks):
            return Health(False, "does not run")
        return self._link.health()

    def heard(self, message: str) -> None:
        """Take what was said on the channel: `+pattern`, `-pattern` or `?question`."""
        pattern = message[1:]
        if message.startswith("?"):
            for asked in self.on_ask:
                self._guarded(asked, pattern)
            return
        if not message.startswith("+") or not match(pattern) or len(self._heard) >= _MAX_PATTERNS:
            return
        self._heard[pattern] = self._clock() + _HEARD_SECONDS
        if pattern in self._patterns:  # one more replica wants it
            for target in self._patterns[pattern]:
                self._begin(target)
        else:
            self._enter(pattern)

    async def look(self) -> None:
        """Read all replicas' sets once.

        Raises:
            REDIS_ERRORS: What was known stays in force.
        """
        if self._looks % _SEARCH_LOOKS == 0:
            found: dict[str, frozenset[str]] = {}
            async for key in self._client.scan_iter(
                match=_GLOB.sub(r"\\\g<0>", self._keys.interest("")) + "*", count=_SEARCH_COUNT, _type="set"
            ):
                name = key.decode() if isinstance(key, bytes) else key
                if len(found) < _MAX_REPLICAS:
                    found[name] = self._sets.get(name, frozenset())
            self._sets = found
        self._looks += 1
        for name in list(self._sets):
            members = await self._client.smembers(name)
            patterns = frozenset(m.decode("utf-8", "replace") if isinstance(m, bytes) else m for m in members)
            if not patterns:
                del self._sets[name]
                continue
            began = patterns - self._sets[name]
            self._sets[name] = patterns
            again = [pattern for pattern in began if pattern in self._patterns and pattern not in self._heard]
            for pattern in again:  # one more replica wants it, and we did not hear it say so
                for target in self._patterns[pattern]:
                    self._begin(target)
        said = frozenset().union(*self._sets.values())
        if not self._heard.keys() <= said:  # by whom? Perhaps by a new one
            self._looks = 0
        self._update()

    def _update(self) -> None:
        """Bring what is in force up to date with sets and words."""
        now = self._clock()
        self._heard = {pattern: until for pattern, until in self._heard.items() if until > now}
        patterns = set(self._heard).union(*self._sets.values())
        for pattern in patterns - self._patterns.keys():
            self._enter(pattern)
        for pattern in self._patterns.keys() - patterns:
            for target in self._patterns.pop(pattern):
                self._drop(target)

    def _enter(self, pattern: str) -> None:
        targets = match(pattern)
        if targets and len(self._patterns) < _MAX_PATTERNS:
            self._patterns[pattern] = targets
            for target in targets:
                self._add(target)

    def _add(self, target: Target) -> None:
        key = (target.family.name, target.symbol)
        count = self._count[key] = self._count.get(key, 0) + 1
        if count == 1:
            interest = self.of(target.family)
            if target.symbol is None:
                interest.all = True
            else:
                interest.symbols.add(target.symbol)
            for changed in self.on_change:
                self._guarded(changed, target, True)
        self._begin(target)

    def _drop(self, target: Target) -> None:
        key = (target.family.name, target.symbol)
        self._count[key] -= 1
        if self._count[key]:
            return
        del self._count[key]
        interest = self.of(target.family)
        if target.symbol is None:
            interest.all = False
        else:
            interest.symbols.discard(target.symbol)
        for changed in self.on_change:
            self._guarded(changed, target, False)

    def _begin_all(self) -> None:
        """After a lost connection: replicas may have said what they still want while nobody heard."""
        for targets in self._patterns.values():
            for target in targets:
                self._begin(target)

    def _begin(self, target: Target) -> None:
        for begun in self.on_begin:
            self._guarded(begun, target)

    def _guarded(self, told: Callable[..., None], *words: Any) -> None:
        """A defect of one who is told must not make us deaf."""
        try:
            told(*words)
        except Exception as error:
            self.failures += 1
            if self.failures.bit_count() == 1:  # the 1st, 2nd, 4th, 8th ... time
                log.error("interest_listener_failed", failures=self.failures, exc_info=error)

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
                self._link.good()
            except REDIS_ERRORS as error:
                self._looks = 0
                self._link.bad(error)
            await asyncio.sleep(_LOOK_SECONDS)

    async def _hear(self) -> None:
        while True:
            with contextlib.suppress(*REDIS_ERRORS):  # the other task tells of it
                await listen(self._client, self._keys.interest_channel, joined=self._joined, heard=self._word)
            await asyncio.sleep(_RETRY_SECONDS)

    def _joined(self) -> None:
        self._looks = 0  # what was said before we heard is in the sets
        self._begin_all()

    def _word(self, data: bytes) -> None:
        self.heard(data.decode("utf-8", "replace"))
