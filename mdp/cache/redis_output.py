"""What one holder of a lease has to say to Redis: bus and cache as its engine or publisher sees them.

Nothing here waits or talks to Redis. State feeds keep their newest value (conflation), events their order;
`RedisWriter` takes both, several times a second, from all outputs of its process, and writes them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Any

import msgspec
import structlog

from mdp.cache.base import Interest, encode_json
from mdp.feeds import FAMILIES, HALT, LULD, STATE, Family, Target, resolve

log = structlog.get_logger(__name__)

#: Rare, and to be found under their keys also where nobody subscribes: analyzers always publish them.
_ALWAYS = frozenset({HALT.name, LULD.name})
_MAX_EVENTS = 10_000  # of a feed, that wait for Redis
_MAX_RAW = 20_000  # events of symbols' feeds that wait for Redis

Key = tuple[Family, str]


class OutputCounters(msgspec.Struct):
    """Of one output. State values are conflated, so more are published than sent.

    At any time `events + raw = written + raw_sent + dropped + left + waiting`: each event is in one of these.
    Raw ones that are under way count as sent until Redis says otherwise.
    """

    published: int = 0
    sent: int = 0  # messages about values
    kept: int = 0  # values under plain keys
    events: int = 0  # that lists and streams were to get
    written: int = 0  # of these, that they have
    raw: int = 0  # events of symbols' feeds that somebody subscribed to
    raw_sent: int = 0  # of these
    dropped: int = 0  # events that Redis could not take in time
    left: int = 0  # events that waited when the lease was another's, or the time to close was over
    refused: int = 0  # answers that a newer owner has written
    unencodable: int = 0  # payloads of an analyzer that are no JSON
    unmergeable: int = 0  # values of the whole market that a part of it cannot know


class Batch(msgspec.Struct):
    """Items of one event feed, not written yet. One that is under way keeps its number until it is."""

    number: int
    items: deque[tuple[int, bytes]]  # (ts, JSON)
    under_way: int = 0  # of the items, from the oldest on


class RedisOutput:
    """See the module. Made by `RedisWriter.open`.

    Args:
        name: Of the lease it writes under.
        epoch: Of the lease's acquisition.
        wall_ms: The wall clock.
        owns: Whether a symbol is one of ours.
        packers: By family name: makes of a published value the part that is merged with those of others.
            Where it is None, values of the whole market are ours to write.
        foreign: Names of families that somebody else publishes: what we say of them is dropped.
        valid: Whether the lease is still ours; nothing is written while it is not.
        on_refused: Called once where Redis knows a newer owner.

    Attributes:
        silent: While events are replayed: states are told to nobody, events wait for `RedisWriter.resume`.
        wants: Anything that somebody subscribes to, of per-symbol feeds.
    """

    def __init__(
        self,
        name: str,
        epoch: int,
        *,
        wall_ms: Callable[[], int],
        owns: Callable[[str], bool] = lambda _symbol: True,
        packers: Mapping[str, Callable[[Any], bytes]] | None = None,
        foreign: Collection[str] = (),
        valid: Callable[[], bool] = lambda: True,
        on_refused: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.epoch = epoch
        self.silent = False
        self.counters = OutputCounters()
        self.valid = valid
        self.on_refused = on_refused
        self.refused = False
        self.known = False  # Redis has our epoch in its fence
        self.walked: frozenset[str] = frozenset()  # families whose plain keys a walk writes
        self.parts: dict[str, bytes] = {}  # feed -> part to be written
        self.last_parts: dict[str, bytes] = {}
        self.pulse: Callable[[], None] = lambda: None  # called once a second
        self.gather: Callable[[], Awaitable[None]] | None = None  # lets analyzers publish the newest
        self.generation = 0  # grows when Redis may have lost what we wrote
        self.limits: Callable[[Family, int], None] = lambda _family, _rows: None
        self.batches: dict[str, Batch] = {}  # event feed -> what waits
        self.families: dict[str, Family] = {}  # event feed -> its family
        self.replayed: deque[tuple[Family, str, int, bytes]] = deque(maxlen=_MAX_EVENTS)
        self.untold: list[tuple[Family, str, int, bytes]] = []  # events of lists that waited when we ended
        self.whole: dict[Key, Any] = {}  # values of feeds without a symbol
        self.values: dict[Key, Any] = {}  # to be kept under a plain key
        self.states: dict[Key, Any] = {}  # wanted values of symbols
        self.raw: deque[tuple[Family, str, int, bytes]] = deque()
        self.first: dict[Key, None] = {}  # wanted since a moment ago: their present values are to be sent
        self.providers: dict[str, Callable[[str], Any]] = {}  # family name -> provider
        self.naming: dict[str, Callable[[], Iterable[str]]] = {}  # family name -> symbols that have a value
        self._wall_ms = wall_ms
        self.owns = owns
        self._packers = packers
        self._foreign = frozenset(foreign)
        self._interests: dict[str, Interest] = {}
        self._wanted: dict[str, Interest] = {}  # what subscribers want: by family name
        self._seqs: dict[str, int] = {}
        self._numbers: dict[str, int] = {}  # event feed -> number of its last batch

    # What analyzers see.

    def interest(self, family: Family) -> Interest:
        """What this output's publisher is to publish of a family: one object for its life."""
        interest = self._interests.get(family.name)
        if interest is None:
            interest = self._interests[family.name] = Interest()
            interest.all = family.hole != "symbol" or family.name in _ALWAYS
        return interest

    def provide(
        self,
        family: Family,
        provider: Callable[[str], Any],
        symbols: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        """Let `provider` say the present value when somebody begins to want it, or Redis lost it."""
        self.providers[family.name] = provider
        self.naming[family.name] = symbols

    def publish(self, family: Family, symbol: str, value: Any) -> None:
        """A new value, or an event of a feed without a list."""
        self.counters.published += 1
        if family.max_items or self.silent or family.name in self._foreign:
            return  # events with a list are pushed, too: the list's stream is their bus
        if family.hole != "symbol":
            if self._packers is None:
                self.whole[family, symbol] = value
            elif (pack := self._packers.get(family.name)) is not None:
                part = self._made(pack, value)
                if part is not None:
                    self.parts[family.name] = self.last_parts[family.name] = part
            else:
                self.counters.unmergeable += 1
            return
        if family.kind == STATE:
            if self.wanted(family, symbol):
                self.states[family, symbol] = value
            if family.name not in self.walked:
                self.values[family, symbol] = value
            return
        body = self.encoded(value) if self.wanted(family, symbol) else None
        if body is not None:
            self.counters.raw += 1
            if len(self.raw) >= _MAX_RAW:
                self.raw.popleft()
                self.counters.dropped += 1
            self.raw.append((family, symbol, self._wall_ms(), body))
        self.values[family, symbol] = value

    def set(self, family: Family, symbol: str, value: Any) -> None:
        """Keep a value under its plain key."""
        if not self.silent:
            self.values[family, symbol] = value

    def push(self, family: Family, symbol: str, value: Any) -> None:
        """An event: to its feed's stream and list, in order."""
        body = self.encoded(value)
        if body is None:
            return
        if self.silent:
            if len(self.replayed) == _MAX_EVENTS:  # the oldest makes room
                self.counters.events += 1
                self.counters.dropped += 1
            self.replayed.append((family, symbol, self._wall_ms(), body))
        else:
            self.note(family, symbol, self._wall_ms(), body)

    # What the writer asks and says.

    def encoded(self, value: Any) -> bytes | None:
        """A payload as JSON; None where it is none: one bad payload must not stop the others."""
        return self._made(encode_json, value)

    def _made(self, make: Callable[[Any], bytes], value: Any) -> bytes | None:
        try:
            return make(value)
        except Exception as error:
            self.counters.unencodable += 1
            if self.counters.unencodable.bit_count() == 1:  # the 1st, 2nd, 4th, 8th ... time
                log.error("redis_encode_failed", total=self.counters.unencodable, exc_info=error)
            return None

    def note(self, family: Family, symbol: str, ts: int, body: bytes) -> None:
        """Let an event wait for Redis; the oldest is dropped where too many do."""
        feed = family.feed(symbol)
        batch = self.batches.get(feed)
        if batch is None:
            batch = self.batches[feed] = Batch(self._numbers.get(feed, 0) + 1, deque())
            self.families[feed] = family
        if len(batch.items) >= _MAX_EVENTS:
            batch.items.popleft()
            if batch.under_way:
                batch.under_way -= 1
                if not batch.under_way:
                    batch.number += 1  # what follows is another batch, should that one be in Redis
            self.counters.dropped += 1
        batch.items.append((ts, body))
        self.counters.events += 1

    def written(self, feed: str) -> None:
        """What was under way of an event feed is in Redis."""
        batch = self.batches[feed]
        self.counters.written += batch.under_way
        for _ in range(batch.under_way):
            batch.items.popleft()
        batch.under_way = 0
        self._numbers[feed] = batch.number
        batch.number += 1
        if not batch.items:
            del self.batches[feed], self.families[feed]

    def wanted(self, family: Family, symbol: str) -> bool:
        """Whether somebody subscribes to a feed."""
        interest = self._wanted.get(family.name)
        return interest is not None and (interest.all or symbol in interest.symbols)

    @property
    def waiting(self) -> int:
        """Events that wait for Redis."""
        return len(self.raw) + sum(len(batch.items) for batch in self.batches.values())

    @property
    def wants(self) -> bool:
        """Whether somebody subscribes to any symbol's feed of ours."""
        return any(map(bool, self._wanted.values()))

    def seq(self, feed: str) -> int:
        """The next place on a feed."""
        seq = self._seqs[feed] = self._seqs.get(feed, 0) + 1
        return seq

    def want(self, target: Target, wanted: bool) -> None:
        """Take what subscribers want, or do not want any more."""
        family, symbol = target.family, target.symbol
        if family.hole != "symbol" or family.name in self._foreign:
            return
        told = self.interest(family)
        mine = self._wanted.setdefault(family.name, Interest())
        if symbol is None:
            mine.all = wanted
            told.all = wanted or family.name in _ALWAYS
        elif wanted and self.owns(symbol):
            mine.symbols.add(symbol)
            told.symbols.add(symbol)
        else:
            mine.symbols.discard(symbol)
            told.symbols.discard(symbol)

    def begin(self, target: Target) -> None:
        """Somebody begins to want a feed: note that its present value is to be sent."""
        family, symbol = target.family, target.symbol
        if family.hole != "symbol" or family.kind != STATE or self.silent or family.name in self._foreign:
            return
        if symbol is None:
            for name in self.naming.get(family.name, tuple)():
                self.first[family, name] = None
        elif self.owns(symbol):
            self.first[family, symbol] = None

    def loud(self) -> None:
        """The end of silence: whatever somebody wants is sent anew."""
        self.silent = False
        for family in FAMILIES:
            interest = self._wanted.get(family.name)
            if interest is not None:
                if interest.all:
                    self.begin(Target(family, None))
                for symbol in interest.symbols:
                    self.begin(Target(family, symbol))

    def forgotten(self) -> None:
        """Redis lost what we wrote: parts are written again. (Values: `RedisWriter` knows who walks them.)"""
        self.known = False
        self.generation += 1
        self.parts = {**self.last_parts, **self.parts}

    def refuse(self) -> None:
        """A newer owner has written: nothing of ours may leave any more."""
        self.counters.refused += 1
        self.clear()
        if not self.refused:
            self.refused = True
            self.on_refused()

    def inherit(self, before: RedisOutput) -> None:
        """Tell the events of lists that another output of the same state could not, those that are news.

        To be called while silent, of one that was cleared.
        """
        over = max(0, len(self.replayed) + len(before.untold) - _MAX_EVENTS)  # the oldest make room
        self.counters.events += over
        self.counters.dropped += over
        self.replayed.extend(before.untold)
        before.untold = []

    def clear(self) -> None:
        """Forget what waits, and count its events: who has the lease now finds those of lists in its replay.

        Raw ones are lost. A batch that is under way may be in Redis all the same. Those of lists stay in
        `untold`, for a successor that goes on with our state and has no replay of them (`inherit`).
        """
        self.counters.left += self.waiting
        self.untold += self.replayed
        self.replayed.clear()
        for feed, batch in self.batches.items():
            found = resolve(feed)
            symbol = "" if found is None else found[1]
            self.untold += [(self.families[feed], symbol, ts, body) for ts, body in batch.items]
        for waiting in (self.parts, self.whole, self.values, self.states, self.raw, self.first):
            waiting.clear()
        self.batches.clear()
        self.families.clear()
