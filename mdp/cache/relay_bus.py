"""The bus of a process that does not compute: local subscriptions, each a share in one at Redis."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mdp.cache.base import Message, Sink, Subscription
from mdp.cache.memory import LocalBus
from mdp.feeds import Family

if TYPE_CHECKING:
    from mdp.cache.relay import Relay


class RelayBus(LocalBus):
    """See `mdp.cache.base.Bus`. Made by `Relay`."""

    def __init__(self, relay: Relay) -> None:
        super().__init__()
        self._relay = relay

    def publish(self, family: Family, symbol: str, value: Any) -> Message:
        """A relay hands on what others publish.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError(f"{family.feed(symbol)} cannot be published over a relay")

    def place(self, feed: str) -> tuple[int, int]:
        return self._relay.place(feed)

    def since(self, feed: str, epoch: int, seq: int) -> list[Message] | None:
        return self._relay.events.since(feed, epoch, seq)

    def subscribe(self, pattern: str, sink: Sink) -> Subscription:  # type: ignore[override]
        inner = super().subscribe(pattern, sink)
        self._relay.demand.hold(pattern)
        return _Subscription(inner, lambda: self._relay.demand.release(pattern))

    def covers(self, family: Family, symbol: str) -> bool:
        """Whether somebody here subscribes to a feed."""
        return family.name in self._wild or family.feed(symbol) in self._exact

    def wants(self, feed: str, family: Family) -> bool:
        """The same of a feed by its name."""
        return feed in self._exact or family.name in self._wild

    def covers_all(self, family: Family) -> bool:
        """Whether somebody here subscribes to all of a family."""
        return family.name in self._wild


class _Subscription:
    """One at the local bus, and a share in one at Redis."""

    def __init__(self, inner: Subscription, release: Callable[[], None]) -> None:
        self._inner: Subscription | None = inner
        self._release = release

    def close(self) -> None:
        inner, self._inner = self._inner, None
        if inner is not None:
            inner.close()
            self._release()
