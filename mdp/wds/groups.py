"""Who is written the same bytes, and which messages are theirs.

All clients with the same set of subscriptions share one *group*: one list of what is due, one joined payload.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

from mdp.cache.base import Bus, Message, Subscription
from mdp.feeds import Family, Target, match
from mdp.wds.client import Client, Due, Join
from mdp.wds.counters import WdsCounters
from mdp.wds.views import View


@functools.lru_cache(maxsize=4096)
def targets_of(pattern: str) -> tuple[tuple[Family, str | None], ...]:
    """The families that a pattern touches, each with the symbol it names; None: all."""
    return tuple((target.family, target.symbol) for target in match(pattern))


class Demand:
    """What the bus is asked for: a pattern from the first client who wants it to the last who leaves it."""

    def __init__(self, bus: Bus, counters: WdsCounters, sink: Callable[[Message], None]) -> None:
        self._bus = bus
        self._counters = counters
        self._sink = sink
        self._patterns: dict[str, _Pattern] = {}

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def hold(self, pattern: str) -> None:
        """One more client wants a pattern.

        Raises:
            ValueError: It names no feed of the contract.
        """
        known = self._patterns.get(pattern)
        if known is None:
            subscription = self._bus.subscribe(pattern, self._sink)
            self._patterns[pattern] = _Pattern(match(pattern), subscription)
        else:
            known.clients += 1
        self._counters.subscriptions += 1

    def release(self, pattern: str) -> None:
        """One client less wants it."""
        self._counters.subscriptions -= 1
        known = self._patterns[pattern]
        known.clients -= 1
        if not known.clients:
            del self._patterns[pattern]
            known.subscription.close()

    def close(self) -> None:
        """Nobody wants anything any more."""
        for pattern in self._patterns.values():
            pattern.subscription.close()


class _Pattern:
    """A pattern that at least one client subscribes to, with its one subscription at the bus."""

    __slots__ = ("clients", "subscription", "targets")

    def __init__(self, targets: tuple[Target, ...], subscription: Subscription) -> None:
        self.targets = targets
        self.subscription = subscription
        self.clients = 1


class Group:
    """All clients with the same subscriptions, who are written the same bytes."""

    __slots__ = ("clients", "due", "join", "names", "patterns", "views")

    def __init__(self, patterns: frozenset[str], views: frozenset[View], join: Join) -> None:
        self.patterns = patterns  # of version 1
        self.views = views  # of version 2
        self.names = {view.pattern for view in views}
        self.join = join
        self.clients: dict[Client, None] = {}
        self.due: list[Due] = []  # of the tick in progress


_Key = tuple[frozenset[str], frozenset[View], Join]


class Groups:
    """All of them, and how messages of version 1 find theirs. Those of version 2 are found through views."""

    def __init__(self) -> None:
        self._groups: dict[_Key, Group] = {}
        self._exact: dict[str, dict[Group, None]] = {}  # feed -> groups that name it
        self._wild: dict[str, dict[Group, None]] = {}  # family name -> groups that want all of it

    def of(self, message: Message) -> dict[Group, None]:
        """Those of version 1 that a message is for."""
        exact = self._exact.get(message.feed)
        wild = self._wild.get(message.family.name)
        return exact | wild if exact and wild else exact or wild or {}

    def move(self, client: Client) -> None:
        """Put a client into the group that its subscriptions ask for."""
        old = client.group
        if old is not None:
            del old.clients[client]
            if not old.clients:
                del self._groups[old.patterns, old.views, old.join]
                for view in old.views:
                    view.groups.pop(old, None)
                for table, key in self._routes(old):
                    groups = table.get(key)
                    if groups is not None:
                        groups.pop(old, None)
                        if not groups:
                            del table[key]
        client.group = None
        if client.patterns or len(client.views) > len(client.waiting):
            views = frozenset(view for name, view in client.views.items() if name not in client.waiting)
            members = frozenset(client.patterns), views, client.join
            group = self._groups.get(members)
            if group is None:
                group = self._groups[members] = Group(*members)
                for view in group.views:
                    view.groups[group] = None
                for table, route in self._routes(group):
                    table.setdefault(route, {})[group] = None
            group.clients[client] = None
            client.group = group

    def _routes(self, group: Group) -> Iterable[tuple[dict[str, dict[Group, None]], str]]:
        for pattern in group.patterns:
            for family, symbol in targets_of(pattern):
                if symbol is None:
                    yield self._wild, family.name
                else:
                    yield self._exact, family.feed(symbol)
