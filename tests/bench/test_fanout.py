"""`mdp bench fanout`: a small one measures what the large one does; nothing here is a verdict on speed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from mdp import feeds
from mdp.bench import fanout
from mdp.bench.crowd import Crowd, CrowdProcess
from mdp.bench.fanout import FanoutOptions
from mdp.config import WdsConfig
from tests.wds.doubles import running, until

SMALL = FanoutOptions(clients=5, seconds=0.1, rounds=1, many=8, idle=10, steady_seconds=1.5, pairs=1)


async def test_a_crowd_reads_counts_and_drops() -> None:
    """It speaks, counts what comes since the last question, and takes times."""
    async with running() as service:
        says = [['{"action":"subscribe","feed":"quote:A"}'], ['{"action":"subscribe","feed":"quote:B"}']]
        order = Crowd(service.service.port, 4, "mdp.v2", says, timed=True)
        crowd = await CrowdProcess.start(order)
        try:
            await until(lambda: service.service.counters.subscriptions == 4)
            await until(lambda: service.service.counters.deliveries >= 4)
            assert (await crowd.count()).clients == 4
            before = service.service.counters.bytes_sent
            service.bus.publish(feeds.QUOTE, "A", {"close": 1})
            await until(lambda: service.service.counters.bytes_sent > before)
            sent = service.service.counters.bytes_sent - before
            seen = await crowd.count()
            while not seen.bytes:
                seen = await crowd.count()
            assert seen.bytes == sent
            assert seen.latency.count == 2
        finally:
            await crowd.stop()
        await until(lambda: service.service.counters.clients == 0)


async def test_a_crowd_that_is_refused_says_so() -> None:
    """Too many for the service is an error, not a smaller crowd."""
    async with running(WdsConfig(max_clients=2)) as service:
        with pytest.raises(ConnectionError, match="503"):
            await CrowdProcess.start(Crowd(service.service.port, 5))


def test_every_line_of_the_issue_is_measured(tmp_path: Path) -> None:
    """The table has a figure for each target, and the file the same."""
    console = Console(record=True, width=200)
    path = tmp_path / "result.json"
    options = msgspec.structs.replace(SMALL, json=str(path))
    assert fanout.main(options, console) == 0
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"]
    assert len(rows) == 9
    assert all(re.search(r"\d", row["measured"]) for row in rows)
    text = console.export_text()
    assert all(row["measured"] in text for row in rows)
    shares = [float(row["measured"].rstrip("%")) for row in rows if row["measured"].endswith("%")]
    assert len(shares) == 3
    assert shares[0] > shares[1] > shares[2] > 0, "deltas, compressed, and of few columns"
