"""The role `listener`: who connects, what reaches the streams, what the others are told. A real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from mdp.cache.keys import Keys
from mdp.config import Config, HaltsConfig, MdqConfig
from mdp.events import HaltNotice, Trade
from mdp.listener.announcement import Announcement, read_announcement
from mdp.listener.ring import RawRing
from mdp.listener.states import FeedState
from mdp.listener.trade_halts import HaltSource
from mdp.observability.loop_lag import StepTimers
from mdp.observability.metrics import Metrics
from mdp.processor.pace import Pace
from mdp.queues.base import Batch
from mdp.roles import listener as listener_module
from mdp.roles.listener import ListenerRole, _PatientPace
from mdp.roles.parts import Shared
from mdp.roles.redis_stage import RedisStage
from mdp.stage import Health, Stage
from tests.listener.fake_provider import FakeProvider, Session, quick_config, trade
from tests.queues.streams_support import stored, until
from tests.redis_server import RedisServer
from tests.tcp_proxy import TcpProxy

PARTITIONS = 4


@pytest.fixture(autouse=True)
def quick_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of the real times: a busy machine must not make a lease run out."""
    monkeypatch.setattr(listener_module, "LEASE_SECONDS", 2.0)
    monkeypatch.setattr(listener_module, "RENEW_SECONDS", 0.25)
    monkeypatch.setattr(listener_module, "MARGIN_SECONDS", 0.7)
    monkeypatch.setattr(listener_module, "TAKEOVER_SECONDS", (0.2, 0.4, 0.8))
    monkeypatch.setattr("mdp.roles.listener_lease._ANNOUNCE_SECONDS", 0.1)


class Provider(FakeProvider):
    """Sends a trade each few milliseconds to whoever is connected, and notes how many were at most."""

    def __init__(self, **options: Any) -> None:
        super().__init__(self._send, **options)
        self.sent = 0
        self.most = 0

    async def _send(self, session: Session) -> None:
        self.most = max(self.most, self.open_now)
        await session.open()
        while True:
            self.most = max(self.most, self.open_now)
            self.sent += 1
            await session.send(trade(f"S{self.sent % 9}", self.sent))
            await asyncio.sleep(0.005)


class Replica:
    """A role with what a process gives it."""

    def __init__(self, server: RedisServer, provider: FakeProvider, url: str = "", **changes: Any) -> None:
        config = Config(mdq=MdqConfig(partitions=PARTITIONS, flush_ms=5.0, ttl_seconds=60.0), **changes)
        config.massive = quick_config(provider.feed, rest_url="http://127.0.0.1:9")
        config.cache = server.config(timeout_seconds=1.0)
        config.cache.url = url or server.url
        self.metrics = Metrics()
        self.redis = RedisStage("redis", config.cache)
        self.shared = Shared(config, self.metrics, StepTimers(self.metrics), Keys(), self.redis, self.redis)
        self.role = ListenerRole(self.shared)
        self._started: list[Stage] = []

    async def start(self) -> Replica:
        for stage in (self.redis, *self.role.stages()):
            await stage.start()
            self._started.append(stage)
        return self

    async def stop(self) -> None:
        while self._started:
            await self._started.pop().stop()
        await self.role.finish()

    @property
    def live(self) -> bool:
        return self.role.listener.state is FeedState.LIVE


Make = Callable[..., Replica]


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    made = Provider()
    async with made:
        yield made


@pytest.fixture
async def make(redis_server: RedisServer, provider: Provider) -> AsyncIterator[Make]:
    """Makes replicas that are stopped afterwards."""
    made: list[Replica] = []

    def one(url: str = "", **changes: Any) -> Replica:
        made.append(Replica(redis_server, provider, url, **changes))
        return made[-1]

    yield one
    redis_server.empty()
    for replica in made:
        await replica.stop()


def said(server: RedisServer) -> Announcement:
    with server.client() as client:
        return read_announcement(client.hgetall(Keys().listener))


def numbers(server: RedisServer) -> list[int]:
    """Of the trades in Redis, in no order."""
    return sorted(
        int(event.id)
        for (queue, _), entries in stored(server, Keys(), PARTITIONS).items()
        if queue == "trades"
        for entry in entries
        for event in entry.events
    )


# --- one ---


async def test_what_the_provider_sends_reaches_the_streams(
    make: Make, provider: Provider, redis_server: RedisServer
) -> None:
    """Each trade once, by partition; and the numbers add up from the frames to the streams."""
    replica = await make().start()
    await until(lambda: len(numbers(redis_server)) >= 50)
    await replica.stop()
    found = numbers(redis_server)
    assert found == list(range(1, len(found) + 1))
    assert said(redis_server).state == "idle", "the last word"
    accounting = replica.role.accounting()
    assert accounting["decoded"]["trades"] == accounting["queues"]["trades"]["received"]
    assert accounting["streams"]["received"] == accounting["streams"]["sent"] == len(found)


async def test_the_others_are_told_each_second_how_things_are(make: Make, redis_server: RedisServer) -> None:
    """State, clock, ledger and accounting in one hash that only the active one writes."""
    replica = await make().start()
    await until(lambda: said(redis_server).state == "live" and said(redis_server).market_ms)
    word = said(redis_server)
    assert (word.id, word.epoch) == (replica.shared.id, replica.role.lease.epoch)
    assert word.gaps == 0
    assert word.accounting["streams"]["received"] > 0
    before = word.ts
    await until(lambda: said(redis_server).ts > before)


async def test_an_outage_is_said_at_once(
    make: Make, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the hash and on the control channel, when it begins and when it ends, in the market's time."""
    monkeypatch.setattr("mdp.roles.listener_lease._ANNOUNCE_SECONDS", 60.0)
    replica = await make().start()
    await until(lambda: replica.live and replica.role.market_clock.now_ms > 0)
    heard: list[str] = []
    replica.role._control.listeners.append(heard.append)
    now_ms = replica.role.market_clock.now_ms
    replica.role.listener.gaps.open("test")
    await until(lambda: heard == ["gaps"])
    (gap,) = said(redis_server).ledger
    assert now_ms <= gap["market_start_ms"] <= replica.role.market_clock.now_ms
    replica.role.listener.gaps.close()
    await until(lambda: heard == ["gaps"] * 2)
    (gap,) = said(redis_server).ledger
    assert gap["market_end_ms"] >= gap["market_start_ms"]


async def test_a_frozen_listeners_word_does_not_replace_its_successors(
    make: Make, redis_server: RedisServer
) -> None:
    """The script compares epochs."""
    replica = await make().start()
    await until(lambda: said(redis_server).state == "live")
    with redis_server.client() as client:
        client.hset(Keys().listener, mapping={"epoch": 1 << 60, "state": "theirs"})
    await asyncio.sleep(0.3)
    assert said(redis_server).state == "theirs"
    assert replica.role.status()["active"]


async def test_metrics_and_status_show_the_role(make: Make, redis_server: RedisServer) -> None:
    """Before anything happened, and while data comes."""
    replica = make()
    assert "mdp_listener_active 0" in replica.metrics.render().decode()
    await replica.start()
    await until(lambda: replica.role.writer.counters.sent > 10)
    text = replica.metrics.render().decode()
    assert "mdp_listener_active 1" in text
    assert 'mdp_mdq_events_total{fate="sent"}' in text
    status = replica.role.status()
    assert status["active"]
    assert status["feed"]["state"] == "live"
    assert replica.role.session() is not None


# --- two ---


async def test_one_is_connected_and_the_other_follows_a_graceful_stop(
    make: Make, provider: Provider, redis_server: RedisServer
) -> None:
    """Without two connections at once; the gap between them is in the ledger, the first one's ledger too."""
    first = await make().start()
    await until(lambda: first.live)
    first.role.listener.gaps.begin("test", detail="something that was lost")
    second = await make().start()
    await until(lambda: second.role.holder.others == 1 and said(redis_server).gaps == 1)
    assert second.role.listener.counters.attempts == 0
    assert second.role.holder.health().ok
    await first.stop()
    assert first.role.listener.detail == "stopped"
    await until(lambda: second.live)
    assert provider.most == 1
    await until(lambda: said(redis_server).gaps == 3 and said(redis_server).ledger[-1]["end_ms"])
    ledger = said(redis_server).ledger
    assert [gap["reason"] for gap in ledger] == ["test", "operator", "takeover"]
    assert all(gap["end_ms"] is not None for gap in ledger)
    assert ledger[1]["end_ms"] <= ledger[2]["end_ms"]
    assert ledger[2]["market_start_ms"] > 0, "the first one's last word says up to when it had all"
    controls: Any = second.role.controls
    assert [gap["reason"] for gap in controls.gaps()] == ["test", "operator", "takeover"]
    assert numbers(redis_server) == sorted(set(numbers(redis_server)))


async def test_who_is_cut_off_from_redis_disconnects_before_the_other_connects(
    make: Make, provider: Provider, redis_server: RedisServer
) -> None:
    """Never two connections; what the first one sends afterwards does not get into the streams."""
    async with TcpProxy(redis_server.port) as proxy:
        first = await make(f"redis://127.0.0.1:{proxy.port}/0").start()
        await until(lambda: first.live)
        second = await make().start()
        await until(lambda: first.role.holder.others == 1)
        epoch = first.role.lease.epoch
        proxy.cut()
        await until(lambda: second.live)
        assert not first.live
        assert provider.most == 1
        await until(lambda: second.role.writer.counters.sent > 0)
        proxy.mend()
        await until(lambda: first.role.holder.others == 1 and first.redis.health().ok)
        await asyncio.sleep(0.3)
        assert not first.live
        assert provider.most == 1
        for entries in stored(redis_server, Keys(), PARTITIONS).values():
            epochs = [entry.header.epoch for entry in entries]
            assert epochs == sorted(epochs)
            assert set(epochs) <= {epoch, second.role.lease.epoch}
        found = numbers(redis_server)
        assert found == sorted(set(found)), "nothing twice"
        await first.stop()


async def test_without_a_standby_the_connection_outlasts_redis(
    make: Make, provider: Provider, redis_server: RedisServer
) -> None:
    """Reading goes on, what waits is bounded, and it is written again once Redis is back."""
    replica = await make().start()
    await until(lambda: replica.role.writer.counters.sent > 10)
    redis_server.kill()
    await until(lambda: not replica.role.lease.epoch)
    await asyncio.sleep(0.3)
    assert replica.live
    redis_server.start()
    sent = replica.role.writer.counters.sent
    await until(lambda: replica.role.writer.counters.sent > sent + 10)
    assert provider.connections == 1
    streams = replica.role.writer.accounting()
    assert streams.pop("received") == sum(streams.values())


async def test_who_held_on_gives_way_to_one_that_came_meanwhile(
    make: Make, provider: Provider, redis_server: RedisServer
) -> None:
    """It learns of it as soon as it reaches Redis again."""
    async with TcpProxy(redis_server.port) as proxy:
        first = await make(f"redis://127.0.0.1:{proxy.port}/0").start()
        await until(lambda: first.live)
        proxy.cut()
        await until(lambda: not first.role.lease.epoch)
        assert first.live
        second = await make().start()
        await until(lambda: second.live)
        proxy.mend()
        await until(lambda: not first.live)
        assert second.live
        assert first.role.listener.detail == "another listener took over"
        assert first.role.listener.gaps.entries()[-1]["reason"] == "standby"
        await first.stop()


async def test_without_redis_nobody_connects(
    make: Make, provider: Provider, redis_server: RedisServer
) -> None:
    """Two that start without it would both connect. Once it is there, one does."""
    redis_server.kill()
    first, second = await make().start(), await make().start()
    await asyncio.sleep(0.3)
    assert provider.connections == 0
    redis_server.start()
    await until(lambda: first.live or second.live)
    await asyncio.sleep(0.2)
    assert provider.most == 1


async def test_what_could_not_be_handed_on_is_in_the_announced_ledger(
    make: Make, redis_server: RedisServer
) -> None:
    """Processors cannot know of it otherwise."""
    replica = await make().start()
    await until(lambda: said(redis_server).state == "live")
    replica.role.writer.queues["trades"].on_loss("dropped", Batch([Trade("A", 1, 1, 1)], 0))  # type: ignore[misc]
    replica.role.look()
    await until(lambda: [gap["reason"] for gap in said(redis_server).ledger] == ["dropped"])


# --- operators, halts, replays ---


async def test_an_operator_disconnects_and_a_standby_refuses(make: Make) -> None:
    """What was stopped stays stopped; a restart is the active one's."""
    first = await make().start()
    await until(lambda: first.live)
    controls: Any = first.role.controls
    await controls.feed_stop()
    await until(lambda: first.role.listener.state is FeedState.IDLE)
    await asyncio.sleep(0.3)
    assert first.role.listener.state is FeedState.IDLE
    await controls.feed_start()
    await until(lambda: first.live)
    await controls.feed_restart()
    await until(lambda: first.role.listener.counters.connects == 3)
    assert controls.queues()["streams"]["received"] >= 0
    standby: Any = (await make().start()).role.controls
    with pytest.raises(ValueError, match="stands by"):
        await standby.feed_restart()


class Notices(HaltSource):
    """A list of halts that is always the same."""

    async def start(self) -> None:
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        notice = HaltNotice("AAPL", 1, 2, "test")
        while True:
            self.put([notice])
            assert type(notice) is HaltNotice, "it stays the source's"
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        self.task.cancel()

    def health(self) -> Health:
        return Health(not self.task.done(), "")


async def test_an_exchanges_halts_travel_in_a_stream_of_their_own(
    make: Make, redis_server: RedisServer
) -> None:
    """The active listener's alone: every listener asks, for the day it takes over."""
    halts = HaltsConfig(source=f"{__name__}:Notices", rss_url="http://127.0.0.1:9/")
    first = await make(halts=halts).start()
    await until(lambda: first.live)
    second = await make(halts=halts).start()

    def notices() -> list[HaltNotice]:
        found = stored(redis_server, Keys(), PARTITIONS).items()
        return [
            e for (queue, _), entries in found if queue == "halt_notices" for n in entries for e in n.events
        ]

    await until(lambda: len(notices()) >= 3)
    assert notices()[0] == HaltNotice("AAPL", 1, 2, "test")
    assert second.role.writer.accounting()["received"] == 0
    assert first.role.halt_source is not None
    assert first.role.halt_source.health().ok


class Waits:
    def __init__(self, waiting: int, ok: bool = True) -> None:
        self.waiting, self.ok = waiting, ok


@pytest.mark.parametrize(
    ("replaying", "waiting", "ok", "slowed"),
    [
        (True, 60_000, True, True),
        (False, 60_000, True, False),
        (True, 10, True, False),
        (True, 60_000, False, False),
    ],
)
async def test_a_replay_is_slowed_down_where_redis_is_slower(
    replaying: bool, waiting: int, ok: bool, slowed: bool
) -> None:
    """A live feed never is, nor anything while Redis is gone: then the oldest are shed."""

    class Known(Pace):
        async def turn(self) -> None:
            turns.append(1)
            if len(turns) > 5:
                writer.waiting = 0

        @property
        def replaying(self) -> bool:
            return replaying

    turns: list[int] = []
    writer = Waits(waiting)
    pace = _PatientPace(
        Known(RawRing(max_bytes=1, max_age_ns=1)),
        writer,  # type: ignore[arg-type]
        Waits(0, ok),  # type: ignore[arg-type]
    )
    await pace.turn()
    assert (len(turns) > 1) == slowed
