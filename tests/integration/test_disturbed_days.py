"""Recorded real days made worse, and cut in two by `kill -9`, compared with the reference model.

The model is fed the same frames in the order of the file, which is their order of arrival.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

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
    free_port,
    kept,
    platform,
    quotes_agree,
    ranges_agree,
    reference_of,
    replayed,
    replaying,
    trades_agree,
)

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


@pytest.fixture(scope="module", params=[(name, seed) for name in (MINUTES, TICKS) for seed in (1, 2, 3)])
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


def killed_between(folder: Path, name: str, whole: list[disturb.Frame], missed: int) -> Answers:
    """A day cut in two: `kill -9` between the halves, and frames after the cut that are never sent.

    Args:
        folder: For the halves and the platform's snapshot.
        name: Of the recording, whose reference values count.
        whole: Its frames.
        missed: So many frames are lost.
    """
    recording, reference = source(name)
    cut = len(whole) // 2
    first = disturb.write(folder / f"first.{FRAMES}", whole[:cut], reference)
    lost = disturb.write(folder / f"lost.{FRAMES}", whole[cut : cut + missed], reference)
    second = disturb.write(folder / f"second.{FRAMES}", whole[cut + missed :], reference)
    model = Model(reference_of(recording))
    for frame in frames(first):
        model.feed(frame)
    sent_before = sum(model.counts.values())
    model.restart()
    for frame in frames(lost):
        model.miss(frame)
    for frame in frames(second):
        model.feed(frame)
    port = free_port()  # the snapshot is one feed's, and the address tells which
    often = ("--cache-snapshot-seconds", "0.5")
    with replaying(folder, first, port=port) as address, platform(folder, address, *often) as process:
        asyncio.run(kept(process, sent_before))
        process.kill()
    with replaying(folder, second, port=port) as address, platform(folder, address) as process:
        return Answers(process, model, sum(model.counts.values()) - sent_before)


@pytest.fixture(
    scope="module", params=[(name, damaged) for name in (MINUTES, TICKS) for damaged in (False, True)]
)
def restarted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """A day with `kill -9` and a restart in its midst, nothing lost; as recorded, and damaged."""
    name, damaged = request.param
    whole = worse(name, seed=4) if damaged else disturb.read(source(name)[0])
    return killed_between(tmp_path_factory.mktemp("restarted"), name, whole, missed=0)


@pytest.mark.parametrize("comparison", [quotes_agree, boards_agree, ranges_agree, alerts_agree, trades_agree])
def test_a_day_with_kill_9_in_its_midst_equals_the_reference_model(
    restarted: Answers, comparison: Callable[[Answers], None]
) -> None:
    """All but the windows of trades goes on where it stopped, and nothing is announced twice."""
    comparison(restarted)


#: Frames of 20 minutes or more.
MISSED = {MINUTES: 80, TICKS: 3_000}


@pytest.fixture(scope="module", params=[MINUTES, TICKS])
def interrupted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """The same where the platform was down for a while and the market went on."""
    whole = disturb.read(source(request.param)[0])
    folder = tmp_path_factory.mktemp("interrupted")
    return killed_between(folder, request.param, whole, missed=MISSED[request.param])


@pytest.mark.xfail(strict=False, reason="needs backfill: bars over REST of what was missed")
@pytest.mark.parametrize("comparison", [quotes_agree, boards_agree, ranges_agree])
def test_what_was_missed_while_the_platform_was_down_is_made_up_for(
    interrupted: Answers, comparison: Callable[[Answers], None]
) -> None:
    """Quotes, boards and ranges are those of the whole day. Trade windows cannot be had again."""
    comparison(interrupted)


def test_what_was_missed_is_not_announced_afterwards(interrupted: Answers) -> None:
    """No high or low of the time when the platform was down is told as news."""
    begin_ms, end_ms = interrupted.model.missed_ms
    assert end_ms - begin_ms >= 120_000
    told = [alert["timestamp"] * 1000 for feed in ALERT_LISTS.values() for alert in interrupted.feeds[feed]]
    assert told
    assert [ms for ms in told if begin_ms < ms < end_ms] == []
