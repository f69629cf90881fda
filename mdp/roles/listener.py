"""The role `listener`: the one connection to the provider, and its events into Redis Streams.

Any number of replicas; the one with the lease `listener` connects, the others stand by. The lease lasts
8 s. Who could not renew it for 6 s closes its connection, so that the next one may connect: the provider
allows one. But where nobody stands by, the connection stays through an outage of Redis: nothing would be won.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from functools import partial
from typing import Any, ClassVar

from mdp import plugins
from mdp.cache.control import Control
from mdp.cache.keys import LISTENER
from mdp.cache.leases import Lease
from mdp.cache.members import Members
from mdp.cache.redis_link import Link
from mdp.events import HALT_NOTICES, QUEUES, HaltNotice
from mdp.exchange_calendar import ALWAYS_OPEN, ExchangeCalendar
from mdp.listener.announcement import MAX_LEDGER, Announcement
from mdp.listener.gaps import Gap
from mdp.listener.losses import ListenerLosses
from mdp.listener.market_status import MarketStatusSource
from mdp.listener.massive import MassiveListener
from mdp.listener.ring import RawRing
from mdp.listener.trade_halts import HaltSource
from mdp.observability.listener import show_listener
from mdp.processor.decode import DecodeStage
from mdp.processor.gap_report import GapReport
from mdp.processor.pace import Pace
from mdp.queues.base import Batch
from mdp.queues.redis import StreamWriter
from mdp.roles.base import StartError
from mdp.roles.feed_controls import FeedControls
from mdp.roles.listener_lease import Announcer, ConnectionHolder
from mdp.roles.listener_watch import GAPS_CHANGED
from mdp.roles.parts import Named, Role, Shared
from mdp.sessions import MarketClock
from mdp.stage import Stage

LEASE_SECONDS, RENEW_SECONDS, MARGIN_SECONDS = 8.0, 1.0, 2.0
TAKEOVER_SECONDS = (2.0, 4.0, 8.0)
_NOTICES = 1_000  # in one batch: a halt of the whole market has ten thousand
_BACKLOG = 50_000  # events that wait for Redis, from which on a replay is slowed down


class ListenerRole(Role):
    """See the module.

    Attributes:
        listener, decode, writer: The way of an event, in this order.
        lease: Who connects.
    """

    name: ClassVar[str] = "listener"

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared)
        config, keys, client = shared.config, shared.keys, shared.redis.client
        massive = config.massive
        self.ring = RawRing(max_bytes=massive.ring_bytes, max_age_ns=int(massive.ring_max_age_seconds * 1e9))
        self.pace = Pace(self.ring)
        calendar = ExchangeCalendar(every_day=massive.market in ALWAYS_OPEN)
        self.market_clock = MarketClock(calendar=calendar)
        self.market_status = MarketStatusSource(massive.rest_url, massive.api_key, calendar=calendar)
        self.listener = MassiveListener(
            massive, self.ring, market_status=self.market_status, takeover_seconds=TAKEOVER_SECONDS
        )
        self._control = Control(client, keys.control)
        self._control.name = "listener_control"
        self.lease = Lease(
            client,
            keys,
            LISTENER,
            shared.id,
            seconds=LEASE_SECONDS,
            renew_seconds=RENEW_SECONDS,
            margin_seconds=MARGIN_SECONDS,
            control=self._control,
        )
        link = Link("mdq_writer", config.cache)
        self.writer = StreamWriter(
            client,
            keys,
            config.mdq,
            link,
            epoch=lambda: self.lease.epoch if self.lease.valid() else 0,
            market_clock=self.market_clock,
            packed=self.pace.note,
        )
        self.decode = DecodeStage(
            self.ring,
            {name: self.writer.queues[name] for name in QUEUES},
            _PatientPace(self.pace, self.writer, link),
            on_status=self.listener.on_status,
            observe=shared.steps.get("decode").record,
        )
        self.losses = ListenerLosses(self.listener.gaps, self.ring, lambda: self.market_clock.now_ms)
        self.writer.packer.on_loss = self.losses.queue_lost
        self.writer.packer.shed = lambda: self.ring.counters.shed_frames
        self.halt_source = self._halt_source()
        self.holder = ConnectionHolder(
            self.lease, self.listener, Members(client, keys.listeners, shared.id), self._ledger
        )
        self._announcer = Announcer(client, keys, self.lease, self.holder, self._announcement)
        self._announcer.on_news = partial(self._control.say, GAPS_CHANGED)
        self.listener.gaps.on_open.append(self._gap_began)
        self.listener.gaps.on_close.append(self._gap_ended)
        self.report = GapReport("listener_gap_report", client, keys)
        self.controls = self._operator = ListenerControls(self)
        show_listener(
            shared.metrics,
            active=self.lease.valid,
            listener=self.listener,
            ring=self.ring,
            decode=self.decode,
            writer=self.writer,
        )

    def stages(self) -> Iterable[Stage]:
        # Stopped in the reverse order: the socket closes, what was read is sent, the lease is released.
        yield self._control
        yield Named("listener_lease", self.lease)
        yield self.market_status
        yield self._announcer
        yield self.report
        yield self.writer
        yield self.decode
        if self.halt_source is not None:
            yield self.halt_source
        yield self.holder

    def vital(self) -> Iterable[Stage]:
        yield self.writer
        yield self.decode

    def status(self) -> dict[str, Any]:
        return {
            "active": self.lease.valid(),
            "epoch": self.lease.epoch,
            "others": self.holder.others,
            "feed": self.listener.status(),
            "recording": self._operator.recording(),
            "accounting": self.accounting(),
        }

    def session(self) -> str | None:
        day = self.market_clock.day
        return None if day is None else day.session(self.market_clock.now_ms)

    def look(self) -> None:
        self.losses.look()

    async def finish(self) -> None:
        await self._operator.close()

    def accounting(self) -> dict[str, Any]:
        """What came in and what became of it, each number as its stage counted it."""
        return {
            **self.decode.accounting(),
            "queues": {
                name: {
                    "received": queue.counters.received,
                    "taken": queue.counters.taken,
                    "expired": queue.counters.expired,
                    "dropped": queue.counters.dropped,
                    "waiting": queue.waiting,
                }
                for name, queue in self.writer.queues.items()
            },
            "streams": self.writer.accounting(),
        }

    def _ledger(self, said: Announcement) -> None:
        """We take over, and a predecessor said this last: since then data is missing."""
        self._announcer.follow(said)
        if said.ts:
            silent_ms = max(0, time.time_ns() // 1_000_000 - said.ts)
            detail = "another listener's connection was taken over"
            gap = self.listener.gaps.open("takeover", detail=detail, silent_ms=silent_ms)
            if not self.market_clock.now_ms:  # nothing came here yet: our predecessor knew
                gap.market_start_ms = said.market_ms or None

    def _gap_began(self, gap: Gap) -> None:
        """By the events, as everything else that is market time: what the provider says may be another."""
        gap.market_start_ms = int(self.market_clock.now_ms) or None
        self._announcer.changed()

    def _gap_ended(self, gap: Gap) -> None:
        gap.market_end_ms = int(self.market_clock.now_ms) or None  # partitions know better
        self._announcer.changed()

    def gaps(self) -> list[dict[str, Any]]:
        """The gap ledger with what became of it in all partitions."""
        own = self._announcer.ledger(self.listener.gaps.entries()) if self.holder.active else None
        return self.report.entries(listener=own)

    def _announcement(self) -> Announcement:
        listener = self.listener
        return Announcement(
            epoch=self.lease.epoch,
            id=self.shared.id,
            ts=time.time_ns() // 1_000_000,
            state=listener.state.value,
            detail=listener.detail,
            since=listener.state_since,
            gaps=listener.gaps.total,
            server_ms=self.market_status.server_now_ms() or 0,
            market_ms=int(self.market_clock.now_ms),
            ledger=listener.gaps.entries()[-MAX_LEDGER:],
            accounting=self.accounting(),
        )

    def _halt_source(self) -> HaltSource | None:
        """The second source of halts; None where none is configured. Every listener asks, one may write."""
        config = self.shared.config.halts
        if not config.rss_url:
            return None
        queue = self.writer.queues[HALT_NOTICES]

        def put(notices: list[HaltNotice]) -> None:
            if self.lease.valid():
                for at in range(0, len(notices), _NOTICES):
                    copies = [_copy(notice) for notice in notices[at : at + _NOTICES]]
                    queue.put(Batch(copies, time.monotonic_ns()))

        try:
            source = plugins.load("mdp.halt_sources", config.source, HaltSource, key="halts.source")
        except plugins.PluginError as exc:
            raise StartError(str(exc), exit_code=2) from None
        made: HaltSource = source(config, put, lambda: self.market_clock.now_ms)
        return made


def _copy(notice: HaltNotice) -> HaltNotice:
    """The source keeps its own and says it again; what is put belongs to the writer."""
    return HaltNotice(*(getattr(notice, name) for name in notice.__struct_fields__))


class ListenerControls(FeedControls):
    """What an operator can do here. A standby refuses what is for the active one."""

    def __init__(self, role: ListenerRole) -> None:
        super().__init__(role.listener)
        self._role = role

    def gaps(self) -> list[dict[str, Any]]:
        """As `Controls.gaps`; a standby says what it heard."""
        return self._role.gaps()

    def queues(self) -> dict[str, Any]:
        """As `Controls.queues`, for the listener's end."""
        return self._role.accounting()

    async def feed_start(self) -> None:
        self._role.holder.allowed = True
        self._role.holder.changed()

    async def feed_stop(self) -> None:
        self._role.holder.allowed = False
        self._role.holder.changed()

    async def feed_restart(self) -> None:
        if not self._role.holder.active:
            raise ValueError("this listener stands by; ask the one that is connected")
        await self._role.holder.restart()


class _PatientPace(Pace):
    """Slows a replay down where Redis is slower; a live feed is never kept waiting."""

    def __init__(self, pace: Pace, writer: StreamWriter, link: Link) -> None:
        self._pace, self._writer, self._link = pace, writer, link

    async def turn(self) -> None:
        await self._pace.turn()
        while self._pace.replaying and self._writer.waiting > _BACKLOG and self._link.ok:
            await asyncio.sleep(0.002)
            await self._pace.turn()
