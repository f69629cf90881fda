"""The demo's simulated market: a process that comes up, says where, and goes with us."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

import mdp.demo as module
from mdp.config import CacheConfig, Config, MassiveConfig, WdsConfig
from mdp.demo import Demo, DemoError, DemoOptions, configured

from .app_support import request

SMALL = DemoOptions(symbols=50, events_per_second=500.0)


async def test_it_serves_on_the_port_it_says_until_it_is_stopped() -> None:
    """A real process on a free port of loopback; after stop nobody answers there."""
    demo = Demo(SMALL)
    port = await demo.start()
    try:
        status, answer = await request("GET", port, "/sim/stats")
        assert status == 200
        assert answer["connections"] == []
    finally:
        await demo.stop()
        await demo.stop()

    with pytest.raises(OSError, match=r"."):
        await asyncio.open_connection("127.0.0.1", port)


async def test_stop_before_start_is_nothing() -> None:
    """Where the start failed before it."""
    await Demo(SMALL).stop()


async def test_a_simulator_that_ends_at_once_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Impossible options: the error says so instead of waiting for ever."""
    with pytest.raises(DemoError) as caught:
        await asyncio.wait_for(Demo(DemoOptions(symbols=-1)).start(), 60)

    assert "\n" not in str(caught.value)
    assert "exit code 2" in str(caught.value)


async def test_a_simulator_that_says_nothing_is_given_up_and_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It hangs before it listens: an error after the deadline, and no process left."""
    silent = tmp_path / "silent"
    silent.write_text(
        f"#!{sys.executable}\nimport time\nprint('not the port', flush=True)\ntime.sleep(600)\n"
    )
    silent.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(silent))
    monkeypatch.setattr(module, "_START_SECONDS", 1.0)
    demo = Demo(SMALL)
    task = asyncio.create_task(demo.start())
    await asyncio.sleep(0.3)
    process = demo._process
    assert process is not None

    with pytest.raises(DemoError, match="in time"):
        await task

    assert process.returncode is not None


def test_the_configuration_points_to_the_simulator_and_keeps_nothing() -> None:
    """Only what a demo needs is changed; a real key neither leaves for it nor stays in use."""
    before = Config(
        massive=MassiveConfig(api_key="a-real-key", api_key_file="/a/file", subscriptions=["T.*"]),
        cache=CacheConfig(snapshot_path="somewhere", history_path="elsewhere"),
        wds=WdsConfig(port=1234),
    )

    after = configured(before, 5555)

    assert after.massive.feed == "127.0.0.1:5555"
    assert after.massive.rest_url == "http://127.0.0.1:5555"
    assert after.massive.secure is False
    assert after.massive.api_key not in ("", "a-real-key")
    assert after.massive.api_key_file == ""
    assert after.massive.subscriptions == ["T.*"]
    assert after.cache.snapshot_path == ""
    assert after.cache.history_path == ""
    assert after.wds.port == 1234
    assert before.massive.api_key == "a-real-key", "what was given is left alone"
