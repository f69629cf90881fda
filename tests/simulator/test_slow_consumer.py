"""The slow-consumer rule: the market waits for nobody, and a reader that falls behind is closed."""

from __future__ import annotations

import asyncio

from .support import EVERYTHING, PATIENCE_SECONDS, eventually, serve, subscriber


async def test_a_reader_for_whom_too_much_waits_is_closed_with_1008() -> None:
    """It is told why; another reader of the same market gets everything meanwhile."""
    async with (
        serve(slow_consumer_bytes=200_000, events_per_second=20_000.0) as simulator,
        subscriber(simulator, EVERYTHING) as slow,
        subscriber(simulator, EVERYTHING) as good,
    ):
        slow.ws.transport.pause_reading()
        reading = asyncio.create_task(good.collect(200_000))
        await eventually(lambda: simulator.slow_consumers == 1)
        slow.ws.transport.resume_reading()
        assert await slow.closed() == 1008
        assert slow.ws.close_reason == "slow_consumer"
        assert not reading.done() or len(reading.result()) >= 200_000
        reading.cancel()
        assert simulator.statuses["slow_consumer"] == 1
        assert len(simulator.connections) == 1


async def test_a_reader_whose_data_is_too_old_is_closed() -> None:
    """Time counts as well as bytes."""
    async with (
        serve(slow_consumer_seconds=0.2, events_per_second=20_000.0) as simulator,
        subscriber(simulator, EVERYTHING) as slow,
    ):
        slow.ws.transport.pause_reading()
        await eventually(lambda: simulator.slow_consumers == 1)
        slow.ws.transport.resume_reading()
        assert await slow.closed() == 1008


async def test_in_a_closed_loop_no_reader_is_too_slow() -> None:
    """With `max`, the market waits for the reader: nothing piles up, nobody is cut."""
    async with (
        serve(speed=0.0, slow_consumer_seconds=0.05) as simulator,
        subscriber(simulator, EVERYTHING) as slow,
    ):
        slow.ws.transport.pause_reading()
        before = 0
        async with asyncio.timeout(PATIENCE_SECONDS):  # the kernel's buffers take some of it first
            while simulator.feed.now_ms != before:
                before = simulator.feed.now_ms
                await asyncio.sleep(0.5)
        assert any(one.waiting_bytes for one in simulator.connections.values())
        assert simulator.slow_consumers == 0
        slow.ws.transport.resume_reading()
        await slow.collect(20_000)
        assert simulator.feed.now_ms > before
