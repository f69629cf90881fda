"""Which subscriptions were asked for on a connection, and what the provider said to each.

The provider acknowledges every pair by name, but refuses without saying which one: `not authorized`.
So a refusal is put down to the pairs that have no acknowledgement some seconds later. A topic it does
not know is never answered at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

GRACE_NS = 3_000_000_000  # acknowledgements of one request come together, well within this

_SUBSCRIBED = "subscribed to:"
_UNSUBSCRIBED = "unsubscribed to:"


class SubscriptionBook:
    """What is wanted and how far it was granted. Used from one event loop.

    Attributes:
        wanted: Pairs such as `T.*`, as configured.
        granted: Pairs acknowledged on this connection.
        degraded: Pairs the provider refused ("not authorized").
        unanswered: Pairs it neither acknowledged nor refused in time: an unknown topic, most likely.
    """

    def __init__(self, wanted: Iterable[str]) -> None:
        self.wanted: frozenset[str] = frozenset(wanted)
        self.granted: set[str] = set()
        self.degraded: set[str] = set()
        self.unanswered: set[str] = set()
        self._refusals = 0  # not yet put down to pairs
        self._asked_ns: int | None = None
        self._told: set[str] = set()  # already reported once

    @property
    def served(self) -> frozenset[str]:
        """Pairs that data can come for: granted, or not refused as far as is known."""
        return self.wanted - self.degraded - self.unanswered

    def asked(self, now_ns: int, *, fresh: bool) -> None:
        """The wanted pairs were requested, on a new connection if `fresh`."""
        if fresh:
            self.granted.clear()
            self.degraded.clear()
            self.unanswered.clear()
            self._refusals = 0
        self._asked_ns = now_ns

    def change(self, wanted: Iterable[str]) -> tuple[list[str], list[str]]:
        """Want something else; returns what is to be added and removed, sorted."""
        before, self.wanted = self.wanted, frozenset(wanted)
        gone = before - self.wanted
        self.granted -= gone
        self.degraded -= gone
        self.unanswered -= gone
        self._told -= gone  # asked for again later, it is news again
        return sorted(self.wanted - before), sorted(gone)

    def on_success(self, message: str) -> None:
        """An acknowledgement. Unknown wording is ignored."""
        text = message.strip()
        if text.startswith(_UNSUBSCRIBED):
            self.granted.discard(text[len(_UNSUBSCRIBED) :].strip())
        elif text.startswith(_SUBSCRIBED):
            pair = text[len(_SUBSCRIBED) :].strip()
            if pair in self.wanted:
                self.granted.add(pair)
                self.degraded.discard(pair)
                self.unanswered.discard(pair)

    def on_refusal(self, message: str, now_ns: int) -> list[str]:
        """A `not authorized`; returns the pairs now known to be refused, where the message names them."""
        if self._asked_ns is None:  # later than its request's grace
            self._asked_ns = now_ns
        named = sorted({word.strip(" ,;:'\"") for word in message.split()} & self.wanted)
        if not named:
            self._refusals += 1
        return self._degrade(named)

    def settle(self, now_ns: int) -> tuple[list[str], list[str]]:
        """Once the grace is over, put refusals down to the pairs without an acknowledgement.

        Returns:
            Pairs newly found refused, and newly found unanswered; each is returned once only.
        """
        if self._asked_ns is None or now_ns - self._asked_ns < GRACE_NS:
            return [], []
        self._asked_ns = None
        open_pairs = sorted(self.wanted - self.granted - self.degraded)
        if not self.granted and not self._refusals:
            return [], []  # this provider acknowledges nothing: silence then says nothing
        if self._refusals:
            # Fewer refusals than open pairs cannot be told apart: all of them go without data.
            self._refusals = 0
            return self._degrade(open_pairs), []
        self.unanswered.update(open_pairs)
        return [], self._news(open_pairs)

    def as_json(self) -> dict[str, Any]:
        """For the admin API."""
        return {
            "wanted": sorted(self.wanted),
            "granted": sorted(self.granted),
            "degraded": sorted(self.degraded),
            "unanswered": sorted(self.unanswered),
        }

    def _degrade(self, pairs: list[str]) -> list[str]:
        self.degraded.update(pairs)
        self.unanswered.difference_update(pairs)
        return self._news(pairs)

    def _news(self, pairs: list[str]) -> list[str]:
        news = [pair for pair in pairs if pair not in self._told]
        self._told.update(news)
        return news
