"""Where analyzers' results go: the journal first, then lists, last values and the bus."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from mdp.cache.base import Interest
from mdp.feeds import Family


class Outlet(Protocol):
    """What results need of a bus (`mdp.cache.base.Bus` is one)."""

    def interest(self, family: Family) -> Interest: ...

    def publish(self, family: Family, symbol: str, value: Any) -> object: ...


class Shelf(Protocol):
    """What results need of a cache (`mdp.cache.base.Cache` is one)."""

    def set(self, family: Family, symbol: str, value: Any) -> None: ...

    def push(self, family: Family, symbol: str, value: Any) -> None: ...

    def provide(
        self,
        family: Family,
        provider: Callable[[str], Any],
        symbols: Callable[[], Iterable[str]] = tuple,
    ) -> None: ...


class JournalWriter(Protocol):
    """Takes records that must outlive the process before anything leaves it."""

    def write(self, records: list[Any]) -> None: ...


class Results:
    """The `Output` of analyzers. Nothing leaves before `commit`, which the worker calls after each step.

    Args:
        bus: Subscribers.
        cache: Lists and last values.
        journal: None where nothing is kept over a restart.
    """

    def __init__(self, bus: Outlet, cache: Shelf, journal: JournalWriter | None = None) -> None:
        self._bus = bus
        self._cache = cache
        self.journal_writer = journal
        self._outgoing: list[tuple[Family, str, Any]] = []
        self._records: list[Any] = []
        self._kept: list[tuple[Family, str, Any]] = []  # events of feeds without a list
        self.published = 0
        self.emitted = 0

    def interest(self, family: Family) -> Interest:
        return self._bus.interest(family)

    def provide(
        self,
        family: Family,
        provider: Callable[[str], Any],
        symbols: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self._cache.provide(family, provider, symbols)

    def publish(self, family: Family, symbol: str, value: Any) -> None:
        self._outgoing.append((family, symbol, value))

    def emit(self, family: Family, symbol: str, value: Any, *, journal: bool = False) -> None:
        if journal:
            self._records.append(["e", family.feed(symbol), value])
        if not family.max_items:
            self._kept.append((family, symbol, value))
        self._outgoing.append((family, symbol, value))

    def journal(self, analyzer: str, record: Any) -> None:
        self._records.append(["s", analyzer, record])

    def commit(self) -> None:
        """Let everything noted since the last call leave, in order."""
        if self._records:
            records, self._records = self._records, []
            if self.journal_writer is not None:
                self.journal_writer.write(records)
        if not self._outgoing:
            return
        kept, self._kept = self._kept, []
        for family, symbol, value in kept:
            self._cache.set(family, symbol, value)
        outgoing, self._outgoing = self._outgoing, []
        publish, push = self._bus.publish, self._cache.push
        for family, symbol, value in outgoing:
            if family.max_items:
                push(family, symbol, value)
                self.emitted += 1
            else:
                self.published += 1
            publish(family, symbol, value)
