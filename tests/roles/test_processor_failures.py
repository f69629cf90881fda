"""Processors as processes: one is frozen past its leases, or killed, and nobody who listens can tell."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.processor.processors import Listener, OneProcess, sorted_events, told
from tests.processor.test_partitions import ALERT, market
from tests.redis_server import RedisServer
from tests.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
PARTITIONS = 4
ALERTS = ("daily_range_hod_alert", "daily_range_lod_alert")


def processor(server: RedisServer, folder: Path) -> subprocess.Popen[bytes]:
    settings: dict[str, Any] = {
        "cache-url": server.url, "cache-key-prefix": "t:", "massive-rest-url": "http://127.0.0.1:9",
        "metrics-port": 0, "admin-port": 0, "mdq-partitions": PARTITIONS, "log-format": "json",
        "mdq-ttl-seconds": 30,
    }  # fmt: skip
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from mdp.cli import main; main(sys.argv[1:])",
            "run",
            "--role",
            "processor",
            *[f"--{name}={value}" for name, value in settings.items()],
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MASSIVE_API_KEY": "k"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def holders(server: RedisServer) -> dict[int, int]:
    """How many partitions each process holds, by process id."""
    found: dict[int, int] = {}
    with server.client() as client:
        for key in client.keys("t:mdp:lease:partition:*"):
            owner = client.get(key)
            if owner is not None:
                process = int(owner.decode().rsplit("-", 2)[1])
                found[process] = found.get(process, 0) + 1
    return found


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
async def test_alerts_come_once_whatever_becomes_of_a_processor(
    redis_server: RedisServer, tmp_path: Path, how: signal.Signals
) -> None:
    """Frozen until others have its partitions, then awake again; or killed: each alert exactly once."""
    frames = market(90)
    one = OneProcess()
    one.send(frames)
    listener = Listener(redis_server, PARTITIONS)
    nodes = [processor(redis_server, tmp_path) for _ in range(2)]
    even = {node.pid: PARTITIONS // 2 for node in nodes}
    try:
        await listener.start()
        await eventually(lambda: holders(redis_server) == even)
        await listener.send(frames[:40])
        nodes[0].send_signal(how)
        await listener.send(frames[40:60])
        await eventually(lambda: holders(redis_server) == {nodes[1].pid: PARTITIONS})
        nodes[0].send_signal(signal.SIGCONT)
        await listener.send(frames[60:])
        if how is signal.SIGSTOP:
            await eventually(lambda: holders(redis_server) == even)

        for name in ALERTS:
            wanted = sorted_events(one.events[name], ALERT)
            await eventually(lambda name=name, wanted=wanted: len(told(redis_server, name)) >= len(wanted))  # type: ignore[misc]
            assert sorted_events(told(redis_server, name), ALERT) == wanted
    finally:
        for node in nodes:
            node.send_signal(signal.SIGCONT)
            node.kill()
            node.wait()
        await listener.stop()
