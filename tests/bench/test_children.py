"""Processes that the bench starts: found, asked, ended; what goes wrong is one line."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from mdp.bench.children import Child, RedisChild, calls_of
from mdp.bench.process import BenchError
from mdp.bench.usage import cores, usage
from tests.required import require_tool

SAYS = """
import os, sys, time
print('no json')
print('{"event": "listening", "service": "admin", "port": 4711}')
print('{"event": "started", "own": "%s", "inherited": "%s"}' %
      (os.environ.get("MDP_LOG_FORMAT"), os.environ.get("MDP_API_KEY")), flush=True)
time.sleep(60)
"""


async def test_a_process_says_where_it_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its settings are the given ones alone, whatever this user has set; it is gone after `stop`."""
    monkeypatch.setenv("MDP_API_KEY", "mine")
    child = await Child.start("x", [sys.executable, "-c", SAYS], tmp_path, {"MDP_LOG_FORMAT": "json"})
    try:
        await child.listening()

        assert child.ports == {"admin": 4_711}
        assert '"own": "json", "inherited": "None"' in (tmp_path / "x.log").read_text()
        assert child.usage().rss_mb > 1
    finally:
        await child.stop()
        await child.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)


async def test_a_process_that_ends_is_told_with_its_last_words(tmp_path: Path) -> None:
    """Not after a minute, but at once."""
    command = [sys.executable, "-c", "print('first'); raise SystemExit('no such thing')"]
    child = await Child.start("listener-0", command, tmp_path, {})

    with pytest.raises(BenchError, match=r"^listener-0 ended: no such thing$"):
        await child.listening()


async def test_redis_counts_commands_from_where_it_is_told_to(tmp_path: Path) -> None:
    """Those of the count itself are not among them."""
    require_tool("redis-server")
    redis = await RedisChild.start(tmp_path)
    try:
        await redis.client.set("before", 1)
        await redis.forget_commands()
        for _ in range(3):
            await redis.client.get("x")
        await redis.client.set("x", 1)

        commands = await redis.commands()
        assert list(commands.items())[:2] == [("get", 3), ("set", 1)]
        assert not {"info", "config|resetstat"} & set(commands)
    finally:
        await redis.stop()


async def test_without_redis_the_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is started."""
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(BenchError, match=r"needs redis-server.*apt install redis-server"):
        await RedisChild.start(tmp_path)


def test_calls_are_sorted_by_number() -> None:
    """As `INFO commandstats` has them, prefix and other fields gone."""
    stats = {
        "cmdstat_get": {"calls": 2, "usec": 9},
        "cmdstat_xadd": {"calls": 7},
        "cmdstat_info": {"calls": 1},
    }

    assert list(calls_of(stats).items()) == [("xadd", 7), ("get", 2)]


def test_usage_grows_with_work() -> None:
    """Of this very process; a number that is nobody's has none."""
    before = usage(os.getpid())
    total = 0
    while usage(os.getpid()).cpu_seconds <= before.cpu_seconds:
        total += sum(range(10_000))

    assert usage(os.getpid()).peak_mb >= before.rss_mb > 1
    assert usage(2**22 + 1).cpu_seconds == 0


def test_cores_are_some_of_ours() -> None:
    """As many as asked for, where there are so many."""
    mine = os.sched_getaffinity(0)

    assert cores(1) < mine or len(mine) == 1
    assert cores(10_000) == mine
