"""The platform as an operator runs it: a process for each role, a real Redis, a simulated market."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mdp.observability.loop_lag import LoopLag
from tests.app_support import request
from tests.ports import free_port
from tests.redis_server import RedisServer
from tests.tcp_proxy import TcpProxy

ROLES = ("listener-a", "listener-b", "processor-a", "processor-b", "scanner-a", "wds-a", "wds-b")
PARTITIONS = 8
_MDP = ("-c", "from mdp.cli import main; main()")
_PATIENCE_SECONDS = 90.0  # a busy machine starts ten processes; only a failing case takes it
_ROOT = Path(__file__).parent.parent.parent


class Role:
    """One process of the platform; it can be started again under the same name."""

    def __init__(self, name: str, folder: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.ports: dict[str, int] = {}
        self._folder = folder
        self._environment = dict(environment)
        self._child: subprocess.Popen[bytes] | None = None
        self._lives = 0
        self._lag_name = LoopLag.name

    @property
    def kind(self) -> str:
        """The role, as `--role` names it."""
        return self.name.partition("-")[0]

    @property
    def alive(self) -> bool:
        """Whether the process is there (stopped counts)."""
        return self._child is not None and self._child.poll() is None

    @property
    def log(self) -> Path:
        """What this life of it has printed."""
        return self._folder / f"{self.name}.{self._lives}.log"

    def start(self) -> None:
        """Start; `started` waits until it serves."""
        self._lives += 1
        self.ports = {}
        ports = [f"--{section}-port=0" for section in ("wds", "scp", "metrics", "admin")]
        with self.log.open("wb") as out:
            self._child = subprocess.Popen(
                [sys.executable, *_MDP, "run", "--role", self.kind, "--log-format", "json", *ports],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    async def started(self) -> None:
        """Wait until it says so; its ports are known then."""
        until = time.monotonic() + _PATIENCE_SECONDS
        while '"event": "started"' not in (text := self.log.read_text(errors="replace")):
            if not self.alive or time.monotonic() > until:
                raise AssertionError(f"{self.name}: {text[-2_000:]}")
            await asyncio.sleep(0.1)
        for line in text.splitlines():
            if line.startswith("{") and (entry := json.loads(line)).get("event") == "listening":
                self.ports[entry["service"]] = entry["port"]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._child is not None
        self._child.send_signal(number)

    async def gone(self) -> float:
        """Wait for its end; returns for how many seconds that took."""
        began = time.monotonic()
        while self.alive:  # noqa: ASYNC110  a process has no event
            await asyncio.sleep(0.02)
        return time.monotonic() - began

    def end(self) -> None:
        """Kill it, whatever its state."""
        if self._child is not None and self.alive:
            self._child.send_signal(signal.SIGCONT)
            self._child.kill()
            self._child.wait()

    def rss_mb(self) -> float:
        """Resident memory in MB; 0 where it is gone."""
        if self._child is None or not self.alive:
            return 0.0
        return rss_mb(self._child.pid)

    async def ask(self, path: str) -> Any:
        """The control API's answer; None where there is none within 2 s."""
        if not self.alive or "admin" not in self.ports:
            return None
        with contextlib.suppress(OSError, TimeoutError, ValueError):
            async with asyncio.timeout(2):
                status, answer = await request("GET", self.ports["admin"], f"/api/v1{path}")
            return answer if status == 200 else None
        return None

    async def unready(self) -> str:
        """The first part that is not ready; empty where all are."""
        if not self.alive or "metrics" not in self.ports:
            return "not started"
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(2):
                status, text = await request("GET", self.ports["metrics"], "/readyz")
            # One that was frozen twice says for a minute that its loop was held: that heals by itself.
            parts = [] if status == 200 else text["parts"]
            bad = [part for part in parts if not part["ok"] and part["name"] != self._lag_name]
            return str(bad) if bad else ""
        return "does not answer"


class Cluster:
    """See the module. Use it as an async context manager.

    Args:
        folder: For logs; a short path.
        proxied: Roles whose way to Redis is a proxy of their own, in `proxies`.
        skews: Seconds by which the clock of a role is wrong, by its name.
        second_connection: What the simulator does with one, see `mdp simulate`.
        roles: Which processes there are.
        rate, symbols: Of the simulated market, in events a second.
        start: Its time of day at the start.
        simulate: Further options of `mdp simulate`, e.g. a recording to play; they win over the others.
        settings: Of all roles, by environment variable.
    """

    def __init__(
        self,
        folder: Path,
        *,
        proxied: bool = False,
        skews: Mapping[str, float] | None = None,
        second_connection: str = "allow",
        roles: tuple[str, ...] = ROLES,
        rate: float = 1_500.0,
        symbols: int = 200,
        start: str = "2026-03-10T09:29:15",
        simulate: Sequence[str] = (),
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.redis = RedisServer(folder)
        self.folder = folder
        self.proxies: dict[str, TcpProxy] = {}
        self.roles: dict[str, Role] = {}
        self.sim_port = free_port()
        self._names = roles
        self._proxied = proxied
        self._skews = dict(skews or {})
        self.settings = dict(settings or {})
        self._simulator: subprocess.Popen[bytes] | None = None
        self._arguments = [
            "simulate", "--port", str(self.sim_port), "--symbols", str(symbols), "--rate", str(rate),
            "--start", start, "--second-connection", second_connection, *simulate,
        ]  # fmt: skip

    async def __aenter__(self) -> Cluster:
        try:
            self.redis.start()
            await self._start_simulator()
            for name in self._names:
                if self._proxied:
                    self.proxies[name] = await TcpProxy(self.redis.port).__aenter__()
                self.add(name)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for role in self.roles.values():
            role.end()
        if self._simulator is not None:
            self._simulator.kill()
            self._simulator.wait()
        for proxy in self.proxies.values():
            await proxy.__aexit__()
        self.redis.stop()

    def add(self, name: str) -> Role:
        """One more role, or a replica of one; not started."""
        self.roles[name] = Role(name, self.folder, self._environment(name))
        return self.roles[name]

    async def start(self) -> None:
        """Start all roles, and wait until all of it works."""
        for role in self.roles.values():
            role.start()
        for role in self.roles.values():
            await role.started()
        await self.settled()

    async def heal(self) -> None:
        """Start again what is not there, and wait until all of it works."""
        for role in self.roles.values():
            if not role.alive:
                role.start()
        for role in self.roles.values():
            if not role.ports:
                await role.started()
        await self.settled()

    async def settled(self) -> None:
        """All roles are ready, each partition lives in one process, evenly, and somebody publishes."""
        until = time.monotonic() + _PATIENCE_SECONDS
        while problem := await self._problem():
            assert time.monotonic() < until, problem
            await asyncio.sleep(0.2)

    async def _problem(self) -> str:
        for role in self.roles.values():
            if problem := await role.unready():
                return f"{role.name}: {problem}"
        said = await self.processors()
        if any(one is None for one in said.values()):
            return "a processor does not answer"
        lives = sorted(
            int(number)
            for one in said.values()
            for number, state in one["partitions"].items()
            if state["live"]
        )
        if lives != list(range(PARTITIONS)):
            return f"live partitions: {lives}"
        if max(len(one["partitions"]) for one in said.values()) > -(-PARTITIONS // len(said)):
            return "partitions are not spread evenly"
        if sum(one["publishes"] for one in said.values()) != 1:
            return "nobody publishes, or two do"
        if await self.active_listener() is None:
            return "no listener is connected"
        return ""

    # --- who is who ---

    def of(self, kind: str) -> list[Role]:
        """All replicas of a role."""
        return [role for role in self.roles.values() if role.kind == kind]

    async def processors(self) -> dict[str, Any]:
        """What each processor says of itself."""
        return {role.name: await self._section(role, "processor") for role in self.of("processor")}

    async def publisher(self) -> Role:
        """The processor that makes the boards."""
        until = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < until:  # one that is busy does not answer in time
            for name, said in (await self.processors()).items():
                if said and said["publishes"]:
                    return self.roles[name]
            await asyncio.sleep(0.2)
        raise AssertionError("nobody publishes")

    async def listener(self) -> Role:
        """The one that is connected, once there is one."""
        until = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < until:
            if (found := await self.active_listener()) is not None:
                return found
            await asyncio.sleep(0.2)
        raise AssertionError("no listener is connected")

    async def active_listener(self) -> Role | None:
        """The one that is connected."""
        for role in self.of("listener"):
            said = await self._section(role, "listener")
            if said and said["active"]:
                return role
        return None

    async def _section(self, role: Role, name: str) -> Any:
        answer = await role.ask("/status")
        return None if answer is None else answer.get(name)

    def wds_urls(self, first: str) -> Callable[[], list[str]]:
        """For a client: the services that there are, `first` first."""

        def urls() -> list[str]:
            names = sorted((role.name for role in self.of("wds")), key=lambda name: name != first)
            roles = [self.roles[name] for name in names]
            return [f"ws://127.0.0.1:{r.ports['wds']}/ws" for r in roles if r.alive and "wds" in r.ports]

        return urls

    def rss(self) -> dict[str, float]:
        """Resident memory of each process, in MB."""
        found = {role.name: role.rss_mb() for role in self.roles.values()}
        return {**found, "redis": rss_mb(self.redis.pid) if self.redis.running else 0.0}

    # --- the simulator ---

    async def stats(self) -> dict[str, Any]:
        """`GET /sim/stats`."""
        answer: dict[str, Any] = (await request("GET", self.sim_port, "/sim/stats"))[1]
        return answer

    async def pause(self, paused: bool) -> None:
        """Let the market stand still, or go on. Nothing is missed: REST answers and witness stay the same."""
        await request("POST", self.sim_port, "/sim/faults", {"pause": paused})

    async def _start_simulator(self) -> None:
        with (self.folder / "simulator.log").open("wb") as out:
            self._simulator = subprocess.Popen(  # noqa: ASYNC220  that takes milliseconds
                [sys.executable, *_MDP, *self._arguments],
                cwd=self.folder,
                env=_clean_environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        until = time.monotonic() + _PATIENCE_SECONDS
        while True:
            with contextlib.suppress(OSError):
                await self.stats()
                return
            if self._simulator.poll() is not None or time.monotonic() > until:
                raise AssertionError("no simulator")
            await asyncio.sleep(0.1)

    def _environment(self, name: str) -> dict[str, str]:
        port = self.proxies[name].port if name in self.proxies else self.redis.port
        made = {
            **_clean_environment(),
            "MDP_CACHE_URL": f"redis://127.0.0.1:{port}/0",
            "MDP_MDQ_PARTITIONS": str(PARTITIONS),
            "MDP_MASSIVE_FEED": f"127.0.0.1:{self.sim_port}",
            "MDP_MASSIVE_REST_URL": f"http://127.0.0.1:{self.sim_port}",
            "MDP_MASSIVE_SECURE": "false",
            "MASSIVE_API_KEY": "a-key-nobody-may-see",
            **self.settings,
        }
        skew = self._skews.get(name)
        if skew:
            made |= {
                "LD_PRELOAD": faketime_library(),
                "FAKETIME": f"{skew:+.3f}s",
                # Only what the time of day is may be wrong: no machine's monotonic clock jumps.
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }
        return made


def _clean_environment() -> dict[str, str]:
    # A variable of the developer's shell must not change what is tested.
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MDP_", "MASSIVE_", "POLYGON_"))}
    return {**clean, "PYTHONPATH": str(_ROOT), "PYTHONUNBUFFERED": "1"}


def faketime_library() -> str:
    """The path of libfaketime (Debian: faketime); empty where it is not installed."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    return str(found[0]) if found else ""


def rss_mb(pid: int) -> float:
    """Resident memory of a process in MB; 0 where it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    return 0.0
