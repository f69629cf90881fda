"""Processes that the bench starts as an operator does, and asks over their own servers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
from redis.asyncio import Redis
from redis.exceptions import RedisError

from mdp.bench.process import BenchError
from mdp.bench.usage import Usage, usage

_START_SECONDS = 60.0  # on a machine that does other things, too
_STOP_SECONDS = 8.0
_LOOK_SECONDS = 0.02
_ATTEMPTS = 3  # another process may take the free port first
_PLATFORM = "from mdp.cli import main; main()"


class Child:
    """A process that runs, its words in a file. Make it with `start`, end it with `stop`.

    Attributes:
        name: For people.
        ports: Where its servers listen, by section of the configuration; known after `listening`.
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process, words: Path) -> None:
        self.name = name
        self.ports: dict[str, int] = {}
        self._process = process
        self._words = words

    @classmethod
    async def start(
        cls, name: str, command: Sequence[str], folder: Path, settings: Mapping[str, str]
    ) -> Child:
        """Start a command in a folder, with none of this user's settings but the given ones."""
        words = folder / f"{name}.log"
        own = {key: value for key, value in os.environ.items() if not key.startswith("MDP_")}
        with words.open("wb") as out:
            process = await asyncio.create_subprocess_exec(
                *command,
                cwd=folder,
                env={**own, **settings},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        return cls(name, process, words)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def usage(self) -> Usage:
        """What it used so far."""
        return usage(self.pid)

    def check(self) -> None:
        """That it still runs.

        Raises:
            BenchError: It has ended; with the last it said.
        """
        if self._process.returncode is not None:
            said = self._words.read_text(errors="replace").strip().splitlines()
            raise BenchError(f"{self.name} ended: {said[-1][:300] if said else self._process.returncode}")

    async def listening(self) -> None:
        """Wait until it says that it has started, and where it listens.

        Raises:
            BenchError: It ended, or took longer than a minute.
        """
        until = time.monotonic() + _START_SECONDS
        while not self._started():
            self.check()
            if time.monotonic() > until:
                raise BenchError(f"{self.name} did not start within {_START_SECONDS:.0f} s")
            await asyncio.sleep(_LOOK_SECONDS)

    def _started(self) -> bool:
        for line in self._words.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if entry.get("event") == "listening":
                    self.ports[entry["service"]] = int(entry["port"])
                elif entry.get("event") == "started":
                    return True
        return False

    async def stop(self) -> None:
        """End it, kill it where it does not within 8 s. Safe to call twice."""
        process = self._process
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), _STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()


class Questions:
    """Asks processes of the platform over HTTP: whether they are ready, what they count."""

    def __init__(self) -> None:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30))

    async def close(self) -> None:
        """Ask no more."""
        await self._session.close()

    async def ready(self, child: Child) -> None:
        """Wait until a process can serve.

        Raises:
            BenchError: It ended, or lacks something for longer than a minute; with what it lacks.
        """
        until = time.monotonic() + _START_SECONDS
        while True:
            child.check()
            async with self._session.get(f"http://127.0.0.1:{child.ports['metrics']}/readyz") as answer:
                if answer.status == 200:
                    return
                lacks = (await answer.text())[:300]
            if time.monotonic() > until:
                raise BenchError(f"{child.name} is not ready: {lacks}")
            await asyncio.sleep(0.1)

    async def admin(self, child: Child, path: str) -> Any:
        """The answer to `GET /api/v1{path}`.

        Raises:
            BenchError: The process is gone, or refuses.
        """
        try:
            async with self._session.get(f"http://127.0.0.1:{child.ports['admin']}/api/v1{path}") as answer:
                if answer.status == 200:
                    return await answer.json()
                reason = f"{answer.status} {(await answer.text())[:200]}"
        except (aiohttp.ClientError, TimeoutError) as exc:
            child.check()
            reason = type(exc).__name__
        raise BenchError(f"{child.name} does not answer {path}: {reason}")


async def start_role(name: str, role: str, folder: Path, settings: Mapping[str, str], *options: str) -> Child:
    """`mdp run --role ...` on free ports, keeping its files in a folder."""
    ports = [f"--{section}-port=0" for section in ("wds", "scp", "metrics", "admin")]
    command = [
        sys.executable,
        "-c",
        _PLATFORM,
        "run",
        "--role",
        role,
        "--log-format",
        "json",
        *ports,
        *options,
    ]
    return await Child.start(name, command, folder, settings)


class RedisChild:
    """A redis-server of our own, in memory alone, on a free port."""

    def __init__(self, child: Child, port: int, client: Redis) -> None:
        self.child = child
        self.port = port
        self.client = client

    @classmethod
    async def start(cls, folder: Path) -> RedisChild:
        """Start one, and return once it answers.

        Raises:
            BenchError: There is none on this machine, or it does not start.
        """
        binary = shutil.which("redis-server") or shutil.which("valkey-server")
        if binary is None:
            raise BenchError(
                "needs redis-server (or valkey-server) in PATH; on Debian: apt install redis-server"
            )
        for _ in range(_ATTEMPTS):
            port = _free_port()
            options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
            child = await Child.start("redis", [binary, *options, "--dir", str(folder)], folder, {})
            client = Redis(port=port)
            if await _answers(client, child):
                return cls(child, port, client)
            await client.aclose()
            await child.stop()
        raise BenchError("redis-server does not start")

    async def forget_commands(self) -> None:
        """Count commands from here."""
        await self.client.config_resetstat()

    async def commands(self) -> dict[str, int]:
        """Calls by command since then, as `INFO commandstats` says; those within scripts too."""
        stats: dict[str, Any] = await self.client.info("commandstats")
        return calls_of(stats)

    async def stop(self) -> None:
        """End it."""
        await self.client.aclose()
        await self.child.stop()


def calls_of(stats: Mapping[str, Any]) -> dict[str, int]:
    """Calls by command, the most first; without those that only ask for or forget this count."""
    calls = {name.removeprefix("cmdstat_"): int(row["calls"]) for name, row in stats.items()}
    for name in ("info", "config|resetstat"):
        calls.pop(name, None)
    return dict(sorted(calls.items(), key=lambda row: -row[1]))


async def _answers(client: Redis, child: Child) -> bool:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until:
        try:
            child.check()
            server: dict[str, Any] = await client.info("server")
        except BenchError:
            return False
        except (RedisError, OSError):
            await asyncio.sleep(_LOOK_SECONDS)
        else:
            return int(server["process_id"]) == child.pid  # another server may have the port
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
