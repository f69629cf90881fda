"""Recorded real days made worse, and cut in two by `kill -9`, compared with the reference model.

The model is fed the same frames in the order of the file, which is their order of arrival.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Set
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.data import data_file
from tests.integration import disturb
from tests.integration.reference_model import Model, frames
from tests.integration.replay_rig import (
    ALERT_LISTS,
    Answers,
    alerts_agree,
    all_accounted_for,
    boards_agree,
    kept,
    platform,
    provider_ms,
    quotes_agree,
    ranges_agree,
    reference_of,
    repaired,
    replayed,
    replaying,
    trades_agree,
)
from tests.ports import free_port

MINUTES = "us-99-minute-2025-01-27"
TICKS = "ticks-4-2013-10-07"
FRAMES = "frames.gz"


def source(name: str) -> tuple[Path, Path | None]:
    """A recording and its reference values, if it has any."""
    if name == MINUTES:
        return data_file(f"{name}.{FRAMES}"), data_file(f"{name}.reference.json.gz")
    return data_file(f"{name}.{FRAMES}"), None


def worse(name: str, seed: int) -> list[disturb.Frame]:
    """The frames of a recording, damaged in every way."""
    frames = disturb.read(source(name)[0])
    if name == TICKS:
        frames = disturb.with_conditions(disturb.with_minutes(disturb.with_market(frames)), seed)
    frames, done = disturb.disturb(disturb.with_corrections(frames, seed), seed)
    for damage in ("reordered", "delayed", "duplicated"):
        assert done[damage] == pytest.approx(len(frames) * disturb.SHARE, rel=0.5), "not what was meant"
    return frames


_MORE = [pytest.param(case, marks=pytest.mark.slow) for case in ((MINUTES, 2), (MINUTES, 3), (TICKS, 2))]


@pytest.fixture(scope="module", params=[(MINUTES, 1), (TICKS, 1), *_MORE])
def disturbed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """A day of which 3 % of the frames are damaged; its trades have conditions."""
    name, seed = request.param
    _, reference = source(name)
    frames = worse(name, seed)
    folder = tmp_path_factory.mktemp(f"disturbed-{seed}")
    answers = replayed(folder, disturb.write(folder / f"worse.{FRAMES}", frames, reference))
    assert answers.model.late > 50, "the damage was none to bars"
    assert answers.model.again > 10, "the damage was none to bars"
    return answers


@pytest.mark.parametrize(
    "comparison", [all_accounted_for, quotes_agree, boards_agree, ranges_agree, alerts_agree, trades_agree]
)
def test_a_disturbed_day_equals_the_reference_model(
    disturbed: Answers, comparison: Callable[[Answers], None]
) -> None:
    """State feeds, alerts and accounting, each field, relative error 1e-9; late bars announce nothing."""
    comparison(disturbed)


def killed_between(folder: Path, name: str) -> Answers:
    """A day cut in two: `kill -9` between the halves, when the platform has processed all it got.

    Args:
        folder: For the halves and the platform's snapshot.
        name: Of the recording.
    """
    recording, reference = source(name)
    whole = worse(name, seed=4)
    cut = len(whole) // 2
    first = disturb.write(folder / f"first.{FRAMES}", whole[:cut], reference)
    second = disturb.write(folder / f"second.{FRAMES}", whole[cut:], reference)
    model = Model(reference_of(recording))
    for frame in frames(first):
        model.feed(frame)
    sent_before = sum(model.counts.values())
    model.restart()
    for frame in frames(second):
        model.feed(frame)
    port = free_port()  # the snapshot is one feed's, and the address tells which
    # Nothing is missed; at full speed REST would be asked for the whole half that comes anyway.
    flags = ("--cache-snapshot-seconds", "0.5", "--processor-backfill", "false")
    with replaying(folder, first, port=port) as address, platform(folder, address, *flags) as process:
        asyncio.run(kept(process, sent_before))
        process.kill()
    with replaying(folder, second, port=port) as address, platform(folder, address, *flags) as process:
        return Answers(process, model, sum(model.counts.values()) - sent_before)


@pytest.fixture(scope="module", params=[MINUTES, TICKS])
def restarted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """A damaged day with `kill -9` and a restart in its midst, nothing lost."""
    return killed_between(tmp_path_factory.mktemp("restarted"), request.param)


@pytest.mark.parametrize("comparison", [quotes_agree, boards_agree, ranges_agree, alerts_agree, trades_agree])
def test_a_day_with_kill_9_in_its_midst_equals_the_reference_model(
    restarted: Answers, comparison: Callable[[Answers], None]
) -> None:
    """All but the windows of trades goes on where it stopped, and nothing is announced twice."""
    comparison(restarted)


#: Market seconds a second: regular hours in about 10 s. Who is back too late sees nothing of them.
SPEED = {MINUTES: "2500", TICKS: "2500"}
#: Events that the first process gets. Of ticks, most come after the open, in the last seconds.
BEFORE = {MINUTES: 8_000, TICKS: 400}
#: Beside what a start takes.
AWAY_SECONDS = {MINUTES: 0.5, TICKS: 1.0}
#: Not to be had again by REST: trades. What follows from them is in the gap ledger.
FROM_TRADES = {"trade_count"}


class Interrupted(NamedTuple):
    """A day through a platform that was down for a while in its midst."""

    answers: Answers
    gap: dict[str, Any]  # its entry in the gap ledger
    away_ms: tuple[float, float]  # market time when the one process was dead and the next one not yet born


@pytest.fixture(scope="module", params=[MINUTES, pytest.param(TICKS, marks=pytest.mark.slow)])
def interrupted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Interrupted:
    """`kill -9` while the market goes on, and a start some seconds later, which are hours of the market."""
    name = request.param
    recording, reference = source(name)
    folder = tmp_path_factory.mktemp("interrupted")
    path = disturb.write(folder / f"day.{FRAMES}", disturb.read(recording), reference)
    model = Model(reference_of(path))
    for frame in frames(path):
        model.feed(frame)
    often = ("--cache-snapshot-seconds", "0.5")
    with replaying(folder, path, speed=SPEED[name]) as address:
        with platform(folder, address, *often) as process:
            asyncio.run(kept(process, BEFORE[name]))
            process.kill()
        dead_ms = provider_ms(address)
        time.sleep(AWAY_SECONDS[name])
        born_ms = provider_ms(address)
        with platform(folder, address, *often) as process:
            gap = asyncio.run(repaired(process, model.clock.now_ms))
            return Interrupted(Answers(process, model, 0, waits=False), gap, (dead_ms, born_ms))


@pytest.mark.parametrize("comparison", [quotes_agree, boards_agree, ranges_agree])
def test_what_was_missed_while_the_platform_was_down_is_made_up_for(
    interrupted: Interrupted, comparison: Callable[[Answers, Set[str]], None]
) -> None:
    """Quotes, boards and ranges are those of the whole day, from bars over REST."""
    assert interrupted.gap["repair"] == "done"
    comparison(interrupted.answers, FROM_TRADES)


def test_what_was_missed_is_not_announced_afterwards(interrupted: Interrupted) -> None:
    """No high or low of the time when the platform was down is told as news, and each only once."""
    answers, _, (dead_ms, born_ms) = interrupted
    late_ms = 65_000  # a minute's bar comes so long after its start
    assert born_ms - dead_ms > 10 * late_ms
    for feed in ALERT_LISTS.values():
        told = answers.feeds[feed]
        assert len({(a["symbol"], a["timestamp"], a["price"]) for a in told}) == len(told)
        starts_ms = [alert["timestamp"] * 1000 for alert in told]
        assert any(ms > born_ms for ms in starts_ms)
        assert [ms for ms in starts_ms if dead_ms < ms < born_ms - late_ms] == []


def test_what_cannot_be_made_up_for_is_named_in_the_gap_ledger(interrupted: Interrupted) -> None:
    """Windows and statistics of trades among others."""
    lost = interrupted.gap["not_recoverable"]
    assert {"tta:all_symbols:widget", "tta:{S}:widget", "trade_stats:{S}"} <= set(lost)
