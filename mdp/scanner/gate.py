"""Lets what scanners say leave, or not: several processes run them, and one of them speaks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from mdp.cache.base import Interest
from mdp.feeds import Family
from mdp.processor.results import Shelf


class Way(Shelf, Protocol):
    """Where results go while we are the one who speaks (`mdp.cache.redis_output.RedisOutput`)."""

    def publish(self, family: Family, symbol: str, value: Any) -> object: ...


class Gate:
    """Bus and cache for the `Results` of scanners. Whoever stands by computes the same and says nothing.

    Attributes:
        silent: Nothing leaves even where there is a way: what is worked through happened before.
    """

    def __init__(self) -> None:
        self.silent = False
        self._way: Way | None = None
        self._interests: dict[str, Interest] = {}
        self._providers: list[tuple[Family, Callable[[str], Any], Callable[[], Iterable[str]]]] = []

    @property
    def open(self) -> bool:
        """Whether what is said now leaves."""
        return self._way is not None and not self.silent

    def lead_to(self, way: Way | None) -> None:
        """Speak from now on; None: say nothing any more."""
        self._way = way
        if way is not None:
            for provided in self._providers:
                way.provide(*provided)

    def interest(self, family: Family) -> Interest:
        """Everything: what nobody subscribes to is dropped later, and a successor must know it all."""
        interest = self._interests.get(family.name)
        if interest is None:
            interest = self._interests[family.name] = Interest()
            interest.all = True
        return interest

    def publish(self, family: Family, symbol: str, value: Any) -> None:
        if self._way is not None and not self.silent:
            self._way.publish(family, symbol, value)

    def set(self, family: Family, symbol: str, value: Any) -> None:
        if self._way is not None and not self.silent:
            self._way.set(family, symbol, value)

    def push(self, family: Family, symbol: str, value: Any) -> None:
        if self._way is not None and not self.silent:
            self._way.push(family, symbol, value)

    def provide(
        self,
        family: Family,
        provider: Callable[[str], Any],
        symbols: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self._providers.append((family, provider, symbols))
        if self._way is not None:
            self._way.provide(family, provider, symbols)
