"""Replays of recorded real market data; skipped where the data folder is absent."""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from pathlib import Path

import pytest

from mdp.simulator import MAX_SPEED
from mdp.simulator.recording import read_chunks, split_events

from .support import EVERYTHING, serve, subscriber

DATA = Path(os.environ.get("MDPTEST_DATA") or Path(__file__).parents[2] / ".." / "shared" / "data")

pytestmark = pytest.mark.skipif(
    not DATA.is_dir() and os.environ.get("MDPTEST_REQUIRE_DATA") != "1", reason="no recorded data here"
)

# The numbers of the data folder's own README.
RECORDINGS = [
    ("us-99-minute-2025-01-27.frames.gz", {"AM": 51_939}),
    ("ticks-4-2013-10-07.frames.gz", {"T": 88_629, "Q": 51_742, "A": 7_765}),
]


@pytest.mark.parametrize(("name", "expected"), RECORDINGS)
async def test_a_replay_sends_what_the_recording_holds(name: str, expected: dict[str, int]) -> None:
    """Sent and received agree with the published table, by type."""
    async with (
        serve(replay=str(DATA / name), speed=MAX_SPEED) as simulator,
        subscriber(simulator, EVERYTHING) as client,
    ):
        rows = await client.collect(sum(expected.values()))
        assert Counter(row["ev"] for row in rows) == expected
        assert simulator.sent == expected


def test_counting_by_text_agrees_with_parsing() -> None:
    """Every frame of the tick recording, parsed event by event."""
    counts: Counter[str] = Counter()
    for chunk in read_chunks(DATA / RECORDINGS[1][0]):
        for line in chunk:
            counts.update(topic for topic, _, _ in split_events(line.payload))
    assert counts == RECORDINGS[1][1]


async def test_one_symbol_of_a_replay() -> None:
    """NVDA's bars come as recorded, all of them and nothing else."""
    path = DATA / RECORDINGS[0][0]
    with gzip.open(path, "rt") as file:
        frames = [json.loads(line.split("\t")[1]) for line in file]
    recorded = [row for frame in frames for row in frame if row["sym"] == "NVDA"]
    async with (
        serve(replay=str(path), speed=MAX_SPEED) as simulator,
        subscriber(simulator, "AM.NVDA") as client,
    ):
        assert await client.collect(len(recorded)) == recorded
        assert simulator.sent == {"AM": len(recorded)}
