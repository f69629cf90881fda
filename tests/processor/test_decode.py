"""The decode stage: every event of every frame reaches its queue once, or is rejected with a reason."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdp.events import AGGREGATES, HALTS, QUEUES, QUOTES, TRADES, UNKNOWN
from mdp.listener.ring import Frame, RawRing
from mdp.processor.decode import MAX_BATCH, DecodeStage
from mdp.processor.pace import HOLD_NS, Pace
from mdp.queues.base import Batch, QueueCounters

T0 = 1_773_149_400_000
EVENTS: dict[str, dict[str, Any]] = {
    AGGREGATES: {"ev": "A", "sym": "AAPL", "v": 1, "o": 1, "c": 1, "h": 1, "l": 1, "s": T0, "e": T0 + 1_000},
    TRADES: {"ev": "T", "sym": "AAPL", "x": 4, "i": "1", "z": 3, "p": 1.5, "s": 100, "t": T0},
    QUOTES: {"ev": "Q", "sym": "AAPL", "bp": 1, "ap": 2, "t": T0},
    HALTS: {"ev": "LULD", "T": "AAPL", "h": 2, "l": 1, "i": [17], "t": T0 * 1_000_000},
}
MINUTE = {**EVENTS[AGGREGATES], "ev": "AM"}
STATUS = {"ev": "status", "status": "success", "message": "subscribed to: T.*"}
# What is wrong with an event -> how it looks. Each loses itself and nothing else.
BAD: dict[str, str] = {
    "string for a number": '{"ev":"T","sym":"A","p":"1.5","s":1,"t":1}',
    "NaN": '{"ev":"T","sym":"A","p":NaN,"s":1,"t":1}',
    "an infinity": '{"ev":"Q","sym":"A","bp":Infinity,"t":1}',
    "number too large": '{"ev":"A","sym":"A","o":1,"c":1e400,"h":1,"l":1,"s":1}',
    "no symbol": '{"ev":"T","p":1,"s":1,"t":1}',
    "empty symbol": '{"ev":"T","sym":"","p":1,"s":1,"t":1}',
    "no ev": '{"sym":"A","p":1}',
    "ev is a number": '{"ev":7,"sym":"A"}',
    "ev is null": '{"ev":null,"sym":"A"}',
    "unknown type": '{"ev":"NOI","T":"A","t":1}',
    "not an object": "17",
    "null": "null",
    "a list": '[{"ev":"T"}]',
}


class Store:
    """A queue that only keeps what was put."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.counters = QueueCounters()
        self.batches: list[Batch] = []
        self.closed = False
        self.waiting = 0

    def put(self, batch: Batch) -> int:
        self.batches.append(batch)
        self.counters.received += len(batch)
        return 0

    def take(self) -> Batch | None:
        return None

    async def wait(self) -> None:
        await asyncio.Event().wait()

    def close(self) -> None:
        self.closed = True

    @property
    def events(self) -> list[Any]:
        return [event for batch in self.batches for event in batch.events]


class Clock:
    """Monotonic nanoseconds that pass only when told, or by each look at it."""

    def __init__(self) -> None:
        self.now = 10**12
        self.step = 0

    def __call__(self) -> int:
        self.now += self.step
        return self.now


class Bench:
    """A decode stage between a ring and queues that keep everything."""

    def __init__(self) -> None:
        self.clock, self.stopwatch = Clock(), Clock()
        self.ring = RawRing(max_bytes=1 << 30, max_age_ns=10**9, clock=self.clock)
        self.queues = {name: Store(name) for name in QUEUES}
        self.statuses: list[tuple[str, str]] = []
        self.pace = Pace(self.ring, self.clock)
        self.stage = DecodeStage(
            self.ring,
            self.queues,
            self.pace,
            on_status=lambda s, m: self.statuses.append((s, m)),
            clock=self.stopwatch,
        )

    def feed(self, *frames: Frame) -> None:
        for frame in frames:
            self.clock.now += 1_000
            self.ring.append(frame, self.clock.now)

    def decode(self) -> None:
        while self.stage.step():
            pass

    def counts(self) -> dict[str, int]:
        return {name: len(queue.events) for name, queue in self.queues.items() if queue.events}


def frame_of(*events: dict[str, Any]) -> str:
    return json.dumps(events)


def test_events_are_grouped_into_one_batch_per_queue() -> None:
    """A step makes one batch of each type, in order of arrival over all its frames."""
    bench = Bench()
    first = {**EVENTS[TRADES], "sym": "B"}
    bench.feed(
        frame_of(EVENTS[TRADES], EVENTS[AGGREGATES], first, EVENTS[QUOTES], MINUTE, EVENTS[HALTS]),
        frame_of({**EVENTS[TRADES], "sym": "C"}),
    )

    bench.decode()

    assert {name: len(queue.batches) for name, queue in bench.queues.items()} == {
        AGGREGATES: 1, TRADES: 1, QUOTES: 1, HALTS: 1, UNKNOWN: 0,
    }  # fmt: skip
    assert [trade.symbol for trade in bench.queues[TRADES].events] == ["AAPL", "B", "C"]
    assert [type(bar).__name__ for bar in bench.queues[AGGREGATES].events] == ["Aggregate", "MinuteAggregate"]


def test_a_step_ends_after_three_milliseconds() -> None:
    """However many frames wait: others get their turn, and nothing is lost or out of order."""
    bench = Bench()
    bench.feed(*[frame_of({**EVENTS[TRADES], "sym": symbol}) for symbol in "ABCDE"])
    bench.stopwatch.step = 1_500_000  # ns for each look at the clock: before the first frame, after each
    assert [bench.stage.step() for _ in range(3)] == [3, 2, 0]
    assert [trade.symbol for trade in bench.queues[TRADES].events] == list("ABCDE")


@pytest.mark.parametrize("binary", [False, True])
def test_text_and_binary_frames_are_the_same(binary: bool) -> None:
    """The wire may carry either."""
    bench = Bench()
    text = frame_of(*EVENTS.values())
    bench.feed(text.encode() if binary else text)

    bench.decode()

    assert bench.counts() == dict.fromkeys(EVENTS, 1)


def test_halts_are_handed_over_in_milliseconds() -> None:
    """On the wire an LULD's time is in nanoseconds, ours is in milliseconds like every other."""
    bench = Bench()
    bench.feed(frame_of(EVENTS[HALTS]))

    bench.decode()

    assert bench.queues[HALTS].events[0].timestamp == T0


def test_statuses_go_to_on_status_and_are_no_events() -> None:
    """They reach the listener in order and none of the queues, also out of a frame with a malformed event."""
    bench = Bench()
    other = {"ev": "status", "status": "error", "message": "not authorized"}
    bench.feed(frame_of(STATUS, EVENTS[TRADES]), f"[{json.dumps(other)},{BAD['NaN']}]")

    bench.decode()

    assert bench.statuses == [("success", "subscribed to: T.*"), ("error", "not authorized")]
    assert bench.counts() == {TRADES: 1, UNKNOWN: 1}
    assert bench.stage.counters.statuses == 2
    assert sum(bench.stage.counters.decoded.values()) == 1
    assert sum(bench.stage.counters.rejected.values()) == 1


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_a_bad_event_loses_itself_and_nothing_else(bad: str) -> None:
    """The good events around it pass in order; it goes to `unknown` with a reason, and is counted once."""
    bench = Bench()
    before, after = {**EVENTS[TRADES], "sym": "B"}, {**EVENTS[TRADES], "sym": "C"}
    bench.feed(f"[{json.dumps(before)},{bad},{json.dumps(after)}]")

    bench.decode()

    assert [trade.symbol for trade in bench.queues[TRADES].events] == ["B", "C"]
    (unknown,) = bench.queues[UNKNOWN].events
    assert unknown.reason
    assert sum(bench.stage.counters.rejected.values()) == 1
    assert bench.stage.counters.salvaged_frames == 1


def test_rejected_events_are_counted_by_reason_with_few_labels() -> None:
    """However many kinds of unknown types a wire holds, the labels of the metric stay few."""
    bench = Bench()
    made_up = [f'{{"ev":"X{n}"}}' for n in range(500)]
    bench.feed(f"[{','.join([*made_up, *BAD.values()])}]")

    bench.decode()

    rejected = bench.stage.counters.rejected
    assert sum(rejected.values()) == 500 + len(BAD)
    assert rejected["unknown_type"] == 501  # and NOI
    assert len(rejected) <= 7


@pytest.mark.parametrize(
    "frame",
    ["", "x", "[", "]", "{}", "null", "[1", b"\xff\xfe", b'[{"ev":"T","sym":"\xff"}]', "[" * 100_000],
    ids=lambda frame: repr(frame[:8]),
)
def test_a_frame_that_is_no_frame_costs_only_itself(frame: Frame) -> None:
    """Nonsense on the wire never ends the stage, and what follows is decoded."""
    bench = Bench()
    bench.feed(frame, frame_of(EVENTS[TRADES]))

    bench.decode()

    assert bench.counts()[TRADES] == 1
    assert bench.stage.counters.frames == 2


def test_a_huge_frame_becomes_batches_of_bounded_size() -> None:
    """No worker gets a step of 100 ms because one frame held 10,000 events; none is lost, order stays."""
    bench = Bench()
    count = 2 * MAX_BATCH + 7
    bench.feed(frame_of(*({**EVENTS[TRADES], "sym": f"S{n}"} for n in range(count))))

    bench.decode()

    sizes = [len(batch) for batch in bench.queues[TRADES].batches]
    assert max(sizes) <= MAX_BATCH
    assert [trade.symbol for trade in bench.queues[TRADES].events] == [f"S{n}" for n in range(count)]
    assert bench.stage.counters.decoded[TRADES] == count


@pytest.mark.parametrize("name", [TRADES, QUOTES])
@pytest.mark.parametrize("sizes", [[1, 2, 3], [900, 50, 40], [1, 2 * MAX_BATCH + 1], [5, 0, 4]])
def test_every_event_is_found_in_the_frames_of_its_batch(name: str, sizes: list[int]) -> None:
    """Raw feeds look a symbol up in the frames: after grouping and splitting they are still there."""
    bench = Bench()
    for at, size in enumerate(sizes):
        symbols = [f"F{at}N{n}" for n in range(size)]
        bench.feed(frame_of(EVENTS[HALTS], *({**EVENTS[name], "sym": symbol} for symbol in symbols)))

    bench.decode()

    seen = 0
    for batch in bench.queues[name].batches:
        assert [arrival for arrival, _ in batch.sources] == sorted(arrival for arrival, _ in batch.sources)
        assert all(arrival >= batch.arrival_ns for arrival, _ in batch.sources)
        kept = {event["sym"] for _, frame in batch.sources for event in json.loads(frame) if "sym" in event}
        assert batch.symbols <= kept
        seen += len(batch)
    assert seen == sum(sizes)


def test_a_batch_is_as_old_as_its_oldest_frame() -> None:
    """The TTL is by arrival: waiting in the ring counts."""
    bench = Bench()
    bench.feed(frame_of(EVENTS[TRADES]))
    arrived = bench.clock.now
    bench.feed(frame_of(EVENTS[TRADES]))
    bench.clock.now += 500_000_000

    bench.decode()

    assert bench.queues[TRADES].batches[0].arrival_ns == arrived


def test_a_step_is_bounded_by_events() -> None:
    """One step does not take the whole backlog: reading must have its turn in between."""
    bench = Bench()
    bench.feed(*[frame_of(*[EVENTS[TRADES]] * 100)] * 50)

    assert bench.stage.step() < 50


# What a wire may hold, with its kind: good events by queue, statuses, and bad ones.
_good = st.sampled_from(
    [(name, json.dumps(event)) for name, event in [*EVENTS.items(), (AGGREGATES, MINUTE)]]
)
_bad = st.sampled_from([("bad", text) for text in BAD.values()])
_status = st.just(("status", json.dumps(STATUS)))
_frames = st.lists(
    st.tuples(st.lists(_good | _good | _good | _bad | _status, max_size=12), st.booleans()), max_size=12
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_frames)
def test_decoded_and_rejected_are_exactly_what_was_on_the_wire(
    frames: list[tuple[list[tuple[str, str]], bool]],
) -> None:
    """Whatever mixture comes: good events by queue, the rest in `unknown`, statuses apart, nothing twice."""
    bench = Bench()
    sent: Counter[str] = Counter()
    for events, binary in frames:
        text = "[" + ",".join(event for _, event in events) + "]"
        bench.feed(text.encode() if binary else text)
        sent.update(kind for kind, _ in events)

    bench.decode()

    counters = bench.stage.counters
    assert {name: n for name, n in counters.decoded.items() if n} == {
        name: n for name, n in sent.items() if name in EVENTS
    }
    assert sum(counters.rejected.values()) == sent["bad"] == len(bench.queues[UNKNOWN].events)
    assert counters.statuses == sent["status"] == len(bench.statuses)
    assert all(len(bench.queues[name].events) == sent[name] for name in EVENTS)
    assert counters.frames == len(frames) == bench.ring.counters.taken_frames


async def test_a_flood_of_malformed_frames_gives_the_loop_back() -> None:
    """Salvaging costs more than decoding; other tasks still run while thousands of bad events come."""
    bench = Bench()
    good = json.dumps(EVENTS[TRADES])
    bench.feed(*[f"[{','.join([good, BAD['NaN']] * 20)}]"] * 400)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while bench.stage.counters.frames < 400:
            turns += 1
            await asyncio.sleep(0)

    await bench.stage.start()
    await asyncio.wait_for(other(), 30)
    await bench.stage.stop()

    assert turns > 10
    assert bench.stage.counters.decoded[TRADES] == 8_000
    assert sum(bench.stage.counters.rejected.values()) == 8_000


async def test_stop_decodes_what_waits() -> None:
    """A frame that was received before the stop is not lost, and a reader that was held is let go."""
    bench = Bench()
    await bench.stage.start()
    await asyncio.sleep(0)
    bench.feed(*[frame_of(*[EVENTS[TRADES]] * 100)] * 60)
    bench.ring.hold()

    await asyncio.wait_for(bench.stage.stop(), 60)

    assert bench.stage.counters.decoded[TRADES] == 6_000
    assert len(bench.ring) == 0
    assert not bench.ring.holding
    assert not bench.stage.health().ok


async def test_stop_is_safe_before_start_and_twice() -> None:
    """Whatever state the process is in when it has to end."""
    await Bench().stage.stop()
    bench = Bench()
    await bench.stage.start()
    assert bench.stage.health().ok
    await asyncio.wait_for(bench.stage.stop(), 60)
    await asyncio.wait_for(bench.stage.stop(), 60)


async def test_a_hold_never_outlives_what_it_waits_for() -> None:
    """A reader that was held while one step worked off all that waited is let go: else nobody would ever be.

    So it happens after the process was stopped for a moment, with a few frames waiting.
    """
    bench = Bench()
    received = 0

    async def reader() -> None:  # what the client's callback does
        nonlocal received
        while True:
            bench.ring.append(frame_of(EVENTS[TRADES]), bench.clock.now)
            received += 1
            if bench.ring.holding:
                await bench.ring.released()
            await asyncio.sleep(0)

    bench.pace.note(bench.clock.now, 1_000.0)
    bench.pace.note(bench.clock.now, 2_000.0)  # a second in no time: a replay, which may be held
    bench.feed(frame_of(EVENTS[TRADES]))
    bench.clock.now += HOLD_NS + 1
    await bench.stage.start()
    task = asyncio.create_task(reader())
    try:
        async with asyncio.timeout(60):
            while received < 100:  # noqa: ASYNC110
                await asyncio.sleep(0)
    finally:
        task.cancel()
        await bench.stage.stop()
    assert bench.pace.holds == 1


async def test_a_listener_that_raises_on_a_status_does_not_end_decoding() -> None:
    """A defect behind `on_status` costs that word, not the market."""
    bench = Bench()

    def broken(_status: str, _message: str) -> None:
        raise RuntimeError("a defect")

    bench.stage = DecodeStage(bench.ring, bench.queues, bench.pace, on_status=broken)
    await bench.stage.start()
    bench.feed(frame_of(STATUS))
    for _ in range(20):
        await asyncio.sleep(0)
    bench.feed(frame_of(EVENTS[TRADES]))
    await asyncio.wait_for(bench.stage.stop(), 60)

    assert bench.counts() == {TRADES: 1}
