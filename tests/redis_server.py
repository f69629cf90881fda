"""A real redis-server for tests: on a free port, in memory alone; it can be killed, frozen and started again.

The fixture `redis_server` (in `tests/conftest.py`) hands out one that is empty and runs; all tests of a
session share its process. A test that needs options (a password, a limit) makes a `RedisServer` of its own.
MDPTEST_REDIS_SERVER names another program of the kind: all of it passes with Valkey's server, too.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import redis

from mdp.config import CacheConfig
from tests.ports import free_port
from tests.required import require_tool

OTHER_SERVER = "MDPTEST_REDIS_SERVER"
_START_SECONDS = 30.0
_ATTEMPTS = 3  # another process may take the free port first


class RedisServer:
    """See the module. Stop it with `stop`, also after a failure.

    Args:
        folder: For its log and socket. The path should be short: that of a socket has 107 bytes at most.
        options: Further options, e.g. "--requirepass", "x".
    """

    def __init__(self, folder: Path, *options: str, password: str = "") -> None:
        self.binary = os.environ.get(OTHER_SERVER) or require_tool("redis-server")
        self.folder = folder
        self.port = 0
        self._options = [*options, *(("--requirepass", password) if password else ())]
        self._password = password
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen = False

    # --- where it is ---

    @property
    def url(self) -> str:
        """For `cache.url`."""
        return f"redis://{f':{self._password}@' if self._password else ''}127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """Of the process; raises where none runs."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there (frozen counts)."""
        return self._process is not None and self._process.poll() is None

    def config(self, **changes: Any) -> CacheConfig:
        """`[cache]` that points here."""
        return CacheConfig(backend="redis", url=self.url, **changes)

    def client(self, *, db: int = 0) -> redis.Redis:
        """A synchronous client for a test's own questions. Answers are bytes."""
        return redis.Redis(
            port=self.port, db=db, password=self._password or None, protocol=2, socket_timeout=30
        )

    def commands(self) -> dict[str, int]:
        """Calls by command since `reset_commands`, as INFO commandstats counts them."""
        with self.client() as client:
            stats: dict[str, Any] = client.info("commandstats")
        return {name.removeprefix("cmdstat_"): value["calls"] for name, value in stats.items()}

    def reset_commands(self) -> None:
        """Count calls from here."""
        with self.client() as client:
            client.config_resetstat()

    # --- its life ---

    def start(self) -> None:
        """Start, empty, and return once it answers. On the port it had before, if it had one."""
        for _ in range(_ATTEMPTS):
            if self._try_start(self.port or free_port()):
                return
        raise RuntimeError(f"redis-server does not start: {self._log()}")

    def kill(self) -> None:
        """`kill -9`. What it held is gone."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Kill and start again, empty, on the same port."""
        self.kill()
        self.start()

    def freeze(self) -> None:
        """SIGSTOP: it holds connections, accepts new ones (the kernel does) and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        self._frozen = True

    def thaw(self) -> None:
        """SIGCONT. Safe where it is not frozen."""
        if self._frozen and self._process is not None:
            self._process.send_signal(signal.SIGCONT)
        self._frozen = False

    def stop(self) -> None:
        """End it, whatever its state. Safe to call twice."""
        self._end(signal.SIGTERM)

    def empty(self) -> None:
        """As after a fresh start: running, without data, scripts, limits and counts."""
        self.thaw()
        if not self.running:
            self.start()
        with self.client() as client:
            client.config_set("maxmemory", 0)
            client.config_set("maxmemory-policy", "noeviction")
            client.flushall()
            client.script_flush()
            client.config_resetstat()

    def form_cluster(self) -> None:
        """Take all slots, as a cluster of one, and return once that is known. Needs "--cluster-enabled"."""
        with self.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            while b"cluster_state:ok" not in client.execute_command("CLUSTER", "INFO", NEVER_DECODE=True):
                time.sleep(0.02)

    def _try_start(self, port: int) -> bool:
        return self._try_start_with(
            port,
            [
                self.binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
                "--dir", str(self.folder), "--logfile", str(self.folder / "redis.log"),
                "--loglevel", "warning", *self._options,
            ],
        )  # fmt: skip

    def _try_start_with(self, port: int, command: list[str]) -> bool:
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.port = port
        until = time.monotonic() + _START_SECONDS
        while time.monotonic() < until and self.running:
            with contextlib.suppress(redis.ConnectionError), self.client() as client:
                # Another server may have been quicker to take the port.
                return int(client.info("server")["process_id"]) == self._process.pid
            time.sleep(0.01)
        self.stop()
        return False

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if (
            number != signal.SIGKILL
        ):  # which ends also who is stopped; thawed first, it would answer what waits
            process.send_signal(signal.SIGCONT)
        self._frozen = False
        process.send_signal(number)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=30)

    def _log(self) -> str:
        path = self.folder / "redis.log"
        return path.read_text(encoding="utf-8", errors="replace")[-1_000:] if path.exists() else "no log"
