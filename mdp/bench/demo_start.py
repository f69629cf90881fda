"""How long a person waits: from `mdp run --demo` to the first row of a board in a client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import tempfile
import time

from mdp.bench.clients import Clients
from mdp.bench.process import BenchError

_GIVE_UP_SECONDS = 60.0


def seconds_to_first_row() -> float:
    """Start the command as a user does, on free ports, and connect as soon as it says where.

    Raises:
        BenchError: No row came within a minute.
    """
    return asyncio.run(_measure())


async def _measure() -> float:
    with tempfile.TemporaryDirectory(prefix="mdp-bench-") as folder:
        started = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "from mdp.cli import main; main()", "run", "--demo", "--log-format", "json",
            "--wds-port", "0", "--scp-port", "0", "--metrics-port", "0", "--admin-port", "0",
            "--cache-snapshot-path", f"{folder}/mdp.snapshot",
            cwd=folder,  # no config.toml but the defaults
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        clients = Clients()
        try:
            async with asyncio.timeout(_GIVE_UP_SECONDS):
                await clients.connect("127.0.0.1", await _port(process), [], count=1, quotes=0)
                while not clients.boards:  # noqa: ASYNC110 (10 ms is finer than the figure)
                    await asyncio.sleep(0.01)
            return time.monotonic() - started
        except TimeoutError:
            raise BenchError(f"the demo showed no row within {_GIVE_UP_SECONDS:.0f} s") from None
        finally:
            clients.close()
            await _end(process)


async def _port(process: asyncio.subprocess.Process) -> int:
    assert process.stdout is not None
    said = b""
    async for said in process.stdout:
        with contextlib.suppress(ValueError):
            entry = json.loads(said)
            if entry.get("event") == "listening" and entry.get("service") == "wds":
                return int(entry["port"])
    raise BenchError(f"the demo ended: {said.decode(errors='replace').strip()}")


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(10):
            await process.communicate()  # reads on, lest it waits for us to take its last words
    if process.returncode is None:
        process.kill()
        await process.wait()
