"""Recorded real days through the whole platform, compared with values worked out independently.

`mdp simulate --replay` sends the recording over the provider's protocol at full speed; `mdp run` reads
it through the official client; a WebSocket client reads the results. Nothing may be lost on the way.
"""

from __future__ import annotations

import pytest

from tests.data import data_file
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


@pytest.fixture(scope="module")
def minutes(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """99 symbols' minute bars of 2025-01-27."""
    path = data_file("us-99-minute-2025-01-27.frames.gz")
    data_file("us-99-minute-2025-01-27.reference.json.gz")
    return replayed(tmp_path_factory.mktemp("minutes"), path)


@pytest.fixture(scope="module")
def ticks(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """Trades, quotes and second bars of four symbols of 2013-10-07."""
    return replayed(tmp_path_factory.mktemp("ticks"), data_file("ticks-4-2013-10-07.frames.gz"))


@pytest.fixture(params=["minutes", "ticks"])
def day(request: pytest.FixtureRequest) -> Answers:
    """Each of the recorded days."""
    answers: Answers = request.getfixturevalue(request.param)
    return answers


def test_every_event_is_accounted_for(day: Answers) -> None:
    """Each event of the recording was decoded and processed; a replay at full speed sheds nothing."""
    all_accounted_for(day)


def test_enriched_quotes_equal_the_reference_model(day: Answers) -> None:
    """Every field of every symbol's quote, relative error 1e-9."""
    quotes_agree(day)


def test_boards_equal_the_reference_model(day: Answers) -> None:
    """The same symbols in the same order with the same values, ranked from 1."""
    boards_agree(day)


def test_daily_ranges_equal_the_reference_model(day: Answers) -> None:
    """The quote and the six extremes of every symbol, null where a session had no print."""
    ranges_agree(day)


def test_alerts_equal_the_reference_model(day: Answers) -> None:
    """The newest 1,000 highs and lows, newest first, with their notes, times and quotes."""
    assert len(day.model.alerts) > 100
    alerts_agree(day)


def test_trades_equal_the_reference_model(ticks: Answers) -> None:
    """Statistics of each symbol's last 1,000 trades in order of arrival, and of its day."""
    assert len(ticks.model.top_trades()) == 4
    trades_agree(ticks)
