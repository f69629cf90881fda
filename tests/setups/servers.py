"""Servers together: a master with a replica and a sentinel; a cluster of three; one with certificates."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import redis
import trustme

from tests.ports import free_port
from tests.redis_server import RedisServer

SERVICE = "market"
_PATIENCE_SECONDS = 30.0
_SLOTS = 16_384


class Several(ABC):
    """Some servers with one URL. Stop it with `stop`, also after a failure.

    Attributes:
        servers: Those that keep data.
        environment: Of a process that uses them, `MDP_...`.
    """

    def __init__(self) -> None:
        self.servers: list[RedisServer] = []
        self.environment: dict[str, str] = {}

    @property
    def port(self) -> int:
        """Of the first."""
        return self.servers[0].port

    @abstractmethod
    def start(self) -> None:
        """Start all, and return once they know each other."""

    def stop(self) -> None:
        """End all of them. Safe to call twice."""
        for server in self.servers:
            server.stop()


class One(Several):
    """One server, under a URL that the test chooses.

    Args:
        server: Not started.
        environment: Of a process that uses it; "{port}" stands for its port.
    """

    def __init__(self, server: RedisServer, **environment: str) -> None:
        super().__init__()
        self.servers = [server]
        self._environment = environment

    def start(self) -> None:
        (server,) = self.servers
        server.start()
        self.environment = {
            name: value.replace("{port}", str(server.port)) for name, value in self._environment.items()
        }


class _Sentinel(RedisServer):
    """Watches a master. It writes its configuration itself."""

    def __init__(self, folder: Path, master: RedisServer, down_after_ms: int) -> None:
        super().__init__(folder)
        self._master = master
        self._down_after_ms = down_after_ms

    def _try_start(self, port: int) -> bool:
        path = self.folder / "sentinel.conf"
        lines = [
            f"port {port}",
            "bind 127.0.0.1",
            f"dir {self.folder}",
            f"logfile {self.folder}/redis.log",
            f"sentinel monitor {SERVICE} 127.0.0.1 {self._master.port} 1",
            f"sentinel down-after-milliseconds {SERVICE} {self._down_after_ms}",
            f"sentinel failover-timeout {SERVICE} 10000",
        ]
        path.write_text("\n".join(lines) + "\n", encoding="ascii")
        return self._try_start_with(port, [self.binary, str(path), "--sentinel"])


class Watched(Several):
    """A master, a replica and a sentinel that makes the replica the master when the master is gone.

    Args:
        folder: For their files.
        down_after_ms: So long the master does not answer before it counts as gone.
    """

    def __init__(self, folder: Path, *, down_after_ms: int = 1_000) -> None:
        super().__init__()
        self._folder = folder
        self._down_after_ms = down_after_ms
        self._sentinel: _Sentinel | None = None

    def start(self) -> None:
        master = RedisServer(_made(self._folder / "a"))
        self.servers.append(master)
        master.start()
        replica = RedisServer(_made(self._folder / "b"), "--replicaof", f"127.0.0.1 {master.port}")
        self.servers.append(replica)
        replica.start()
        _until(lambda: replica_of(replica) == "up", "the replica has no master")
        sentinel = self._sentinel = _Sentinel(_made(self._folder / "s"), master, self._down_after_ms)
        sentinel.start()
        with sentinel.client() as client:
            _until(lambda: bool(client.sentinel_slaves(SERVICE)), "the sentinel knows no replica")
        self.environment = {"MDP_CACHE_URL": f"redis+sentinel://127.0.0.1:{sentinel.port}/{SERVICE}"}

    def stop(self) -> None:
        if self._sentinel is not None:
            self._sentinel.stop()
        super().stop()

    def master(self) -> RedisServer:
        """The one that the sentinel names."""
        assert self._sentinel is not None
        with self._sentinel.client() as client:
            _, port = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return next(server for server in self.servers if server.port == int(port))


def replica_of(server: RedisServer) -> str:
    """The state of a replica's link to its master; empty where it is a master."""
    with server.client() as client:
        found: dict[str, Any] = client.info("replication")
    return str(found.get("master_link_status", ""))


class ThreeNodes(Several):
    """A cluster of three masters without replicas; the slots are spread evenly.

    Args:
        folder: For their files.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        super().__init__()
        self._buses = [free_port() for _ in range(3)]
        for bus in self._buses:
            cluster = (
                "--cluster-enabled",
                "yes",
                "--cluster-port",
                str(bus),
                "--cluster-node-timeout",
                "2000",
            )
            self.servers.append(RedisServer(_made(folder / str(bus)), *cluster, *options))

    def start(self) -> None:
        for server in self.servers:
            server.start()
        share = _SLOTS // len(self.servers)
        for number, server in enumerate(self.servers):
            last = _SLOTS - 1 if server is self.servers[-1] else (number + 1) * share - 1
            with server.client() as client:
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", number * share, last)
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        with self.servers[0].client() as client:
            for server, bus in zip(self.servers[1:], self._buses[1:], strict=True):
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", server.port, bus)
        for server in self.servers:
            with server.client() as client:
                _until(lambda c=client: _is_whole(c), "the nodes do not find each other")
        nodes = ",".join(f"127.0.0.1:{server.port}" for server in self.servers[:2])
        self.environment = {"MDP_CACHE_URL": f"redis+cluster://{nodes}"}


def _is_whole(client: redis.Redis) -> bool:
    text = client.execute_command("CLUSTER", "INFO", NEVER_DECODE=True)  # type: ignore[no-untyped-call]
    return b"cluster_state:ok" in text and b"cluster_known_nodes:3" in text


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _until(holds: Any, problem: str) -> None:
    until = time.monotonic() + _PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < until, problem
        time.sleep(0.05)


class Certificates:
    """An authority of our own, and a certificate of it for 127.0.0.1.

    Args:
        folder: Where they are written.
    """

    def __init__(self, folder: Path) -> None:
        self.authority, self.certificate, self.key = (
            folder / name for name in ("ca.pem", "crt.pem", "key.pem")
        )
        authority = trustme.CA()
        issued = authority.issue_cert("localhost", "127.0.0.1")
        authority.cert_pem.write_to_path(str(self.authority))
        issued.private_key_pem.write_to_path(str(self.key))
        for blob in issued.cert_chain_pems:
            blob.write_to_path(str(self.certificate), append=True)

    def options(self, tls_port: int) -> tuple[str, ...]:
        """Of a redis-server that takes TLS there, without asking for clients' certificates."""
        files = {
            "--tls-cert-file": self.certificate,
            "--tls-key-file": self.key,
            "--tls-ca-cert-file": self.authority,
        }
        named = [str(word) for option in files.items() for word in option]
        return ("--tls-port", str(tls_port), *named, "--tls-auth-clients", "no")
