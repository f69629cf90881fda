"""Who a connection belongs to, and which feeds it may read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from mdp.feeds import Family, match, resolve

ALL_FEEDS = "**"  # among the feeds of a key or token: every feed there is, and will be
MAX_PATTERNS = 1_000  # of one key or token


class Permission:
    """The feeds that may be read, as patterns of subscriptions (`mdp.feeds.match`), or `**` for all.

    A subscription is permitted if everything it names is: `quote:*` needs all quotes, not some. Several
    patterns may cover it together. Handing out only the permitted part of a wildcard would look like a
    market in which the rest does not trade.
    """

    __slots__ = ("_all", "_families", "_feeds", "patterns")

    def __init__(self, patterns: Iterable[str]) -> None:
        """
        Args:
            patterns: What is permitted; none at all permits nothing.

        Raises:
            ValueError: A pattern names no feed, or there are too many.
        """
        self.patterns = tuple(patterns)
        if len(self.patterns) > MAX_PATTERNS:
            raise ValueError(f"{len(self.patterns)} patterns; at most {MAX_PATTERNS} are allowed")
        self._all = ALL_FEEDS in self.patterns
        self._families: set[str] = set()  # of which every feed is permitted
        self._feeds: set[str] = set()  # permitted by name
        for pattern in self.patterns:
            if pattern == ALL_FEEDS:
                continue
            targets = match(pattern)
            if not targets:
                raise ValueError(f"no feed matches {pattern[:80]!a}")
            for target in targets:
                if target.symbol is None:
                    self._families.add(target.family.name)
                else:
                    self._feeds.add(target.family.feed(target.symbol))

    def allows(self, pattern: str) -> bool:
        """Whether all that a feed's name or wildcard stands for may be read; False if that is nothing."""
        targets = match(pattern)
        if self._all or not targets:
            return bool(targets)
        return all(self._covers(target.family, target.symbol) for target in targets)

    def _covers(self, family: Family, symbol: str | None) -> bool:
        if symbol is None:
            return family.name in self._families
        feed = family.feed(symbol)
        # `*:top_gainers` fits the family of scanners as well as the board: what the name means decides.
        found = resolve(feed)
        return feed in self._feeds or (found is not None and found[0].name in self._families)

    def __repr__(self) -> str:
        return f"Permission({list(self.patterns)!r})"


EVERYTHING = Permission([ALL_FEEDS])

Kind = Literal["anonymous", "configured", "key", "token"]


class Identity:
    """Who is connected, without the secret that proved it.

    Attributes:
        kind: How it was proved; `configured` is a key of `wds.api_keys`.
        id: Of the key, or the token's subject; empty where there is none. Safe to log.
        permission: What may be read.
        expires_at: When the connection ends at the latest, Unix seconds; None: never.
    """

    __slots__ = ("expires_at", "id", "kind", "permission")

    def __init__(
        self, kind: Kind, id: str = "", permission: Permission = EVERYTHING, expires_at: float | None = None
    ) -> None:
        self.kind = kind
        self.id = id
        self.permission = permission
        self.expires_at = expires_at

    @property
    def account(self) -> str:
        """What connections are counted under; empty for who is not counted."""
        return f"{self.kind}:{self.id}" if self.id else ""

    def __repr__(self) -> str:
        return f"Identity({self.kind!r}, {self.id!r})"


ANONYMOUS = Identity("anonymous")
STRANGER = Identity("anonymous", permission=Permission([]))  # before the login: may read nothing
