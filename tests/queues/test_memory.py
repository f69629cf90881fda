"""The in-process queue: first in, first out; bounded; nothing old is handed out; every event counted."""

from __future__ import annotations

import asyncio
from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mdp.queues.base import Batch
from mdp.queues.memory import MemoryQueue

MS = 1_000_000


class Clock:
    """Monotonic nanoseconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 10**12

    def __call__(self) -> int:
        return self.now


def queue_of(clock: Clock, *, max_events: int = 100, ttl_ms: int = 0) -> MemoryQueue:
    return MemoryQueue("trades", max_events=max_events, ttl_ns=ttl_ms * MS, clock=clock)


def drained(queue: MemoryQueue) -> list[int]:
    """Everything that the queue still hands out, in order."""
    events: list[int] = []
    while (batch := queue.take()) is not None:
        events += batch.events
    return events


def test_batches_leave_in_the_order_in_which_they_came() -> None:
    """FIFO, batch by batch and within each batch."""
    clock = Clock()
    queue = queue_of(clock)
    for events in ([1, 2], [3], [4, 5, 6]):
        queue.put(Batch(events, clock()))

    assert drained(queue) == [1, 2, 3, 4, 5, 6]


def test_a_full_queue_drops_exactly_the_surplus_and_the_oldest_of_it() -> None:
    """The bound is in events, not batches: the oldest batch is cut, not thrown away whole."""
    clock = Clock()
    queue = queue_of(clock, max_events=5)
    assert queue.put(Batch([1, 2, 3], clock())) == 0
    assert queue.put(Batch([4, 5], clock())) == 0

    assert queue.put(Batch([6], clock())) == 1

    assert queue.waiting == 5
    assert queue.counters.dropped == 1
    assert drained(queue) == [2, 3, 4, 5, 6]


def test_a_batch_larger_than_the_queue_keeps_its_newest_events() -> None:
    """Under overload the newest data survives, even within one batch."""
    clock = Clock()
    queue = queue_of(clock, max_events=3)
    queue.put(Batch([1], clock()))

    assert queue.put(Batch([2, 3, 4, 5, 6], clock())) == 3

    assert drained(queue) == [4, 5, 6]


def test_a_batch_older_than_the_ttl_is_never_handed_out() -> None:
    """Age is by arrival: a batch expires 5 s after it arrived, whenever it was put."""
    clock = Clock()
    queue = queue_of(clock, ttl_ms=5_000)
    arrived = clock.now
    clock.now += 3_000 * MS  # it waited in the ring that long
    queue.put(Batch([1, 2], arrived))
    queue.put(Batch([3], clock.now))
    clock.now = arrived + 5_000 * MS + 1

    batch = queue.take()

    assert batch is not None
    assert batch.events == [3]
    assert queue.counters.expired == 2
    assert queue.counters.taken == 1


def test_a_batch_is_handed_out_until_its_ttl_is_over() -> None:
    """Exactly at the TTL it is not older than the TTL."""
    clock = Clock()
    queue = queue_of(clock, ttl_ms=5_000)
    queue.put(Batch([1], clock()))
    clock.now += 5_000 * MS

    assert drained(queue) == [1]


def test_the_rest_of_a_cut_batch_expires_with_its_arrival() -> None:
    """Dropping the head of a batch does not make its rest younger."""
    clock = Clock()
    queue = queue_of(clock, max_events=2, ttl_ms=1_000)
    queue.put(Batch([1, 2, 3], clock()))
    clock.now += 1_001 * MS

    assert drained(queue) == []
    assert (queue.counters.dropped, queue.counters.expired) == (1, 2)


def test_halts_never_expire() -> None:
    """Without a TTL a batch is handed out after any time: a lost resumption would halt a symbol all day."""
    clock = Clock()
    queue = queue_of(clock)
    queue.put(Batch([1], clock()))
    clock.now += 30 * 24 * 3_600 * 1_000 * MS

    assert drained(queue) == [1]
    assert queue.counters.expired == 0


def test_an_empty_batch_is_nothing() -> None:
    """It is neither queued nor counted, and wakes nobody."""
    clock = Clock()
    queue = queue_of(clock)
    queue.put(Batch([], clock()))

    assert queue.take() is None
    assert queue.counters.received == 0


def test_a_closed_queue_refuses_and_counts_but_hands_out_what_waits() -> None:
    """At shutdown what waits is worked off; what comes too late is dropped, and says so."""
    clock = Clock()
    queue = queue_of(clock)
    queue.put(Batch([1, 2], clock()))
    queue.close()

    assert queue.put(Batch([3], clock())) == 1

    assert queue.closed
    assert drained(queue) == [1, 2]
    assert queue.counters.dropped == 1
    assert queue.counters.received == 3


async def test_wait_returns_when_something_comes() -> None:
    """A worker sleeps until there is a batch, and sleeps again once it took the last."""
    clock = Clock()
    queue = queue_of(clock)
    waiter = asyncio.create_task(queue.wait())
    await asyncio.sleep(0)
    assert not waiter.done()

    queue.put(Batch([1], clock()))
    await waiter
    queue.take()

    again = asyncio.create_task(queue.wait())
    await asyncio.sleep(0)
    assert not again.done()
    queue.put(Batch([2], clock()))
    await again


async def test_wait_sleeps_again_after_everything_expired() -> None:
    """A worker does not spin on a queue whose batches were all too old."""
    clock = Clock()
    queue = queue_of(clock, ttl_ms=1)
    queue.put(Batch([1], clock()))
    clock.now += 2 * MS
    assert queue.take() is None

    waiter = asyncio.create_task(queue.wait())
    await asyncio.sleep(0)
    assert not waiter.done()
    waiter.cancel()


async def test_close_wakes_whoever_waits_for_good() -> None:
    """After close `wait` never blocks, so that a worker finds out that it is over."""
    clock = Clock()
    queue = queue_of(clock)
    waiter = asyncio.create_task(queue.wait())
    await asyncio.sleep(0)

    queue.close()
    await waiter

    assert queue.take() is None
    await asyncio.wait_for(queue.wait(), 60)


class QueueMachine(RuleBasedStateMachine):
    """Any order of puts, takes, passing time and close, against a list of events with their arrivals."""

    MAX_EVENTS = 12
    TTL = 100

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.queue = MemoryQueue("trades", max_events=self.MAX_EVENTS, ttl_ns=self.TTL, clock=self.clock)
        self.model: deque[tuple[int, int]] = deque()  # (arrival, event)
        self.next_event = 0
        self.received = self.taken = self.expired = self.dropped = 0
        self.closed = False

    @rule(size=st.integers(0, 20), late=st.integers(0, 150))
    def put(self, size: int, late: int) -> None:
        arrival = self.clock.now - late
        events = list(range(self.next_event, self.next_event + size))
        self.next_event += size
        self.received += size
        dropped = self.queue.put(Batch(events, arrival))
        if self.closed:
            self.dropped += size
            assert dropped == size
            return
        self.model.extend((arrival, event) for event in events)
        surplus = max(0, len(self.model) - self.MAX_EVENTS)
        for _ in range(surplus):
            self.model.popleft()
        self.dropped += surplus
        assert dropped == surplus

    @rule()
    def take(self) -> None:
        batch = self.queue.take()
        # Batches expire whole, from the head: the model drops what is too old before the next young one.
        while self.model and self.model[0][0] < self.clock.now - self.TTL:
            self.model.popleft()
            self.expired += 1
        if batch is None:
            assert not self.model
            return
        for event in batch.events:
            arrival, expected = self.model.popleft()
            assert event == expected
            assert self.clock.now - arrival <= self.TTL
        self.taken += len(batch)

    @rule(ns=st.integers(0, 120))
    def pass_time(self, ns: int) -> None:
        self.clock.now += ns

    @precondition(lambda self: not self.closed)
    @rule()
    def close(self) -> None:
        self.queue.close()
        self.closed = True

    @invariant()
    def every_event_is_accounted_for(self) -> None:
        counters = self.queue.counters
        assert counters.received == self.received
        assert counters.taken == self.taken
        assert counters.expired == self.expired
        assert counters.dropped == self.dropped
        assert self.queue.waiting == len(self.model) <= self.MAX_EVENTS
        assert counters.received == counters.taken + counters.expired + counters.dropped + self.queue.waiting


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_whoever_asks_is_told_exactly_what_nobody_will_get() -> None:
    """Expired batches whole, dropped ones as far as they were dropped."""
    clock = Clock()
    queue = queue_of(clock, max_events=4, ttl_ms=100)
    told: list[tuple[str, list[int]]] = []
    queue.on_loss = lambda reason, batch: told.append((reason, batch.events))
    queue.put(Batch([1, 2, 3], clock()))
    queue.put(Batch([4, 5, 6], clock()))
    assert told == [("dropped", [1, 2])]
    queue.put(Batch([7, 8], clock()))
    assert told[1:] == [("dropped", [3]), ("dropped", [4])]
    clock.now += 101 * MS
    assert drained(queue) == []
    assert told[3:] == [("expired", [5, 6]), ("expired", [7, 8])]
