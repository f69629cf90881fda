"""`mdp bench queues`: the whole chain through a real Redis, against one process in memory."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path

import msgspec
import uvloop
from rich.console import Console

from mdp.bench import queues_options, queues_report, queues_run
from mdp.bench.process import BenchError
from mdp.bench.queues_options import QueuesOptions
from mdp.bench.queues_result import QueuesResult
from mdp.bench.usage import cores

EXIT_FAILED = 1  # the accounting is not exact, or the bench could not measure
EXIT_USAGE = 2
EXIT_TERMINATED = 128 + signal.SIGTERM


def main(options: QueuesOptions, console: Console | None = None) -> int:
    """Measure each shape of the chain that the options name, and print what was found.

    Returns:
        0; 1 where events are unaccounted for or something did not come up; 2 for impossible options; 143
        after SIGTERM. Speed never decides: figures are to be read.
    """
    console = console or Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    try:
        queues_options.check(options)
    except ValueError as exc:
        console.print(f"mdp bench queues: {exc}")
        return EXIT_USAGE
    mine = cores(options.cores)
    if mine:
        os.sched_setaffinity(0, mine)  # what is started from here on inherits it
    results: list[QueuesResult] = []
    try:
        for number, (processors, wds) in enumerate(options.shapes()):
            console.print(f"{processors} processors, {wds} wds")
            alone = options.alone and number == 0
            running = queues_run.run(options, processors, wds, alone=alone)
            results.append(uvloop.run(_until_terminated(running)))
            queues_report.print_result(results[-1], console)
    except BenchError as exc:
        console.print(f"mdp bench queues: {exc}")
        return EXIT_FAILED
    except asyncio.CancelledError:
        return EXIT_TERMINATED
    finally:
        if options.json and results:
            data = msgspec.json.format(msgspec.json.encode(results), indent=2)
            Path(options.json).write_bytes(data + b"\n")
    queues_report.print_replicas(results, console)
    return 0 if all(result.exact for result in results) else EXIT_FAILED


async def _until_terminated(running: Coroutine[None, None, QueuesResult]) -> QueuesResult:
    """The result of a run; SIGTERM cancels it, lest the processes that it started outlive us."""
    task = asyncio.ensure_future(running)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task
