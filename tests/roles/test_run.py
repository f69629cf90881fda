"""`mdp run --role` as a process, as an operator sees it."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from mdp.cache.redis_link import connect
from mdp.client import WdsClient
from tests.app_support import request
from tests.cache.redis_publisher import Publisher
from tests.redis_server import RedisServer
from tests.test_run import Process

MDP = ("-c", "from mdp.cli import main; main()")
FREE_PORTS = [f"--{section}-port=0" for section in ("wds", "scp", "metrics", "admin")]


@asynccontextmanager
async def running(
    roles: str, server: RedisServer, folder: Path
) -> AsyncIterator[tuple[Process, dict[str, int]]]:
    """The command with free ports; yields it with its ports, once it has started."""
    arguments = [*MDP, "run", "--role", roles, "--cache-url", server.url, "--log-format", "json"]
    child = Process(*arguments, *FREE_PORTS, cwd=folder)
    try:
        await child.until('"event": "started"')
        lines = [msgspec.json.decode(line) for line in child.output.splitlines()]
        yield child, {line["service"]: line["port"] for line in lines if line["event"] == "listening"}
    finally:
        child.end()


async def test_data_service_and_pages_run_without_a_key_of_the_provider(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    """A board that somebody published is served; Ctrl-C ends it with 0 and leaves nothing in Redis."""
    client = connect(redis_server.config())
    board = [{"symbol": "A", "rank": 1}]
    await Publisher(client).publish("scanners:top_gainers", board)
    await client.aclose()
    async with running("wds,scp", redis_server, tmp_path) as (child, ports):
        assert ports.keys() == {"wds", "scp", "metrics", "admin"}
        assert (await request("GET", ports["scp"], "/"))[0] == 200
        assert (await request("GET", ports["metrics"], "/readyz"))[0] == 200
        async with WdsClient(f"ws://127.0.0.1:{ports['wds']}/ws") as wds:
            assert await wds.get("scanners:top_gainers") == board
        child.child.send_signal(signal.SIGTERM)
        assert await child.ended() == 0
    with redis_server.client() as plain:
        assert plain.keys("mdp:interest:*") == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--role", "wds", "--demo"], "--demo"),
        (["--role", "wsd"], "did you mean wds?"),
        (["--role", "scp", "--cache-url", "http://redis"], "cache.url"),
    ],
)
async def test_a_wrong_role_or_address_is_one_line(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    """Exit code 2, nothing started."""
    child = Process(*MDP, "run", *arguments, cwd=tmp_path)
    try:
        assert await child.ended() == 2
        assert message in child.output
        assert child.output.count("\n") == 1
    finally:
        child.end()
