"""Cache and bus in the process's own memory: what `--role all` uses."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Any

from mdp.cache.base import Entry, Interest, Message, Sink
from mdp.feeds import Family, Target, match, resolve


async def stepped(steps: Generator[None, None, Any]) -> Any:
    """Run a provider that works step by step, giving the loop back between steps."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
        await asyncio.sleep(0)


class _Subscription:
    def __init__(self, bus: LocalBus, targets: tuple[Target, ...], sink: Sink) -> None:
        self._bus: LocalBus | None = bus
        self.targets = targets
        self.sink = sink

    def close(self) -> None:
        if self._bus is not None:
            bus, self._bus = self._bus, None
            bus._remove(self)


class LocalBus:
    """Who in this process subscribes to what, and the handing over to them."""

    def __init__(self) -> None:
        self._exact: dict[str, list[_Subscription]] = {}  # feed -> subscriptions by name
        self._wild: dict[str, list[_Subscription]] = {}  # family name -> subscriptions of every symbol
        self._interests: dict[str, Interest] = {}  # family name -> who wants what

    def deliver(self, message: Message) -> None:
        """Hand a message to all who subscribed it, in this step. What a sink raises goes to the caller."""
        exact = self._exact.get(message.feed)
        wild = self._wild.get(message.family.name)
        if exact or wild:
            sinks = [sub.sink for sub in itertools.chain(exact or (), wild or ())]
            for sink in dict.fromkeys(sinks) if len(sinks) > 1 else sinks:
                sink(message)

    def interest(self, family: Family) -> Interest:
        return self._interests.setdefault(family.name, Interest())

    def subscribe(self, pattern: str, sink: Sink) -> _Subscription:
        targets = match(pattern)
        if not targets:
            raise ValueError(f"no feed matches {pattern[:80]!r}")
        sub = _Subscription(self, targets, sink)
        for target in targets:
            interest = self.interest(target.family)
            if target.symbol is None:
                self._wild.setdefault(target.family.name, []).append(sub)
                interest.all = True
            else:
                self._exact.setdefault(target.family.feed(target.symbol), []).append(sub)
                interest.symbols.add(target.symbol)
        return sub

    def _remove(self, sub: _Subscription) -> None:
        for target in sub.targets:
            name = target.family.name
            interest = self._interests[name]
            if target.symbol is None:
                _drop(self._wild, name, sub)
                interest.all = name in self._wild
            else:
                feed = target.family.feed(target.symbol)
                _drop(self._exact, feed, sub)
                if feed not in self._exact:
                    interest.symbols.discard(target.symbol)


class MemoryBus(LocalBus):
    """Delivers in the publisher's own step; what a sink raises goes to its publisher."""

    def __init__(self, epoch: int | None = None) -> None:
        super().__init__()
        self.epoch = int(time.time() * 1000) if epoch is None else epoch
        self._seqs: dict[str, int] = {}  # feed -> seq of its last message
        self._history: dict[str, deque[Message]] = {}  # event feed with a list -> its last messages

    def publish(self, family: Family, symbol: str, value: Any) -> Message:
        feed = family.feed(symbol) if family.hole else family.name
        seq = self._seqs[feed] = self._seqs.get(feed, 0) + 1
        message = Message(feed, family, self.epoch, seq, value)
        if family.max_items:
            self._remember(message)
        exact = self._exact.get(feed)
        wild = self._wild.get(family.name)
        if exact or wild:
            if exact is not None and wild is None and len(exact) == 1:  # the usual case
                exact[0].sink(message)
                return message
            self.deliver(message)
        return message

    def _remember(self, message: Message) -> None:
        history = self._history.get(message.feed)
        if history is None:
            history = self._history[message.feed] = deque(maxlen=message.family.max_items)
        history.append(message)

    def since(self, feed: str, epoch: int, seq: int) -> list[Message] | None:
        now = self._seqs.get(feed, 0)
        if epoch != self.epoch or seq > now:
            return None
        if seq == now:
            return []
        history = self._history.get(feed, ())
        if not history or history[0].seq > seq + 1:
            return None
        return [message for message in history if message.seq > seq]

    def place(self, feed: str) -> tuple[int, int]:
        return self.epoch, self._seqs.get(feed, 0)


def _drop(table: dict[str, list[_Subscription]], key: str, sub: _Subscription) -> None:
    subs = table[key]
    subs.remove(sub)
    if not subs:
        del table[key]


class MemoryCache:
    """Values live as objects; those of a family with a provider are made when asked for.

    Ages are by the monotonic clock given (nanoseconds). Values are bounded by what the analyzers
    bound (symbols), lists by their family's `max_items`.
    """

    def __init__(self, bus: MemoryBus, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._bus = bus
        self._clock = clock
        self._values: dict[str, tuple[int, Any]] = {}  # key -> (expires at, value)
        self._lists: dict[str, deque[tuple[int, Any]]] = {}  # key -> (expires at, item), newest first
        self._providers: dict[str, Callable[[str], Any]] = {}  # family name -> provider
        self._symbols: dict[str, Callable[[], Iterable[str]]] = {}  # family name -> those that have a value

    async def get(self, key: str, limit: int = 0) -> Entry | None:
        found = resolve(key)
        if found is None:
            return None
        family, symbol = found
        epoch, seq = self._bus.place(key)
        if family.max_items:
            return Entry(self._items(key, limit), epoch, seq)
        provider = self._providers.get(family.name)
        value = provider(symbol) if provider is not None else self._value(key)
        if isinstance(value, Generator):
            value = await stepped(value)
        return None if value is None else Entry(value, epoch, seq)

    def set(self, family: Family, symbol: str, value: Any) -> None:
        self._values[family.feed(symbol)] = (self._clock() + int(family.ttl_seconds * 1e9), value)

    def push(self, family: Family, symbol: str, value: Any) -> None:
        key = family.feed(symbol)
        items = self._lists.get(key)
        if items is None:
            items = self._lists[key] = deque(maxlen=family.max_items)
        items.appendleft((self._clock() + int(family.ttl_seconds * 1e9), value))

    def provide(
        self,
        family: Family,
        provider: Callable[[str], Any],
        symbols: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self._providers[family.name] = provider
        self._symbols[family.name] = symbols

    def symbols(self, family: Family) -> list[str]:
        if family.name in self._symbols:
            return list(self._symbols[family.name]())
        found = [resolve(key) for key in self._values]
        return [known[1] for known in found if known is not None and known[0] is family]

    def peek(self, family: Family, symbol: str) -> Any:
        provider = self._providers.get(family.name)
        value = self._value(family.feed(symbol)) if provider is None else provider(symbol)
        return None if isinstance(value, Generator) else value

    def lists(self) -> dict[str, list[tuple[int, Any]]]:
        """Every list as `(ms it has left to live, item)`, newest first, for a snapshot."""
        now = self._clock()
        return {
            key: [((expires - now) // 1_000_000, item) for expires, item in items if expires > now]
            for key, items in self._lists.items()
        }

    def restore(self, key: str, items: list[Any], elapsed_ms: int) -> None:
        """Append older items of a list, as `lists` gave them `elapsed_ms` ago."""
        found = resolve(key)
        if found is None or not found[0].max_items:
            return
        now = self._clock()
        held = self._lists.setdefault(key, deque(maxlen=found[0].max_items))
        for left_ms, item in items:
            if left_ms > elapsed_ms and len(held) < found[0].max_items:
                held.append((now + (left_ms - elapsed_ms) * 1_000_000, item))

    def restore_item(self, key: str, item: Any) -> None:
        """Put a journaled item at the head of its list."""
        found = resolve(key)
        if found is not None and found[0].max_items:
            self.push(*found, item)

    def _value(self, key: str) -> Any:
        held = self._values.get(key)
        if held is None:
            return None
        if held[0] <= self._clock():
            del self._values[key]
            return None
        return held[1]

    def _items(self, key: str, limit: int) -> list[Any]:
        items = self._lists.get(key)
        if items is None:
            return []
        now = self._clock()
        while items and items[-1][0] <= now:
            items.pop()
        wanted = itertools.islice(items, limit) if limit > 0 else items
        return [item for _, item in wanted]
