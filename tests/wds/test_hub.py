"""The fan-out: who gets what, how often, in which order, and what is done once for all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdp import feeds
from mdp.cache.base import Message
from mdp.cache.memory import MemoryBus, MemoryCache
from mdp.wds import hub as hub_module
from mdp.wds import values
from mdp.wds.client import Client, Limits, framed_together
from mdp.wds.counters import WdsCounters
from mdp.wds.frames import text_frame
from mdp.wds.hub import Hub, nothing_to_gather
from mdp.wds.views import Options
from tests.wds.doubles import FakeTransport, settle


class Rig:
    """A hub on a bus; ticks by hand unless started. For the running loop."""

    def __init__(
        self,
        tick_seconds: float = 0.0,
        gather: Callable[[], Awaitable[None]] = nothing_to_gather,
        clock: Callable[[], float] = lambda: 0.0,
        cpu_clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.bus = MemoryBus(epoch=1)
        self.counters = WdsCounters()
        self.cache = MemoryCache(self.bus)
        self.hub = Hub(
            self.bus,
            self.cache,
            self.counters,
            tick_seconds=tick_seconds,
            gather=gather,
            clock=clock,
            cpu_clock=cpu_clock,
        )

    def client(self, *patterns: str, limit: int = 1_000_000) -> tuple[Client, FakeTransport]:
        """A client with subscriptions, and what it is written to."""
        transport = FakeTransport()
        loop = asyncio.get_running_loop()
        client = Client(1, transport.as_transport(), Limits(limit), self.counters, loop)
        for pattern in patterns:
            assert self.hub.subscribe(client, pattern)
        return client, transport


def payloads(transport: FakeTransport) -> list[Any]:
    """The decoded messages that were written; all short."""
    data, found = transport.written, []
    while data:
        assert data[0] == 0x81
        assert data[1] < 126
        found.append(msgspec.json.decode(data[2 : 2 + data[1]]))
        data = data[2 + data[1] :]
    return found


async def test_each_client_gets_what_it_subscribed() -> None:
    """By name and by wildcard, and nothing else."""
    rig = Rig()
    _, one = rig.client("quote:A")
    _, every = rig.client("quote:*")
    _, raw = rig.client("stocks:*:B")
    rig.bus.publish(feeds.QUOTE, "A", 1)
    rig.bus.publish(feeds.QUOTE, "B", 2)
    rig.bus.publish(feeds.TRADES, "B", 3)
    rig.bus.publish(feeds.AGG, "A", 4)
    await rig.hub.flush()
    assert payloads(one) == [1]
    assert payloads(every) == [1, 2]
    assert payloads(raw) == [3]


async def test_overlapping_subscriptions_deliver_once() -> None:
    """`quote:AAPL` and `quote:*` together are one copy each."""
    rig = Rig()
    _, transport = rig.client("quote:AAPL", "quote:*", "*:AAPL")
    rig.bus.publish(feeds.QUOTE, "AAPL", 1)
    await rig.hub.flush()
    assert payloads(transport) == [1]


async def test_states_conflate_and_events_keep_order() -> None:
    """Within a tick the newest state wins; every event is delivered, in its order."""
    rig = Rig()
    _, transport = rig.client("quote:A", "alerts")
    for number in range(5):
        rig.bus.publish(feeds.QUOTE, "A", {"state": number})
        rig.bus.publish(feeds.ALERTS, "", {"event": number})
    await rig.hub.flush()
    found = payloads(transport)
    assert [item for item in found if "state" in item] == [{"state": 4}]
    assert [item for item in found if "event" in item] == [{"event": number} for number in range(5)]
    assert rig.counters.conflated == 4
    assert rig.counters.published == 10


async def test_a_message_is_encoded_and_framed_once_and_written_once_a_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever the number of clients: one encoding and one frame a message, one write a client and tick."""
    framed: list[bytes] = []
    frame = text_frame

    def counted(payload: bytes) -> bytes:
        framed.append(payload)
        return frame(payload)

    monkeypatch.setattr(hub_module, "text_frame", counted)
    rig = Rig()
    transports = [rig.client("quote:*", "alerts")[1] for _ in range(50)]
    transports += [rig.client("quote:A")[1] for _ in range(50)]
    for symbol in "ABC":
        rig.bus.publish(feeds.QUOTE, symbol, {"s": symbol})
    await rig.hub.flush()
    assert len(framed) == 3
    assert all(len(transport.writes) == 1 for transport in transports)
    # Clients with the same subscriptions are handed the very same bytes.
    assert len({id(transport.writes[0]) for transport in transports}) == 2
    assert rig.counters.deliveries == 50 * 3 + 50


async def test_nothing_is_encoded_that_nobody_gets() -> None:
    """A message whose last subscriber left within the tick is not even made JSON."""
    rig = Rig()
    client, _ = rig.client("quote:A")
    message: Message = rig.bus.publish(feeds.QUOTE, "A", 1)
    rig.hub.unsubscribe(client, "quote:A")
    await rig.hub.flush()
    assert message._json is None


async def test_demand_follows_subscriptions() -> None:
    """The bus knows of a pattern from the first client to the last."""
    rig = Rig()
    interest = rig.bus.interest(feeds.QUOTE)
    first, _ = rig.client("quote:A", "quote:B")
    second, _ = rig.client("quote:A")
    third, _ = rig.client("quote:*")
    assert interest.symbols == {"A", "B"}
    assert interest.all
    rig.hub.remove(first)
    assert interest.symbols == {"A"}
    rig.hub.unsubscribe(second, "quote:A")
    rig.hub.remove(third)
    assert not interest
    assert rig.counters.subscriptions == 0


async def test_subscribing_twice_and_leaving_twice_change_nothing() -> None:
    """Both are idempotent."""
    rig = Rig()
    client, transport = rig.client("quote:A")
    assert not rig.hub.subscribe(client, "quote:A")
    rig.bus.publish(feeds.QUOTE, "A", 1)
    await rig.hub.flush()
    assert rig.hub.unsubscribe(client, "quote:A")
    assert not rig.hub.unsubscribe(client, "quote:A")
    rig.bus.publish(feeds.QUOTE, "A", 2)
    await rig.hub.flush()
    assert payloads(transport) == [1]


async def test_an_unknown_pattern_leaves_nothing_behind() -> None:
    """A refused subscription is none."""
    rig = Rig()
    client, _ = rig.client()
    with pytest.raises(ValueError, match="no feed"):
        rig.hub.subscribe(client, "nothing:*")
    assert client.patterns == set()
    assert rig.counters.subscriptions == 0


async def test_a_slow_client_catches_up_without_new_messages() -> None:
    """What it skipped follows at a later tick, when it has read; the others got it at once."""
    rig = Rig()
    rig.hub.start()
    _, slow = rig.client("quote:*", limit=100)
    _, quick = rig.client("quote:*")
    for number in range(20):
        rig.bus.publish(feeds.QUOTE, "A", {"n": number})
        rig.bus.publish(feeds.QUOTE, "B", {"n": number + 100})
        await settle(5)
    assert payloads(quick)[-2:] == [{"n": 19}, {"n": 119}]
    assert {"n": 19} not in payloads(slow)
    slow.take()
    await settle(20)
    assert sorted(item["n"] for item in payloads(slow)[-2:]) == [19, 119]
    assert rig.counters.skipped > 0
    await rig.hub.stop()


async def test_what_a_client_left_is_not_caught_up_with() -> None:
    """After `unsubscribed` no skipped value of that feed arrives, those of others do."""
    rig = Rig()
    client, transport = rig.client("quote:A", "quote:B", "stocks:agg:*", limit=100)
    transport.write(b"x" * 90)
    transport.writes.clear()
    rig.bus.publish(feeds.QUOTE, "A", 1)
    rig.bus.publish(feeds.QUOTE, "B", 2)
    rig.bus.publish(feeds.AGG, "A", 3)
    await rig.hub.flush()
    assert transport.writes == []
    rig.hub.unsubscribe(client, "quote:A")
    transport.take()
    await rig.hub.flush()
    assert payloads(transport) == [2, 3]


async def test_the_first_change_goes_at_once_and_the_rest_with_the_tick() -> None:
    """An idle hub does not wait; within a tick it gathers."""
    rig = Rig(tick_seconds=3_600.0)
    rig.hub.start()
    _, transport = rig.client("alerts")
    rig.bus.publish(feeds.ALERTS, "", 1)
    rig.bus.publish(feeds.ALERTS, "", 2)
    await settle()
    assert payloads(transport) == [1, 2]
    assert len(transport.writes) == 1
    rig.bus.publish(feeds.ALERTS, "", 3)
    await settle()
    assert len(transport.writes) == 1  # the tick is not over
    await rig.hub.stop()
    assert payloads(transport) == [1, 2, 3]  # but what is due is not lost


async def test_stop_ends_demand_and_ticks() -> None:
    """A stopped hub subscribes to nothing; stopping again is harmless."""
    rig = Rig()
    rig.hub.start()
    rig.client("quote:*")
    assert rig.hub.running
    await rig.hub.stop()
    await rig.hub.stop()
    assert not rig.hub.running
    assert not rig.bus.interest(feeds.QUOTE)


async def test_a_payload_that_is_not_json_harms_only_itself() -> None:
    """It is counted, and the messages around it arrive."""
    rig = Rig()
    _, transport = rig.client("alerts")
    for value in (1, object(), 2):
        rig.bus.publish(feeds.ALERTS, "", value)
    await rig.hub.flush()
    assert payloads(transport) == [1, 2]
    assert rig.counters.encode_errors == 1


async def test_a_hub_far_behind_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the bound further events are counted and dropped; states still conflate."""
    monkeypatch.setattr(hub_module, "MAX_DUE", 3)
    rig = Rig()
    _, transport = rig.client("alerts", "quote:A")
    for number in range(10):
        rig.bus.publish(feeds.ALERTS, "", number)
    rig.bus.publish(feeds.QUOTE, "A", "state")
    await rig.hub.flush()
    assert payloads(transport) == [0, 1, 2, "state"]
    assert rig.counters.overrun == 7


async def test_a_long_flush_gives_the_loop_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every step over its time the loop runs others in between, and nobody misses anything."""
    ticking = iter(range(10**9))
    bus = MemoryBus(epoch=1)
    counters = WdsCounters()
    rig = Rig()
    rig.hub = Hub(bus, MemoryCache(bus), counters, tick_seconds=0.0, clock=lambda: float(next(ticking)))
    rig.bus = bus
    transports = [rig.client("alerts")[1] for _ in range(300)]
    rig.bus.publish(feeds.ALERTS, "", 1)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    await rig.hub.flush()
    task.cancel()
    assert turns >= 4
    assert all(payloads(transport) == [1] for transport in transports)


async def test_publishers_are_asked_before_a_tick_is_sent() -> None:
    """What they keep for the tick is in it; nobody is asked while nobody subscribes."""
    asked = 0

    async def gather() -> None:
        nonlocal asked
        asked += 1
        if rig.bus.interest(feeds.QUOTE):
            rig.bus.publish(feeds.QUOTE, "A", asked)

    rig = Rig(gather=gather)
    rig.hub.start()
    await settle(20)
    assert asked == 0
    client, transport = rig.client("quote:A")
    await settle(50)
    got = payloads(transport)
    assert got == list(range(got[0], got[0] + len(got)))
    assert len(got) > 2
    rig.hub.unsubscribe(client, "quote:A")
    await settle(20)
    last = asked
    await settle(20)
    assert asked == last
    await rig.hub.stop()


class Ticking:
    """A running hub that always has something to send, its pauses noted, not slept. For the running loop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._now = 0.0
        self._took = 0.0
        self.worked = 0.0  # seconds of processor time in each tick
        self._cpu = 0.0
        self._pauses: list[float] = []
        self._sleep = asyncio.sleep
        self.rig = Rig(
            tick_seconds=0.02, gather=self._gather, clock=lambda: self._now, cpu_clock=lambda: self._cpu
        )
        monkeypatch.setattr("mdp.wds.hub.asyncio.sleep", self._note)
        self.rig.client("quote:A")
        self.rig.hub.start()

    async def _gather(self) -> None:
        self._now += self._took
        asyncio.get_running_loop().call_soon(self._others)
        await self._sleep(0)
        self.rig.bus.publish(feeds.QUOTE, "A", 1)

    def _others(self) -> None:
        self._now += 3_600.0  # what they take in between is not the hub's
        self._cpu += self.worked

    async def _note(self, seconds: float) -> None:
        if seconds:
            self._pauses.append(seconds)
        await self._sleep(0)

    async def ticks(self, count: int, took: float) -> list[float]:
        """The pauses after so many ticks whose work took so many seconds."""
        self._took = took
        self._pauses.clear()
        while len(self._pauses) < count:
            await self._sleep(0)
        return self._pauses[:count]


async def test_ticks_are_further_apart_where_they_take_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ticks of 5 ms are followed by nine times as long a pause, those of an hour by the longest."""
    hub = Ticking(monkeypatch)
    for took, pause in {0.0: 0.02, 0.001: 0.019, 0.005: 0.045, 3_600.0: 0.1}.items():
        assert (await hub.ticks(100, took))[-1] == pytest.approx(pause, rel=1e-4)
    await hub.rig.hub.stop()


async def test_a_busy_thread_leaves_ticks_half_of_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where others have all the rest of the time; three quarters are not yet too much."""
    hub = Ticking(monkeypatch)
    hub.worked = 0.7 * 3_600.0
    assert (await hub.ticks(100, took=0.004))[-1] == pytest.approx(0.036, rel=1e-4)
    hub.worked = 0.99 * 3_600.0
    assert (await hub.ticks(100, took=0.004))[-1] == pytest.approx(0.076, rel=1e-4)
    assert (await hub.ticks(100, took=0.001))[-1] == pytest.approx(0.019, rel=1e-4)
    await hub.rig.hub.stop()


async def test_one_long_tick_does_not_put_off_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quotes after a tick with whole boards in it come when they would; if all ticks are so, they wait."""
    hub = Ticking(monkeypatch)
    await hub.ticks(100, took=0.0005)
    assert await hub.ticks(1, took=0.008) == [pytest.approx(0.0129375)]
    for pause in await hub.ticks(50, took=0.0005):
        assert pause == pytest.approx(0.0195)
    assert (await hub.ticks(100, took=0.008))[-1] == pytest.approx(0.072, rel=1e-4)
    await hub.rig.hub.stop()


async def test_after_a_stall_ticks_are_soon_as_close_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """One tick of half a minute counts as one that asks for the longest pause, and is forgotten as fast."""
    hub = Ticking(monkeypatch)
    await hub.ticks(100, took=0.0005)
    assert await hub.ticks(1, took=30.0) == [pytest.approx(0.0045 * 7 / 8 + 0.1 / 8)]
    assert (await hub.ticks(1, took=0.0005))[0] == pytest.approx(0.0195)
    await hub.rig.hub.stop()


FEEDS = [(feeds.QUOTE, "A"), (feeds.QUOTE, "B"), (feeds.AGG, "A"), (feeds.ALERTS, ""), (feeds.LULD, "B")]
PATTERNS = ["quote:A", "quote:*", "stocks:*:A", "stocks:luld:*", "alerts", "*", "stocks:agg:A"]
STEPS = st.lists(
    st.tuples(st.just("publish"), st.sampled_from(FEEDS))
    | st.tuples(st.sampled_from(["subscribe", "unsubscribe"]), st.sampled_from(PATTERNS))
    | st.tuples(st.just("leave"), st.none())
    | st.tuples(st.just("flush"), st.none()),
    max_size=40,
)


@settings(deadline=None)
@given(STEPS)
def test_any_sequence_delivers_what_a_simple_model_says(steps: list[tuple[str, Any]]) -> None:
    """At each tick a client gets the tick's events and newest states of what it has subscribed then."""
    asyncio.run(_compare(steps))


async def _compare(steps: list[tuple[str, Any]]) -> None:
    rig = Rig()
    client, transport = rig.client()
    other, _ = rig.client("*", *PATTERNS[:3])  # keeps the bus interested; its changes must not matter
    expected: list[int] = []
    due: dict[object, tuple[Any, int]] = {}
    for number, (step, what) in enumerate([*steps, ("flush", None)]):
        if step == "publish":
            family, symbol = what
            wanted = any(
                target.family is family and target.symbol in (None, symbol)
                for pattern in client.patterns | other.patterns
                for target in feeds.match(pattern)
            )
            rig.bus.publish(family, symbol, number)
            if wanted:
                due[(family.name, symbol) if family.kind == "state" else number] = (what, number)
        elif step == "subscribe":
            rig.hub.subscribe(client, what)
        elif step == "unsubscribe":
            rig.hub.unsubscribe(client, what)
        elif step == "leave":
            rig.hub.remove(client)
        else:
            for (family, symbol), value in due.values():
                if any(
                    target.family is family and target.symbol in (None, symbol)
                    for pattern in client.patterns
                    for target in feeds.match(pattern)
                ):
                    expected.append(value)
            due.clear()
            await rig.hub.flush()
    assert payloads(transport) == expected


async def test_a_value_of_the_whole_market_is_encoded_in_steps_once_for_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Clients of version 1 and of each option of version 2 get all of it, made once, a part in each step."""
    rig = Rig()
    feed = "tta:all_symbols:widget"
    _, first = rig.client(feed)
    second, told = rig.client()
    second.join = framed_together
    await rig.hub.look(second, feed, Options(fields=("symbols",)))
    await rig.hub.flush()
    value = {"timestamp": 1, "symbols": {f"S{n}": n for n in range(2_500)}}
    steps = []

    def encode(part: Any) -> bytes:
        steps.append(len(part))
        return msgspec.json.encode(part)

    monkeypatch.setattr(values, "encode_json", encode)
    rig.bus.publish(feeds.TTA_ALL, "", value)
    await rig.hub.flush()

    assert first.writes[-1].endswith(msgspec.json.encode(value))
    assert steps == [1_000, 1_000, 500]
    payload = told.writes[-1]
    (message,) = msgspec.json.decode(payload[payload.index(b"[") :])
    assert message["data"] == {"symbols": value["symbols"]}

    rig.bus.publish(feeds.TTA_ALL, "", {**value, "timestamp": 2})
    await rig.hub.flush()
    assert told.writes[-1] is payload  # what it sees did not change


async def test_what_cannot_be_encoded_in_steps_is_told_to_nobody_and_harms_nobody() -> None:
    """As a small value that cannot be."""
    rig = Rig()
    _, transport = rig.client("tta:all_symbols:widget", "alerts")
    rig.bus.publish(feeds.TTA_ALL, "", {"symbols": {f"S{n}": object() for n in range(1_001)}})
    rig.bus.publish(feeds.ALERTS, "", 1)
    await rig.hub.flush()
    assert payloads(transport) == [1]
    assert rig.counters.encode_errors == 1
