"""The raw ring: bounded by bytes and by age, sheds whole frames oldest first, and counts what it sheds."""

from __future__ import annotations

import asyncio
from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mdp.listener.ring import Frame, RawRing

S = 1_000_000_000


class Clock:
    """Monotonic nanoseconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 10**12

    def __call__(self) -> int:
        return self.now


def frame_of(events: int, *, binary: bool = False) -> Frame:
    """A frame with so many events."""
    text = "[" + ",".join('{"ev":"T","sym":"A"}' for _ in range(events)) + "]"
    return text.encode() if binary else text


def test_frames_leave_in_order_with_their_arrival() -> None:
    """FIFO, and the arrival is the one they were appended with."""
    clock = Clock()
    ring = RawRing(max_bytes=1_000, max_age_ns=S, clock=clock)
    ring.append("[1]", clock.now)
    ring.append(b"[2]", clock.now + 1)

    assert ring.oldest_arrival_ns == clock.now
    assert ring.take() == (clock.now, "[1]")
    assert ring.take() == (clock.now + 1, b"[2]")
    assert ring.take() is None
    assert ring.oldest_arrival_ns is None


@pytest.mark.parametrize("binary", [False, True])
def test_the_oldest_frames_are_shed_whole_when_bytes_run_out(binary: bool) -> None:
    """The newest data survives, and each event of the shed frames is counted, text or bytes."""
    clock = Clock()
    three, two = frame_of(3, binary=binary), frame_of(2, binary=binary)
    ring = RawRing(max_bytes=len(three) + len(two), max_age_ns=S, clock=clock)
    ring.append(three, clock.now)
    ring.append(two, clock.now)

    ring.append(two, clock.now)

    assert ring.counters.shed_frames == 1
    assert ring.counters.shed_events == 3
    assert ring.bytes == 2 * len(two)
    assert len(ring) == 2


def test_a_frame_that_is_larger_than_the_ring_is_shed_itself() -> None:
    """It cannot be kept; the ring is empty and well afterwards."""
    clock = Clock()
    ring = RawRing(max_bytes=100, max_age_ns=S, clock=clock)

    ring.append(frame_of(50), clock.now)

    assert (len(ring), ring.bytes) == (0, 0)
    assert ring.counters.shed_events == 50
    assert ring.take() is None
    ring.append("[]", clock.now)
    assert ring.take() == (clock.now, "[]")


def test_frames_older_than_the_bound_are_shed_undecoded() -> None:
    """If the oldest frame waits over a second, it goes; the younger ones stay."""
    clock = Clock()
    ring = RawRing(max_bytes=10_000, max_age_ns=S, clock=clock)
    ring.append(frame_of(4), clock.now)
    ring.append(frame_of(2), clock.now + S // 2)
    clock.now += S + 1

    item = ring.take()

    assert item is not None
    assert item[1] == frame_of(2)
    assert (ring.counters.shed_frames, ring.counters.shed_events) == (1, 4)


def test_a_frame_is_taken_until_its_age_is_over_the_bound() -> None:
    """Exactly at the bound it does not yet wait longer than that."""
    clock = Clock()
    ring = RawRing(max_bytes=10_000, max_age_ns=S, clock=clock)
    ring.append("[]", clock.now)
    clock.now += S

    assert ring.take() is not None


async def test_wait_returns_for_frames_and_for_wake() -> None:
    """The decode stage sleeps while nothing waits, and can be told to look again."""
    clock = Clock()
    ring = RawRing(max_bytes=100, max_age_ns=S, clock=clock)
    waiter = asyncio.create_task(ring.wait())
    await asyncio.sleep(0)
    assert not waiter.done()
    ring.append("[]", clock.now)
    await asyncio.wait_for(waiter, 60)

    await asyncio.wait_for(ring.wait(), 60)  # a frame waits: at once
    ring.take()
    waiter = asyncio.create_task(ring.wait())
    await asyncio.sleep(0)
    assert not waiter.done()
    ring.wake()
    await asyncio.wait_for(waiter, 60)


async def test_wait_wakes_for_the_frame_that_pushed_all_others_out() -> None:
    """The bound of bytes may empty the ring but for the newest frame: that one waits to be taken."""
    clock = Clock()
    ring = RawRing(max_bytes=10, max_age_ns=S, clock=clock)
    ring.append("[1,2]", clock.now)
    ring.append("[12345678]", clock.now)

    await asyncio.wait_for(ring.wait(), 60)
    assert ring.take() == (clock.now, "[12345678]")


async def test_a_held_reader_goes_on_when_released() -> None:
    """`hold` makes the reader wait in `released`, `release` ends it; without a hold there is no wait."""
    ring = RawRing(max_bytes=100, max_age_ns=S, clock=Clock())
    await asyncio.wait_for(ring.released(), 60)
    ring.hold()
    assert ring.holding
    reader = asyncio.create_task(ring.released())
    await asyncio.sleep(0)
    assert not reader.done()

    ring.release()

    assert not ring.holding
    await asyncio.wait_for(reader, 60)


class RingMachine(RuleBasedStateMachine):
    """Any order of appends, takes and passing time, against a plain list of frames."""

    MAX_BYTES = 200
    MAX_AGE = 100

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.ring = RawRing(max_bytes=self.MAX_BYTES, max_age_ns=self.MAX_AGE, clock=self.clock)
        self.model: deque[tuple[int, Frame, int]] = deque()  # (arrival, frame, events)
        self.appended = self.appended_bytes = self.taken = self.shed = self.shed_events = 0

    def _shed_one(self) -> None:
        _, _, events = self.model.popleft()
        self.shed += 1
        self.shed_events += events

    @rule(events=st.integers(0, 12), binary=st.booleans())
    def append(self, events: int, binary: bool) -> None:
        frame = frame_of(events, binary=binary)
        self.ring.append(frame, self.clock.now)
        self.model.append((self.clock.now, frame, events))
        self.appended += 1
        self.appended_bytes += len(frame)
        while sum(len(held) for _, held, _ in self.model) > self.MAX_BYTES:
            self._shed_one()

    @rule()
    def take(self) -> None:
        while self.model and self.clock.now - self.model[0][0] > self.MAX_AGE:
            self._shed_one()
        item = self.ring.take()
        if not self.model:
            assert item is None
            return
        arrival, frame, _ = self.model.popleft()
        self.taken += 1
        assert item == (arrival, frame)

    @rule(ns=st.integers(0, 80))
    def pass_time(self, ns: int) -> None:
        self.clock.now += ns

    @invariant()
    def every_frame_is_accounted_for(self) -> None:
        counters = self.ring.counters
        assert counters.frames == self.appended
        assert counters.bytes == self.appended_bytes
        assert counters.taken_frames == self.taken
        assert counters.shed_frames == self.shed
        assert counters.shed_events == self.shed_events
        assert counters.frames == counters.taken_frames + counters.shed_frames + len(self.ring)
        assert self.ring.bytes == sum(len(frame) for _, frame, _ in self.model) <= self.MAX_BYTES


TestRingMachine = RingMachine.TestCase
TestRingMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
