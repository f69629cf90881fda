"""A service of its own process, whose memory can be measured, with a market that never stops.

`python -m tests.integration.wds_process JSON` prints its port, publishes, and ends when its input does. Asked
by a line, it answers with what it has counted.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import msgspec
import structlog
import uvloop

from mdp import feeds
from mdp.cache.memory import MemoryBus, MemoryCache
from mdp.config import WdsConfig
from mdp.wds.server import WidgetDataService

EVENT_SECONDS = 0.01


async def _publish(bus: MemoryBus, padding: str) -> None:
    """An event every 10 ms with the time of its publication; a board and twenty quotes now and then."""
    number = 0
    while True:
        number += 1
        bus.publish(feeds.ALERTS, "", {"n": number, "t": time.monotonic_ns(), "x": padding})
        if number % 10 == 0:
            rows = [{"rank": rank, "symbol": f"S{rank}", "price": number + rank} for rank in range(1, 51)]
            bus.publish(feeds.TOP_GAINERS, "", rows)
            for symbol in range(20):
                quote = {"symbol": f"S{symbol}", "price": number, "x": padding[:30_000]}
                bus.publish(feeds.QUOTE, f"S{symbol}", quote)
        await asyncio.sleep(EVENT_SECONDS)


async def _watch_loop(
    worst: list[float], service: WidgetDataService, waiting: list[int], due: list[int]
) -> None:
    """Note by how much the loop was late (seconds), what a client (bytes) and a tick (messages) had waiting.

    Here, as often as events are published: who asks from outside misses a peak between two questions.
    """
    loop = asyncio.get_running_loop()
    while True:
        wanted = loop.time() + 0.005
        await asyncio.sleep(0.005)
        worst[0] = max(worst[0], loop.time() - wanted)
        waiting[0] = max(waiting[0], service.most_waiting_bytes)
        due[0] = max(due[0], len(service._hub._due))


def resident_bytes() -> int:
    """This process's memory now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


async def serve(options: dict[str, Any]) -> None:
    """Until the input ends."""
    config = msgspec.convert({"port": 0, **options["config"]}, WdsConfig)
    bus = MemoryBus(epoch=1)
    service = WidgetDataService(config, bus, MemoryCache(bus), **options.get("times", {}))
    await service.start()
    late, most, due = [0.0], [0], [0]
    tasks = [asyncio.create_task(_publish(bus, "x" * options.get("padding", 0)))]
    tasks.append(asyncio.create_task(_watch_loop(late, service, most, due)))
    print(service.port, flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        answer = {
            "rss": resident_bytes(),
            "connections": service.admission.total,
            "waiting": sum(client.waiting_bytes for client in service._clients),
            "most_waiting": max(most[0], service.most_waiting_bytes),
            "most_due": due[0],
            "late_ms": round(late[0] * 1_000, 1),
            "ok": service.health().ok and not any(task.done() for task in tasks),
            "counters": msgspec.to_builtins(service.counters),
        }
        late[0], most[0], due[0] = 0.0, 0, 0
        print(json.dumps(answer), flush=True)
    for task in tasks:
        task.cancel()
    await service.stop()


def main() -> None:
    """On the loop that the argument names; as `mdp run` does, on uvloop."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # answers go to stdout
    options = json.loads(sys.argv[1])
    factory = asyncio.new_event_loop if options.get("loop") == "asyncio" else uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve(options))


if __name__ == "__main__":
    main()
