"""The market data cache (MDC) and its bus, as the rest of the process sees them.

Both are named by the feeds of `mdp.feeds`. The *bus* carries what changes; the *cache* holds the
last values and lists. A state feed's value may also be *provided*: made when somebody asks, from
the state of an analyzer, so that nothing is built or serialized that nobody wants.

Every message has a place `(epoch, seq)`: the publisher numbers each feed from 1, a new publisher is
a new epoch, and an entry read from the cache carries the place it includes. Whoever subscribes
first, reads then, and drops messages up to the entry's place, joins without hole or repeat.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Set
from typing import Any, Protocol

import msgspec

from mdp.feeds import Family

_encode = msgspec.json.Encoder().encode


def encode_json(value: Any) -> bytes:
    """A payload as JSON: dicts, lists, scalars and msgspec structs; NaN and infinities become null."""
    return _encode(value)


class Message:
    """One publication on one feed. Immutable for subscribers; shared by all of them.

    Attributes:
        feed: The feed's name, e.g. `quote:AAPL`.
        family: Its row in the contract (kind: state or event).
        epoch: The publisher's epoch (its start, ms since the Unix epoch).
        seq: Place on this feed, from 1, without holes within an epoch.
        ts: Of its publication, ms since the Unix epoch.
        value: The payload: a dict, list or struct that `encode_json` takes.
    """

    __slots__ = ("_json", "epoch", "family", "feed", "seq", "ts", "value")

    def __init__(self, feed: str, family: Family, epoch: int, seq: int, value: Any, ts: int = 0) -> None:
        self.feed = feed
        self.family = family
        self.epoch = epoch
        self.seq = seq
        self.value = value
        self.ts = ts or time.time_ns() // 1_000_000
        self._json: bytes | None = None

    def json(self) -> bytes:
        """The payload as JSON, made at the first call and kept."""
        body = self._json
        if body is None:
            body = self._json = _encode(self.value)
        return body


class Entry(msgspec.Struct, frozen=True):
    """What the cache holds under a key, with the place on the feed that it includes (0: none yet)."""

    value: Any
    epoch: int
    seq: int

    def json(self) -> bytes:
        """The value as JSON."""
        return _encode(self.value)


Sink = Callable[[Message], None]  # called in the publisher's step: must only note the message and return


class Interest:
    """Which symbols of a family somebody subscribes to. Kept up to date by the bus; read by publishers.

    Attributes:
        all: Somebody wants every symbol.
        symbols: Those wanted by name.
    """

    __slots__ = ("all", "symbols")

    def __init__(self) -> None:
        self.all = False
        self.symbols: set[str] = set()

    def __bool__(self) -> bool:
        return self.all or bool(self.symbols)

    def wanted(self, symbols: Set[str]) -> Set[str]:
        """Those of the given symbols that somebody wants."""
        return symbols if self.all else self.symbols & symbols


class Subscription(Protocol):
    """A live subscription; `close` ends it (safe to call twice)."""

    def close(self) -> None: ...


class Bus(Protocol):
    """Publish and subscribe by the feeds of the contract."""

    def publish(self, family: Family, symbol: str, value: Any) -> Message:
        """Number a value on its feed and hand it to every subscriber, in this step, in order."""

    def place(self, feed: str) -> tuple[int, int]:
        """`(epoch, seq)` of the last message on a feed; seq 0 where there was none."""

    def since(self, feed: str, epoch: int, seq: int) -> list[Message] | None:
        """The messages of an event feed after a place, oldest first; None where some are forgotten."""

    def interest(self, family: Family) -> Interest:
        """The family's interest: one object for the life of the bus."""

    def subscribe(self, pattern: str, sink: Sink) -> Subscription:
        """Call `sink` for each message a pattern (`mdp.feeds.match`) names; once a message, also if the
        same sink subscribed several patterns that name it.

        Raises:
            ValueError: The pattern names no feed of the contract.
        """


class Cache(Protocol):
    """Last values and lists, by feed name."""

    async def get(self, key: str, limit: int = 0) -> Entry | None:
        """The last value of a state feed or event (None where there is none or it expired); for a list
        family a list, newest first, at most `limit` items (0: all), empty where nothing happened.

        Keys that are not feeds of the contract give None.
        """

    def set(self, family: Family, symbol: str, value: Any) -> None:
        """Keep a last value for the family's time to live."""

    def push(self, family: Family, symbol: str, value: Any) -> None:
        """Put an item at the head of the family's list, cut to its `max_items`."""

    def provide(
        self,
        family: Family,
        provider: Callable[[str], Any],
        symbols: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        """Let `provider(symbol)` answer for every key of a family; it returns None where it has nothing.

        One that has much to look through returns a generator: each `yield` gives the loop back, what it
        returns in the end is the answer. `symbols` names those that have a value now.
        """

    def symbols(self, family: Family) -> list[str]:
        """Those that have a value of a state family now, as far as that is known at once."""

    def peek(self, family: Family, symbol: str) -> Any:
        """The value of one of `symbols`, at once; None where there is none or it takes steps to make."""
