"""Who is connected, and the ledger that is handed on: without Redis or a provider."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from structlog.testing import capture_logs

from mdp.cache.keys import Keys
from mdp.cache.leases import Lease
from mdp.cache.members import Members
from mdp.listener.announcement import Announcement
from mdp.listener.massive import MassiveListener
from mdp.roles.listener_lease import Announcer, ConnectionHolder
from tests.waiting import eventually


class FakeLease:
    """Held or not, as told."""

    def __init__(self) -> None:
        self.epoch = 0
        self.free_in_seconds = 0.0
        self.on_gained: list[Callable[[int], None]] = []
        self.on_lost: list[Callable[[str], None]] = []

    def gain(self) -> None:
        self.epoch = 7
        for gained in self.on_gained:
            gained(7)


class FakeListener:
    """Notes what it is told; the first connections fail."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.connected = False

    async def start_feed(self) -> None:
        if self.failures:
            self.failures -= 1
            raise RuntimeError("defect")
        self.connected = True

    async def stop(self) -> None:
        self.connected = False


def holder(
    lease: FakeLease, listener: FakeListener, taken_over: Callable[[Announcement], None]
) -> ConnectionHolder:
    """Between the two."""
    return ConnectionHolder(
        cast(Lease, lease), cast(MassiveListener, listener), cast(Members, None), taken_over
    )


async def test_defects_do_not_keep_the_holder_of_the_lease_from_connecting() -> None:
    """Nobody else connects in its place: no ledger that cannot be read and no failed start ends it."""

    def broken(_said: Announcement) -> None:
        raise ValueError("defect")

    lease, listener = FakeLease(), FakeListener(failures=1)
    made = holder(lease, listener, broken)
    made.said = Announcement(id="other")
    with capture_logs() as logs:
        await made.start()
        lease.gain()
        await asyncio.sleep(0)
        made.changed()
        await eventually(lambda: listener.connected)
        await made.stop()
    assert {line["event"] for line in logs} == {"takeover_failed", "connection_holder_failed"}
    assert not listener.connected


def gap(number: int, start_ms: int, **more: Any) -> dict[str, Any]:
    """An entry of a ledger."""
    return {"number": number, "start_ms": start_ms, "end_ms": start_ms + 1, "reason": "aborted", **more}


class Speaker:
    """One listener's announcer."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.own: list[dict[str, Any]] = []
        lease = cast(Lease, FakeLease())
        self.announcer = Announcer(None, Keys(), lease, cast(ConnectionHolder, None), self.say)

    def say(self) -> Announcement:
        return Announcement(id=self.name, ts=1_000, gaps=len(self.own), ledger=list(self.own))

    @property
    def said(self) -> Announcement:
        """What it says now, with what it inherited."""
        word = self.say()
        word.gaps += self.announcer._inherited_gaps
        word.ledger = self.announcer.ledger(word.ledger)
        return word


def test_a_ledger_that_comes_back_holds_each_gap_once() -> None:
    """The first listener is followed by a second one, and follows it again: each gap counts once."""
    first, second = Speaker("first"), Speaker("second")
    first.own = [gap(1, 100), gap(2, 200, end_ms=None)]
    second.announcer.follow(first.said)
    second.own = [gap(1, 300)]
    word = second.said
    assert (word.gaps, [one["start_ms"] for one in word.ledger]) == (3, [100, 200, 300])
    assert word.ledger[1]["end_ms"] == 1_000, "it ended for us when its listener spoke last"
    first.own[1]["end_ms"] = 250
    first.announcer.follow(word)
    first.own.append(gap(3, 400))
    word = first.said
    assert (word.gaps, sorted(one["start_ms"] for one in word.ledger)) == (4, [100, 200, 300, 400])


def test_one_does_not_follow_itself() -> None:
    """It gained its lease again, and nobody else had it."""
    only = Speaker("only")
    only.own = [gap(1, 100)]
    only.announcer.follow(only.said)
    assert (only.said.gaps, len(only.said.ledger)) == (1, 1)
