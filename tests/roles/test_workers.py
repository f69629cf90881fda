"""Several processes of the role: started again when one dies, ended together, none left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mdp.config import AdminConfig, Config, MetricsConfig, ProcessorConfig
from mdp.roles import workers
from mdp.roles.workers import PORT_STEP, config_of
from tests.redis_server import RedisServer
from tests.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]


def test_each_worker_has_ports_of_its_own_and_starts_no_more_workers() -> None:
    """The first one has those of the configuration; a free port stays any free port."""
    config = Config(
        metrics=MetricsConfig(port=4200), admin=AdminConfig(port=0), processor=ProcessorConfig(workers=3)
    )
    made = [config_of(config, number) for number in range(3)]

    assert [one.metrics.port for one in made] == [4200, 4200 + PORT_STEP, 4200 + 2 * PORT_STEP]
    assert [one.admin.port for one in made] == [0, 0, 0]
    assert [one.processor.workers for one in made] == [1, 1, 1]
    assert config.processor.workers == 3


@pytest.mark.parametrize("roles", [["all"], ["processor", "wds"], ["listener"]])
def test_other_roles_have_no_workers(roles: list[str]) -> None:
    """Refused, as any setting that cannot be."""
    assert workers.run(Config(processor=ProcessorConfig(workers=2)), roles) == 2


def parent(server: RedisServer, folder: Path) -> subprocess.Popen[bytes]:
    settings: dict[str, Any] = {
        "cache-url": server.url, "massive-rest-url": "http://127.0.0.1:9", "metrics-port": 0, "admin-port": 0,
        "mdq-partitions": 4, "log-format": "json",
    }  # fmt: skip
    flags = [f"--{name}={value}" for name, value in settings.items()]
    command = [sys.executable, "-m", "mdp.cli", "run", "--role", "processor", "--workers", "2", *flags]
    code = "import sys; from mdp.cli import main; main(sys.argv[1:])"
    command[1:3] = ["-c", code]
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MASSIVE_API_KEY": "k"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def owners(server: RedisServer) -> set[bytes]:
    """Of the leases of partitions that are held now."""
    with server.client() as client:
        return {client.get(key) for key in client.keys("mdp:lease:partition:*")} - {None}


def process_of(owner: bytes) -> int:
    """An owner's id is host, process, noise."""
    return int(owner.decode().rsplit("-", 2)[1])


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
async def test_a_worker_that_dies_is_started_again_and_all_end_with_their_parent(
    redis_server: RedisServer, tmp_path: Path, end: signal.Signals
) -> None:
    """Also with a parent that is killed: nothing of it goes on."""
    made = parent(redis_server, tmp_path)
    try:
        await eventually(lambda: len(owners(redis_server)) == 2)
        before = owners(redis_server)
        victim = process_of(min(before))
        os.kill(victim, signal.SIGKILL)
        await eventually(
            lambda: len(owners(redis_server)) == 2 and min(before) not in owners(redis_server), seconds=30
        )
        processes = [process_of(owner) for owner in owners(redis_server)]
        assert victim not in processes

        made.send_signal(end)

        await eventually(lambda: not any(alive(process) for process in processes))
        assert made.wait(30) == (0 if end is signal.SIGTERM else -9)
        if end is signal.SIGTERM:
            assert owners(redis_server) == set(), "handed over"
    finally:
        if made.poll() is None:
            made.kill()
            made.wait()
