"""Whether every event is accounted for where several processes count: each number is its own stage's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from mdp.bench.accounting import Check, Ring
from mdp.bench.control import Sent

_FED = ("trades", "quotes", "aggregates")  # queues of what the feeder sends


class Inbox(msgspec.Struct):
    """A queue in front of the streams, in events."""

    received: int = 0
    taken: int = 0  # by what packs
    expired: int = 0
    dropped: int = 0
    waiting: int = 0


class Streams(msgspec.Struct):
    """What the listener wrote, of all queues together, in events."""

    received: int = 0
    sent: int = 0  # that a stream has
    expired: int = 0
    dropped: int = 0
    lost: int = 0
    unwritable: int = 0
    waiting: int = 0  # those on their way, too


class ListenerCounts(msgspec.Struct):
    """As the listener counted."""

    ring: Ring = msgspec.field(default_factory=Ring)
    decoded: dict[str, int] = msgspec.field(default_factory=dict)
    rejected: dict[str, int] = msgspec.field(default_factory=dict)
    queues: dict[str, Inbox] = msgspec.field(default_factory=dict)
    streams: Streams = msgspec.field(default_factory=Streams)

    @property
    def gone(self) -> int:
        """Events that no stream will ever have."""
        streams = self.streams
        lost = streams.expired + streams.dropped + streams.lost + streams.unwritable
        return lost + self.ring.shed_events + sum(self.rejected.values())


class Outcome(msgspec.Struct):
    """What became of the events of a queue in processors."""

    processed: int = 0
    expired: int = 0
    missed: int = 0  # trimmed unread
    unreadable: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.processed + self.expired + self.missed + self.unreadable


class Reader(msgspec.Struct):
    """What a processor's reader counted, of all partitions."""

    delivered: int = 0
    expired: int = 0
    missed: int = 0
    unreadable: int = 0
    fenced: int = 0


class ProcessorCounts(msgspec.Struct):
    """As one processor counted."""

    queues: dict[str, Outcome] = msgspec.field(default_factory=dict)
    reader: Reader = msgspec.field(default_factory=Reader)


class ChainCounts(msgspec.Struct):
    """Of the whole chain.

    Attributes:
        failures: Of analyzers, by name, over all processors.
    """

    listener: ListenerCounts = msgspec.field(default_factory=ListenerCounts)
    processors: list[ProcessorCounts] = msgspec.field(default_factory=list)
    failures: dict[str, int] = msgspec.field(default_factory=dict)

    def queue(self, name: str) -> Outcome:
        """A queue, summed over the processors."""
        return _sum(one.queues.get(name, Outcome()) for one in self.processors)

    @property
    def total(self) -> Outcome:
        """Of all queues and processors."""
        return _sum(outcome for one in self.processors for outcome in one.queues.values())

    @property
    def fenced(self) -> int:
        """Events of a listener that had lost its lease."""
        return sum(one.reader.fenced for one in self.processors)

    @property
    def replayed(self) -> int:
        """Events read again because a partition changed hands: rates of such a run are worth little."""
        delivered = sum(one.reader.delivered for one in self.processors)
        return max(0, delivered - self.total.processed)

    @property
    def lost(self) -> int:
        """Events that were sent and never processed, for whatever reason."""
        total = self.total
        return self.listener.gone + self.fenced + total.total - total.processed

    @property
    def settled(self) -> int:
        """Events the chain is through with, one way or the other."""
        return self.total.processed + self.lost


def _sum(outcomes: Any) -> Outcome:
    summed = Outcome()
    for outcome in outcomes:
        for name in Outcome.__struct_fields__:
            setattr(summed, name, getattr(summed, name) + getattr(outcome, name))
    return summed


def read(listener: Any, processors: Sequence[Any], analyzers: Sequence[Any] = ()) -> ChainCounts:
    """What `/api/v1/queues` of the processes answered, and `/api/v1/analyzers` of the processors, typed.

    Raises:
        msgspec.ValidationError: A term is missing its number.
    """
    failures: dict[str, int] = {}
    for answer in analyzers:
        for row in answer["analyzers"]:
            failures[row["name"]] = failures.get(row["name"], 0) + int(row["failures"])
    return ChainCounts(
        msgspec.convert(listener, ListenerCounts),
        [msgspec.convert(answer, ProcessorCounts) for answer in processors],
        failures,
    )


def checks(counts: ChainCounts, sent: Sent) -> list[Check]:
    """What must be equal when nothing moves, stage by stage, and from end to end.

    Events shed undecoded have no type, and of those that were lost between packing and Redis only the sum is
    known; so comparisons by type are made where there are none of these.
    """
    listener, total = counts.listener, counts.total
    ring, streams = listener.ring, listener.streams
    refused = sum(listener.rejected.values())
    waiting = sum(inbox.waiting for inbox in listener.queues.values())
    taken = sum(inbox.taken for inbox in listener.queues.values())
    read_by = total.total + counts.fenced
    found = [
        Check("frames: sent = received", sent.frames + sent.acks, ring.frames),
        Check(
            "frames: received = decoded + shed + waiting",
            ring.frames,
            ring.taken_frames + ring.shed_frames + ring.waiting_frames,
        ),
        Check(
            "events: sent = decoded + rejected + shed",
            sent.events,
            sum(listener.decoded.values()) + refused + ring.shed_events,
        ),
        Check(
            "streams: received = sent + expired + dropped + lost + unwritable + waiting",
            streams.received,
            streams.sent
            + streams.expired
            + streams.dropped
            + streams.lost
            + streams.unwritable
            + streams.waiting,
        ),
        Check(
            "streams: taken = sent + lost + unwritable + under way",
            taken,
            streams.sent + streams.lost + streams.unwritable + streams.waiting - waiting,
        ),
        Check("streams: sent = processed + expired + missed + unreadable + fenced", streams.sent, read_by),
        Check("events: nothing waits in the end", ring.waiting_frames + streams.waiting, 0),
        Check(
            "events: sent by the feeder = processed + expired + dropped + missed + waiting + rejected + shed",
            sent.events,
            counts.settled + streams.waiting,
        ),
    ]
    for name, inbox in sorted(listener.queues.items()):
        gone = inbox.taken + inbox.expired + inbox.dropped + inbox.waiting
        found.append(Check(f"{name}: received = taken + expired + dropped + waiting", inbox.received, gone))
    by_type = not (streams.lost or streams.unwritable or counts.fenced or streams.waiting)
    for name in _FED:
        inbox, decoded = listener.queues.get(name, Inbox()), listener.decoded.get(name, 0)
        found.append(Check(f"{name}: decoded = received", decoded, inbox.received))
        if not ring.shed_frames and not refused:
            found.append(Check(f"{name}: sent = decoded", getattr(sent, name), decoded))
        if by_type:
            what = f"{name}: taken = processed + expired + missed + unreadable"
            found.append(Check(what, inbox.taken, counts.queue(name).total))
    found += [Check(f"failures of the analyzer {name}", n, 0) for name, n in sorted(counts.failures.items())]
    return found
