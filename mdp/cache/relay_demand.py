"""What a process wants of Redis: channels, streams and words of interest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mdp.cache.relay_channels import glob
from mdp.feeds import STATE, Family, Target, match

if TYPE_CHECKING:
    from mdp.cache.relay import Relay

_KEPT = ""  # instead of a pattern: for good


class Demand:
    """Counts who subscribes to which pattern here, and asks for it in Redis from the first to the last."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._patterns: dict[str, int] = {}  # pattern -> local subscriptions
        self._channels: dict[str, int] = {}  # channel or glob -> patterns that need it
        self._needed_by: dict[str, dict[str, None]] = {}  # the same, with their names

    def __len__(self) -> int:
        return len(self._patterns)

    def keep(self, family: Family) -> None:
        """Hear a state feed without a symbol for good, whether or not anybody subscribes to it here.

        While Redis refuses writes, messages leave and keys stay as they were: who comes from another service,
        and had those messages there, must not be told the key's older value here.
        """
        name, _ = self._channel(Target(family, ""))
        needed = self._needed_by.setdefault(name, {})
        if not needed:
            self._relay.channels.want(name, pattern=False)
        needed[_KEPT] = None

    def hold(self, pattern: str) -> None:
        """One more subscription of a pattern."""
        count = self._patterns[pattern] = self._patterns.get(pattern, 0) + 1
        if count > 1:
            return
        relay = self._relay
        for target in match(pattern):
            if target.family.max_items:
                relay.follow(target)
                continue
            name, is_glob = self._channel(target)
            needed = self._needed_by.setdefault(name, {})
            if not needed:
                relay.channels.want(name, pattern=is_glob)
            needed[pattern] = None
        if self._joined(pattern):  # other patterns have the same channels
            self._begin(pattern)

    def release(self, pattern: str) -> None:
        """One less."""
        self._patterns[pattern] -= 1
        if self._patterns[pattern]:
            return
        del self._patterns[pattern]
        relay = self._relay
        for target in match(pattern):
            if target.family.max_items:
                relay.leave(target)
                continue
            name, _ = self._channel(target)
            needed = self._needed_by[name]
            needed.pop(pattern, None)
            if not needed:
                del self._needed_by[name]
                relay.channels.drop(name)
                relay.forget(target)
        relay.interests.end(pattern)

    def channels_of(self, family: Family, symbol: str) -> list[str]:
        """Those by which messages of a feed come now; any of them will do."""
        names = (self._channel(Target(family, symbol))[0], self._channel(Target(family, None))[0])
        return [name for name in names if name in self._needed_by]

    def acknowledged(self, name: str) -> None:
        """A channel is subscribed: the patterns that waited for it alone are told to publishers."""
        for pattern in self._needed_by.get(name, ()):
            if pattern != _KEPT and self._joined(pattern):
                self._begin(pattern)

    def exact_states(self) -> list[tuple[Family, str]]:
        """State feeds that are subscribed by name."""
        found = {
            target.family.feed(target.symbol): (target.family, target.symbol)
            for pattern in self._patterns
            for target in match(pattern)
            if target.symbol is not None and target.family.kind == STATE
        }
        return list(found.values())

    def _joined(self, pattern: str) -> bool:
        names = [self._channel(target)[0] for target in match(pattern) if not target.family.max_items]
        return bool(names) and all(map(self._relay.channels.joined, names))

    def _begin(self, pattern: str) -> None:
        self._relay.interests.begin(pattern)

    def _channel(self, target: Target) -> tuple[str, bool]:
        family, keys = target.family, self._relay.keys
        if target.symbol is None and family.hole:
            return glob(*keys.bus(family.feed("\0")).split("\0")), True
        return keys.bus(family.feed(target.symbol or "")), False
