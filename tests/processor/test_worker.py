"""The workers: what a queue hands out is processed, whatever raises, and the end comes within its bound."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from mdp.analyzers.base import Analyzer, EventBatch
from mdp.analyzers.state import Market
from mdp.cache.memory import MemoryBus, MemoryCache
from mdp.events import AGGREGATES, TRADES, UNKNOWN, Aggregate, Trade, Unknown
from mdp.feeds import HALTS_ACTIVE
from mdp.processor.engine import Engine
from mdp.processor.results import Results
from mdp.processor.worker import Processor
from mdp.queues.base import Batch
from mdp.queues.memory import MemoryQueue

T0 = 1_773_149_400_000


class Probe(Analyzer):
    """Notes what it gets; fails or dawdles as told."""

    name: ClassVar[str] = "probe"
    queues: ClassVar[tuple[str, ...]] = (TRADES, UNKNOWN)

    def __init__(self, market: Market, out: Any) -> None:
        super().__init__(market, out)
        self.seen: list[Any] = []
        self.on_batch: Callable[[], None] = lambda: None

    def process(self, batch: EventBatch) -> None:
        self.on_batch()
        self.seen += batch.events


class Flusher(Probe):
    """Publishes in three steps each time."""

    flush_seconds: ClassVar[float] = 0.001

    def __init__(self, market: Market, out: Any) -> None:
        super().__init__(market, out)
        self.flushes = 0

    def flush(self) -> Iterator[None]:
        self.flushes += 1
        for step in range(3):
            self.out.publish(HALTS_ACTIVE, "", step)
            yield


class Bench:
    """Queues, an engine with one analyzer, and the stage under test."""

    def __init__(
        self, kind: type[Probe] = Probe, *, max_failures: int = 100, drain_seconds: float = 1.0
    ) -> None:
        self.bus = MemoryBus(epoch=1)
        self.results = Results(self.bus, MemoryCache(self.bus))
        market = Market()
        self.probe = kind(market, self.results)
        self.engine = Engine(market, self.results, [self.probe], max_failures=max_failures)
        self.queues = {name: MemoryQueue(name, max_events=10_000) for name in (TRADES, UNKNOWN, AGGREGATES)}
        self.arrivals: list[int] = []
        self.stage = Processor(
            self.engine,
            list(self.queues.values()),
            drain_seconds=drain_seconds,
            processed=self.arrivals.append,
        )

    def put(self, *symbols: str, arrival_ns: int = 7) -> None:
        trades = [Trade(symbol=symbol, price=1, size=1, timestamp=T0) for symbol in symbols]
        self.queues[TRADES].put(Batch(trades, arrival_ns))

    def symbols(self) -> list[str]:
        return [event.symbol for event in self.probe.seen]

    async def settled(self) -> None:
        async with asyncio.timeout(60):
            while any(queue.waiting for queue in self.queues.values()):  # noqa: ASYNC110
                await asyncio.sleep(0)
            await asyncio.sleep(0)


async def test_batches_of_a_queue_are_processed_in_order_and_counted() -> None:
    """At rest everything taken is processed, batch by batch."""
    bench = Bench()
    await bench.stage.start()
    for symbols in (["A", "B"], ["C"], ["D", "E", "F"]):
        bench.put(*symbols)
    await bench.settled()

    assert bench.symbols() == list("ABCDEF")
    counters = bench.stage.counters[TRADES]
    assert counters.processed == bench.queues[TRADES].counters.taken == 6
    assert counters.batches == 3
    assert bench.arrivals == [7, 7, 7]
    await bench.stage.stop()


async def test_a_batch_is_freed_when_it_is_worked_off() -> None:
    """Before anybody else runs: what is decoded next goes into its memory, not beside it."""

    class Forgetful(Probe):
        def process(self, batch: EventBatch) -> None:
            """Keeps nothing."""

    class Event:
        """Whose end can be seen."""

    freed: list[bool] = []
    event = Event()
    seen = weakref.ref(event)
    bench = Bench(Forgetful)
    stage = Processor(
        bench.engine, list(bench.queues.values()), processed=lambda _: freed.append(seen() is None)
    )
    bench.queues[UNKNOWN].put(Batch([event], 1))
    del event
    await stage.start()
    await bench.settled()
    assert freed == [True]
    await stage.stop()


async def test_each_queue_has_its_own_worker() -> None:
    """A full queue never delays another: one batch each, in turn."""
    bench = Bench()
    for _ in range(50):
        bench.put("A")
    bench.queues[UNKNOWN].put(Batch([Unknown(reason="x", raw="", arrival_ms=1)], 1))
    await bench.stage.start()
    while not bench.stage.counters[UNKNOWN].processed:  # noqa: ASYNC110
        await asyncio.sleep(0)

    assert bench.stage.counters[TRADES].processed < 5
    await bench.stage.stop()


async def test_other_tasks_run_between_batches() -> None:
    """Processing yields after each batch: reading has priority."""
    bench = Bench()
    for _ in range(30):
        bench.put("A")
    await bench.stage.start()
    turns = 0
    while bench.stage.counters[TRADES].batches < 30:
        turns += 1
        await asyncio.sleep(0)

    assert turns >= 29
    await bench.stage.stop()


async def test_stop_works_off_what_waits() -> None:
    """What was decoded before the stop reaches the analyzers; what comes after is dropped, and counted."""
    bench = Bench()
    await bench.stage.start()
    for _ in range(100):
        bench.put("A", "B")

    await bench.stage.stop()
    bench.put("too late")

    counters = bench.queues[TRADES].counters
    assert bench.stage.counters[TRADES].processed == counters.taken == 200
    assert counters.received == counters.taken + counters.dropped == 201
    assert not bench.stage.health().ok


async def test_stop_ends_within_its_bound_with_the_accounting_exact() -> None:
    """Analyzers too slow to work off everything do not keep the process alive; the rest still waits."""
    bench = Bench(drain_seconds=0.05)
    bench.probe.on_batch = lambda: time.sleep(0.01)
    await bench.stage.start()
    for _ in range(1_000):
        bench.put("A")

    await bench.stage.stop()

    queue = bench.queues[TRADES]
    assert 0 < queue.waiting < 1_000
    assert bench.stage.counters[TRADES].processed == queue.counters.taken
    assert queue.counters.received == queue.counters.taken + queue.waiting


async def test_nothing_is_processed_after_stop_was_given_up() -> None:
    """A stop cut short by the application's own bound leaves no worker behind that changes state later."""
    bench = Bench(Flusher, drain_seconds=60)
    bench.probe.on_batch = lambda: time.sleep(0.002)
    await bench.stage.start()
    for _ in range(2_000):
        bench.put("A")
    stop = asyncio.create_task(bench.stage.stop())
    await asyncio.sleep(0.02)
    stop.cancel()
    await asyncio.gather(stop, return_exceptions=True)
    await asyncio.sleep(0)
    processed = bench.stage.counters[TRADES].processed
    for _ in range(20):
        await asyncio.sleep(0)

    assert bench.stage.counters[TRADES].processed == processed
    assert bench.queues[TRADES].waiting


async def test_stop_is_safe_before_start_and_twice() -> None:
    """Whatever state the process is in when it has to end."""
    await Bench().stage.stop()
    bench = Bench()
    await bench.stage.start()
    await bench.stage.stop()
    await bench.stage.stop()


async def test_an_analyzer_that_raises_loses_the_batch_only() -> None:
    """The worker goes on with the next batch, and what was taken counts as processed."""
    bench = Bench()

    def fail_once() -> None:
        bench.probe.on_batch = lambda: None
        raise ValueError("a defect")

    bench.probe.on_batch = fail_once
    await bench.stage.start()
    bench.put("A")
    bench.put("B")
    await bench.settled()

    assert bench.symbols() == ["B"]
    assert bench.engine.guards[0].failures == 1
    assert bench.engine.guards[0].lost_events == 1
    assert bench.stage.counters[TRADES].processed == 2
    assert bench.stage.health().ok
    await bench.stage.stop()


async def test_an_engine_that_raises_does_not_end_the_worker() -> None:
    """A defect of ours costs a batch; else the queue would fill for good."""
    bench = Bench()
    process = bench.engine.process

    def broken(queue: str, batch: EventBatch) -> None:
        if len(batch.events) == 2:
            raise RuntimeError("a defect")
        process(queue, batch)

    bench.engine.process = broken  # type: ignore[method-assign]
    await bench.stage.start()
    for symbols in (["A"], ["B", "C"], ["D"]):
        bench.put(*symbols)
    await bench.settled()

    counters = bench.stage.counters[TRADES]
    assert bench.symbols() == ["A", "D"]
    assert (counters.processed, counters.failures) == (4, 1)
    assert counters.processed == bench.queues[TRADES].counters.taken
    await bench.stage.stop()


async def test_a_disabled_analyzer_shows_in_health() -> None:
    """The platform still works, and says what does not."""
    bench = Bench(max_failures=1)
    bench.probe.on_batch = lambda: 1 // 0  # type: ignore[assignment]
    await bench.stage.start()
    bench.put("A")
    await bench.settled()

    health = bench.stage.health()
    assert health.ok
    assert "probe" in health.detail
    await bench.stage.stop()


async def test_health_names_a_worker_that_ended() -> None:
    """A dead worker is no detail: its queue would fill."""
    bench = Bench()
    assert not bench.stage.health().ok
    await bench.stage.start()
    assert bench.stage.health().ok
    for task in asyncio.all_tasks():
        if task.get_name() == f"worker-{TRADES}":
            task.cancel()
    await asyncio.sleep(0.01)

    health = bench.stage.health()
    assert not health.ok
    assert TRADES in health.detail
    await bench.stage.stop()


async def test_a_flush_goes_step_by_step_and_its_results_leave_at_each_step() -> None:
    """The loop runs between the steps of a flush, and subscribers get each step's value at once."""

    class Slow(Flusher):
        def flush(self) -> Iterator[None]:
            for _ in super().flush():
                time.sleep(0.001)
                yield

    bench = Bench(Slow)
    got: list[Any] = []
    bench.bus.subscribe("halts:active", lambda message: got.append(message.value))
    await bench.stage.start()
    async with asyncio.timeout(60):
        while len(got) < 1:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert got == [0]
    async with asyncio.timeout(60):
        while len(got) < 6:  # noqa: ASYNC110
            await asyncio.sleep(0)
    await bench.stage.stop()

    assert got[:6] == [0, 1, 2, 0, 1, 2]


async def test_what_is_kept_for_a_tick_leaves_when_asked_for() -> None:
    """Not by time; brief steps go in one turn of the loop."""

    class OnTick(Flusher):
        flush_seconds: ClassVar[float] = 0.0
        flush_on_tick: ClassVar[bool] = True

    bench = Bench(OnTick)
    got: list[Any] = []
    bench.bus.subscribe("halts:active", lambda message: got.append(message.value))
    await bench.stage.gather()  # nothing runs yet
    await bench.stage.start()
    await asyncio.sleep(0.02)
    assert got == []
    await bench.stage.gather()
    assert got == [0, 1, 2]
    await bench.stage.stop()


async def test_a_flush_that_raises_is_counted_and_comes_again() -> None:
    """An analyzer whose flush fails once still flushes a moment later."""

    class Broken(Flusher):
        def flush(self) -> Iterator[None]:
            self.flushes += 1
            yield
            if self.flushes == 1:
                raise ValueError("a defect")

    bench = Bench(Broken)
    await bench.stage.start()
    async with asyncio.timeout(60):
        while bench.probe.flushes < 3:  # type: ignore[attr-defined]  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    await bench.stage.stop()

    assert bench.engine.guards[0].failures == 1


async def test_bars_of_other_symbols_do_not_wait_for_a_bad_time() -> None:
    """A bar with an absurd time neither ends the worker nor stops the market clock of the others."""
    bench = Bench()
    await bench.stage.start()

    def bar(symbol: str, start: float) -> Aggregate:
        return Aggregate(symbol=symbol, close=1, high=1, low=1, start_timestamp=start)

    for start in (T0, 9e18, -9e18, 0, 1e300 * 0, T0 + 1_000):
        bench.queues[AGGREGATES].put(Batch([bar("A", start), bar("B", T0)], 1))
    await bench.settled()

    assert bench.stage.counters[AGGREGATES].failures == 0
    assert bench.stage.counters[AGGREGATES].processed == 12
    assert bench.engine.market.clock.now_ms == T0 + 1_000
    await bench.stage.stop()


async def test_no_batch_is_begun_while_reading_needs_the_loop() -> None:
    """Where the feed falls behind, reading comes first; processing goes on as soon as it may."""
    bench = Bench()
    may_work = asyncio.Event()
    stage = Processor(bench.engine, list(bench.queues.values()), may_work=may_work)
    bench.put("A")
    await stage.start()
    for _ in range(50):
        await asyncio.sleep(0)
    assert stage.counters[TRADES].processed == 0

    may_work.set()
    await bench.settled()

    assert stage.counters[TRADES].processed == 1
    await stage.stop()
