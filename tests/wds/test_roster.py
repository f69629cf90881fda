"""Who is connected: entering, leaving, and the end of all."""

from __future__ import annotations

import asyncio
from typing import cast

from mdp.cache.memory import MemoryBus, MemoryCache
from mdp.wds.access import Session
from mdp.wds.client import Client, Limits
from mdp.wds.counters import WdsCounters
from mdp.wds.frames import close_frame
from mdp.wds.hub import Hub
from mdp.wds.protocol import GOING_AWAY
from mdp.wds.roster import Roster
from tests.wds.doubles import FakeTransport, settle


class Rig:
    """A roster, and clients whose peers read only when told to."""

    def __init__(self) -> None:
        bus = MemoryBus(epoch=1)
        self.counters = WdsCounters()
        self.hub = Hub(bus, MemoryCache(bus), self.counters, tick_seconds=0.02)
        self.roster = Roster(self.hub, self.counters)

    def enter(self) -> tuple[Client, FakeTransport]:
        """One more client."""
        transport = FakeTransport()
        loop = asyncio.get_running_loop()
        client = Client(1, transport.as_transport(), Limits(1_000, close_seconds=60.0), self.counters, loop)
        self.roster.enter(client, cast(Session, object()))
        return client, transport


async def test_who_enters_is_listed_until_he_leaves() -> None:
    """Leaving ends the connection and the subscriptions; the total goes on counting."""
    rig = Rig()
    client, transport = rig.enter()
    other, _ = rig.enter()
    rig.hub.subscribe(client, "alerts")
    assert (list(rig.roster), len(rig.roster.sessions())) == ([client, other], 2)
    rig.roster.leave(client)
    assert list(rig.roster) == [other]
    assert transport.closing
    assert not client.patterns
    assert (rig.counters.clients_total, rig.counters.subscriptions) == (2, 0)


async def test_dismissing_nobody_takes_no_time() -> None:
    """Also after everybody has left."""
    rig = Rig()
    await rig.roster.dismiss(3_600.0)
    client, _ = rig.enter()
    rig.roster.leave(client)
    await rig.roster.dismiss(3_600.0)


async def test_all_are_told_at_once_and_waited_for() -> None:
    """The end comes with the last one that leaves, not with the time."""
    rig = Rig()
    clients = [rig.enter() for _ in range(3)]
    end = asyncio.ensure_future(rig.roster.dismiss(3_600.0))
    await settle()
    for _, transport in clients:
        assert transport.written.startswith(close_frame(GOING_AWAY)[:1])
    for client, _ in clients:
        assert not end.done()
        rig.roster.leave(client)
    async with asyncio.timeout(60):
        await end


async def test_who_does_not_leave_in_time_is_cut() -> None:
    """However long its bytes wait."""
    rig = Rig()
    _, transport = rig.enter()
    await rig.roster.dismiss(0.001)
    assert transport.aborted


async def test_who_comes_while_the_service_stops_is_sent_away() -> None:
    """He passed the handshake a moment before."""
    rig = Rig()
    rig.roster.stopping = True
    client, transport = rig.enter()
    assert client.closing
    assert b"reconnect" in transport.written
