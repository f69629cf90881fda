"""Workers: one task per queue takes its batches through the engine; one per flushing analyzer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec
import structlog

from mdp.processor.engine import Engine
from mdp.processor.flushers import Flushers
from mdp.queues.base import Queue
from mdp.stage import Health

log = structlog.get_logger(__name__)


class WorkerCounters(msgspec.Struct):
    """Of one queue: `queue.taken = processed` whenever the loop is between steps."""

    processed: int = 0
    batches: int = 0
    failures: int = 0  # batches the engine itself raised on; analyzers' failures are counted in their guards


class Processor:
    """The stage that runs the workers (MDP).

    Args:
        engine: What happens to a batch.
        queues: Those to work off.
        drain_seconds: How long `stop` lets workers finish what waits.
        observe: Called with (queue or analyzer, seconds) after each step.
        processed: Called after each batch with its arrival (monotonic ns).
        may_work: Cleared while reading needs the loop; no batch is begun meanwhile.
    """

    name = "processor"

    def __init__(
        self,
        engine: Engine,
        queues: list[Queue],
        *,
        drain_seconds: float = 1.0,
        observe: Callable[[str, float], None] = lambda _name, _seconds: None,
        processed: Callable[[int], None] = lambda _arrival_ns: None,
        may_work: asyncio.Event | None = None,
    ) -> None:
        self.engine = engine
        self.counters = {queue.name: WorkerCounters() for queue in queues}
        self._queues = queues
        self._drain_seconds = drain_seconds
        self._observe = observe
        self._processed = processed
        self._may_work = may_work or asyncio.Event()
        if may_work is None:
            self._may_work.set()
        self._workers: list[asyncio.Task[None]] = []
        self._flushers = Flushers(engine, observe)
        #: Lets what analyzers keep for the next tick of the fan-out leave now.
        self.gather = self._flushers.gather

    async def start(self) -> None:
        """Start a worker per queue and a flusher per analyzer that asks for it."""
        self._workers = [
            asyncio.create_task(self._work(queue), name=f"worker-{queue.name}") for queue in self._queues
        ]
        self._flushers.start()

    async def stop(self) -> None:
        """Close the queues, work off what waits within the bound, end. Nothing runs any more then."""
        for queue in self._queues:
            queue.close()
        try:
            if self._workers:
                _, pending = await asyncio.wait(self._workers, timeout=self._drain_seconds)
                if pending:
                    left = sum(queue.waiting for queue in self._queues)
                    log.warning("drain_timeout", seconds=self._drain_seconds, left=left)
        finally:  # also where the caller has no more time: what is not journaled must not happen any more
            for task in (*self._workers, *self._flushers.tasks):
                task.cancel()
        await asyncio.gather(*self._workers, *self._flushers.tasks, return_exceptions=True)

    def health(self) -> Health:
        dead = [task.get_name() for task in (*self._workers, *self._flushers.tasks) if task.done()]
        if dead or not self._workers:
            return Health(False, f"not running: {', '.join(dead) or 'workers'}")
        disabled = [guard.name for guard in self.engine.guards if guard.disabled]
        if disabled:
            return Health(True, f"analyzers disabled after failures: {', '.join(disabled)}")
        return Health(True, f"{sum(q.waiting for q in self._queues)} events wait")

    async def _work(self, queue: Queue) -> None:
        name = queue.name
        counters = self.counters[name]
        process = self.engine.process
        clock = time.perf_counter
        may_work = self._may_work
        while True:
            if not may_work.is_set():
                await may_work.wait()
            batch = queue.take()
            if batch is None:
                if queue.closed:
                    return
                await queue.wait()
                continue
            began = clock()
            try:
                process(name, batch)
            except Exception as exc:  # a defect of ours must not end the worker, or its queue fills for good
                counters.failures += 1
                if counters.failures.bit_count() == 1:  # the 1st, 2nd, 4th, 8th ... time
                    log.error("batch_failed", queue=name, failures=counters.failures, exc_info=exc)
            counters.processed += len(batch)
            counters.batches += 1
            arrival_ns = batch.arrival_ns
            del batch  # now, not at the next take: decoding goes on in its memory, which is hot
            self._observe(name, clock() - began)
            self._processed(arrival_ns)
            await asyncio.sleep(0)
