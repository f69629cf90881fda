"""`--demo`: a simulated market in a process of its own; the platform connects to it like to the real one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys

import msgspec
import structlog

from mdp.config import Config

log = structlog.get_logger(__name__)

_START_SECONDS = 20.0
_STOP_SECONDS = 1.0


class DemoOptions(msgspec.Struct, kw_only=True):
    """What the simulated market of a demo is told."""

    seed: int = 1
    symbols: int = 11_000
    events_per_second: float = 5_000.0
    speed: float = 1.0


class DemoError(Exception):
    """The simulator did not come up: one line."""


class Demo:
    """The simulator's process. `start` it before the platform, `stop` it after."""

    def __init__(self, options: DemoOptions) -> None:
        self._options = options
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Start it on a free port of loopback.

        Returns:
            The port.

        Raises:
            DemoError: It ended, or did not come up in time.
        """
        options = self._options
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "mdp.simulator", "--port", "0", "--seed", str(options.seed),
            "--symbols", str(options.symbols), "--rate", str(options.events_per_second),
            "--speed", str(options.speed), "--until-stdin-closes",
            stdout=asyncio.subprocess.PIPE,
            stdin=asyncio.subprocess.PIPE,  # closes when we are gone, even by `kill -9`: then it ends, too
            start_new_session=True,  # Ctrl-C in the terminal is for us; we end it
        )  # fmt: skip
        try:
            return await asyncio.wait_for(self._port(), _START_SECONDS)
        except TimeoutError:
            await self.stop()
            raise DemoError("the simulated market did not start in time") from None

    async def stop(self) -> None:
        """End it. Safe to call twice."""
        process, self._process = self._process, None
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), _STOP_SECONDS)
            except TimeoutError:
                process.kill()
                await process.wait()

    async def _port(self) -> int:
        assert self._process is not None
        assert self._process.stdout is not None
        output = self._process.stdout
        async for line in output:
            with contextlib.suppress(ValueError, TypeError, KeyError):
                port = int(json.loads(line)["port"])
                self._reader = asyncio.create_task(_discard(output), name="demo-output")
                return port
        code = await self._process.wait()
        raise DemoError(f"the simulated market ended at once (exit code {code})")


async def _discard(output: asyncio.StreamReader) -> None:
    async for _line in output:
        pass


def configured(config: Config, port: int) -> Config:
    """The configuration with the feed and REST addresses of a simulator on a loopback port.

    Nothing of a demo is kept over a restart: its market begins anew each time.
    """
    massive = msgspec.structs.replace(
        config.massive,
        feed=f"127.0.0.1:{port}",
        secure=False,
        rest_url=f"http://127.0.0.1:{port}",
        api_key="demo",
        api_key_file="",
    )
    cache = msgspec.structs.replace(config.cache, snapshot_path="", history_path="")
    return msgspec.structs.replace(config, massive=massive, cache=cache)
