"""Recorded real days made worse, and cut in two by `kill -9`, compared with the reference model.

The model is fed the same frames in the order of the file, which is their order of arrival.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.data import data_file
from tests.integration import disturb
from tests.integration.replay_rig import (
    Answers,
    alerts_agree,
    all_accounted_for,
    boards_agree,
    quotes_agree,
    ranges_agree,
    replayed,
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


@pytest.fixture(scope="module", params=[(MINUTES, 1), (MINUTES, 2), (TICKS, 1), (TICKS, 2)])
def disturbed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """A day of which 3 % of the frames are damaged; its trades have conditions."""
    name, seed = request.param
    recording, reference = source(name)
    frames = disturb.read(recording)
    if name == TICKS:
        frames = disturb.with_conditions(disturb.with_market(frames), seed)
    frames, done = disturb.disturb(frames, seed)
    for damage in ("reordered", "delayed", "duplicated"):
        assert done[damage] == pytest.approx(len(frames) * disturb.SHARE, rel=0.5), "not what was meant"
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
