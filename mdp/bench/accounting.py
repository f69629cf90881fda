"""Whether every event sent is accounted for (issue: received = processed + expired + dropped + waiting)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from mdp.bench.control import Sent

_FED = ("trades", "quotes", "aggregates")  # queues of what the feeder sends


class Ring(msgspec.Struct):
    """Of the raw ring; frames include the provider's status messages."""

    frames: int = 0
    taken_frames: int = 0
    shed_frames: int = 0
    waiting_frames: int = 0
    shed_events: int = 0


class QueueTerms(msgspec.Struct):
    """Of one queue, in events."""

    received: int = 0
    processed: int = 0
    expired: int = 0
    dropped: int = 0
    waiting: int = 0


class Accounting(msgspec.Struct):
    """Every term the platform counted, where it counted it."""

    ring: Ring = msgspec.field(default_factory=Ring)
    decoded: dict[str, int] = msgspec.field(default_factory=dict)  # queue -> events
    rejected: dict[str, int] = msgspec.field(default_factory=dict)  # reason -> events
    statuses: int = 0  # the provider's words about the connection; no market events
    queues: dict[str, QueueTerms] = msgspec.field(default_factory=dict)

    def total(self, term: str) -> int:
        """A term of the queues, summed over them."""
        return sum(getattr(queue, term) for queue in self.queues.values())

    @property
    def refused(self) -> int:
        """Events rejected, for whatever reason."""
        return sum(self.rejected.values())

    @property
    def lost(self) -> int:
        """Events that were shed, expired, dropped or rejected."""
        return self.ring.shed_events + self.total("expired") + self.total("dropped") + self.refused

    @property
    def settled(self) -> int:
        """Events the platform is through with, one way or the other; rejected ones have a queue, too."""
        through = sum(self.total(term) for term in ("processed", "expired", "dropped"))
        return through + self.ring.shed_events


class Check(msgspec.Struct, frozen=True):
    """Two counts that must be equal, and what they are."""

    name: str
    left: int
    right: int

    @property
    def exact(self) -> bool:
        """Whether they are."""
        return self.left == self.right


def read(raw: Mapping[str, Any]) -> Accounting:
    """The platform's `App.accounting()`, typed.

    Raises:
        msgspec.ValidationError: A term is missing its number.
    """
    return msgspec.convert(raw, Accounting)


def checks(accounting: Accounting, sent: Sent) -> list[Check]:
    """What must be equal when nothing moves: sums of the platform's terms, and they against the feeder's.

    Events shed undecoded have no type, so the comparison by type is only made where nothing was shed.
    """
    ring = accounting.ring
    decoded = {name: accounting.decoded.get(name, 0) for name in _FED}
    through = ring.taken_frames + ring.shed_frames + ring.waiting_frames
    found = [
        Check("frames: received = decoded + shed + waiting", ring.frames, through),
        Check("frames: sent = received", sent.frames + sent.acks, ring.frames),
        Check(
            "events: sent = decoded + rejected + shed",
            sent.events,
            sum(accounting.decoded.values()) + accounting.refused + ring.shed_events,
        ),
        Check("events: nothing waits in the end", accounting.total("waiting") + ring.waiting_frames, 0),
    ]
    for name, queue in sorted(accounting.queues.items()):
        gone = queue.processed + queue.expired + queue.dropped + queue.waiting
        found.append(
            Check(f"{name}: received = processed + expired + dropped + waiting", queue.received, gone)
        )
    for name in _FED:
        queue = accounting.queues.get(name, QueueTerms())
        found.append(Check(f"{name}: decoded = received", decoded[name], queue.received))
        if not ring.shed_frames:
            found.append(Check(f"{name}: sent = decoded", getattr(sent, name), decoded[name]))
    return found
