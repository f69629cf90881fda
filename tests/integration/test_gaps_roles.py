"""The listener is killed while prices make highs: what processors repair over Redis, and say meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.replay_rig import PATIENCE_SECONDS, Process, provider_ms, replaying
from tests.integration.test_gaps import AWAY, BACK, END, NOON, QUIET_BARS, SPIKE, Client, recording
from tests.redis_server import RedisServer

SPEED = 20  # market seconds a second: a lease of eight seconds, and a repair, end before the old high


@contextlib.contextmanager
def roles(folder: Path, server: RedisServer, address: str, names: str) -> Iterator[Process]:
    """`mdp run --role`, on a simulator and a Redis."""
    ports = [word for name in ("wds", "scp", "metrics", "admin") for word in (f"--{name}-port", "0")]
    process = Process(
        folder, "run", "--role", names, "--massive-feed", address, "--massive-secure", "false",
        "--massive-rest-url", f"http://{address}", "--log-format", "json", "--cache-url", server.url,
        "--cache-key-prefix", "t:", "--mdq-partitions", "4", *ports,
    )  # fmt: skip
    try:
        process.wait()
        yield process
    finally:
        process.end()


async def killed(folder: Path, server: RedisServer, address: str) -> tuple[dict[str, Any], list[bool]]:
    """`kill -9` of the listener; another one is started some minutes of the market later."""
    client = Client()
    with roles(folder, server, address, "processor,wds") as process:
        with roles(folder, server, address, "listener") as listener:
            await client.until(process, address, AWAY)
            listener.kill()
        while await asyncio.to_thread(provider_ms, address) < NOON + BACK * 1_000:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        with roles(folder, server, address, "listener"):
            await client.until(process, address, END)
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not written(answers := await client.answers(process)):  # noqa: ASYNC110
                    await asyncio.sleep(0.2)
            return answers, client.stale


def written(answers: dict[str, Any]) -> bool:
    """Plain values are written every five seconds."""
    volume = answers["daily_range:AAA"]["accumulated_volume"]
    return volume == END * 100 - 100 + 50_000 and not answers["daily_range:QUIET"]["stale"]


@pytest.mark.slow
def test_highs_of_the_time_without_a_listener_are_repaired_and_not_announced(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """As in one process that was away: the numbers, the alerts, and the ledger of the new listener."""
    path = recording(tmp_path / "day.frames.gz")
    with replaying(tmp_path, path, speed=str(SPEED)) as address:
        answers, stale = asyncio.run(killed(tmp_path, redis_server, address))

    (gap,) = answers["gaps"]
    assert (gap["reason"], gap["repair"], gap["uncertain"]) == ("takeover", "done", [])
    assert gap["repaired"] == 4
    assert NOON < gap["market_start_ms"] < NOON + (AWAY + 60) * 1_000
    assert any(stale)
    row = answers["daily_range:AAA"]
    assert (row["regular_session_high"], row["uncertain_since"], row["stale"]) == (16, None, False)
    assert row["accumulated_volume"] == END * 100 - 100 + 50_000
    quiet = answers["daily_range:QUIET"]
    assert (quiet["regular_session_high"], quiet["regular_session_low"]) == (7, 5)
    assert (quiet["close"], quiet["accumulated_volume"]) == (5, 10 * len(QUIET_BARS) + 5_000)
    assert quiet["start_timestamp"] // 60_000 == (NOON + SPIKE * 1_000) // 60_000, (
        "of a slow machine, minutes"
    )
    news = [(alert["price"], alert["previous"]) for alert in answers["daily_range_hod_alert"]]
    assert news[0] == (16, 15)
    assert not {14, 15} & {price for price, _ in news}
