"""`mdp history`: recordings in, days of the volume history out."""

from __future__ import annotations

import gzip
import json
import string
from collections import defaultdict
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mdp.analyzers.volume_history import SLOT_MS, SLOTS, DayVolumes, run, summarize
from mdp.cli import main
from mdp.exchange_calendar import US_STOCKS
from mdp.processor.volume_files import VolumeFiles
from mdp.sessions import TradingDay
from tests.data import data_file

MONDAY, TUESDAY = date(2024, 3, 4), date(2024, 3, 5)


@pytest.fixture(autouse=True)
def _clean_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, and none of our variables; logging stays as it is."""
    import os

    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("MDP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("mdp.observability.logging.configure", lambda *args: None)


def mdp(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["history", *arguments])


def start_of(day: date) -> int:
    return TradingDay.of(day, US_STOCKS).start_ms


def bars_of(
    day: date, symbols: str = "ABC", *, first: int = 0, last: int = SLOTS - 1
) -> list[dict[str, Any]]:
    """In each slot a bar of each symbol: one share of A, two of B ..."""
    return [
        {
            "ev": "A", "sym": symbol, "v": number, "av": number * (slot + 1), "o": 1, "c": 1, "h": 1, "l": 1,
            "s": start_of(day) + slot * SLOT_MS + 1_000, "e": start_of(day) + slot * SLOT_MS + 2_000,
        }
        for slot in range(first, last + 1)
        for number, symbol in enumerate(symbols, 1)
    ]  # fmt: skip


def write(path: Path, events: list[Any], *, per_frame: int = 3) -> Path:
    """A recording."""
    with gzip.open(path, "wt") as file:
        for at in range(0, len(events), per_frame):
            frame = events[at : at + per_frame]
            file.write(f"{frame[-1]['e'] * 1_000_000}\t{json.dumps(frame)}\n")
    return path


def kept(day: date, folder: str = "var/history", feed: str = "RealTime") -> DayVolumes | None:
    return VolumeFiles(folder, feed, "stocks", keep=30).read(day)


def test_a_recording_of_two_days_makes_two_days(tmp_path: Path) -> None:
    """With a table of what they cover; the history they make is right."""
    path = write(tmp_path / "two.frames.gz", bars_of(MONDAY) + bars_of(TUESDAY))
    result = mdp(str(path))

    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.output.splitlines()[-3:]]  # logging is not set up here
    assert lines[0] == ["day", "symbols", "slots", "covered", "complete", "kept"]
    assert lines[1] == ["2024-03-04", "3", "192", "of", "192", "yes", "yes"]
    assert lines[2] == ["2024-03-05", "3", "192", "of", "192", "yes", "yes"]
    days = [kept(MONDAY), kept(TUESDAY)]
    history = run(summarize([day for day in days if day is not None]))
    assert history.expected("B", 9) == (20, 2)


def test_a_day_in_two_files_becomes_one(tmp_path: Path) -> None:
    """In any order; the slots between them are a gap."""
    morning = write(tmp_path / "a.frames.gz", bars_of(MONDAY, last=99))
    evening = write(tmp_path / "b.frames.gz", bars_of(MONDAY, first=110))
    result = mdp(str(evening), str(morning), str(morning))

    assert "182 of 192" in result.output, result.output
    day = kept(MONDAY)
    assert day is not None
    assert day.from_start
    assert not day.complete
    assert [slot for slot, _ in day.known] == [*range(100), *range(110, SLOTS)]


def test_what_is_no_bar_changes_nothing(tmp_path: Path) -> None:
    """Trades, statuses and malformed events beside the bars, in their frames and in others."""
    events: list[Any] = []
    for bar in bars_of(MONDAY):
        events += [
            bar,
            {"ev": "T", "sym": "A", "p": 1, "s": 1_000_000, "t": bar["s"], "e": bar["e"]},
            {"ev": "A", "sym": "A", "s": "never", "e": bar["e"]},
            {"ev": "status", "status": "connected", "message": "hello", "e": bar["e"]},
        ]
    mdp(str(write(tmp_path / "mixed.frames.gz", events, per_frame=12)))
    mixed = kept(MONDAY)
    mdp(str(write(tmp_path / "bars.frames.gz", bars_of(MONDAY))), "--cache-history-path", "other")

    assert mixed is not None
    assert mixed == kept(MONDAY, "other")


def test_a_recording_that_is_cut_off_counts_as_far_as_it_goes(tmp_path: Path) -> None:
    """The recording process was killed; its file ends within a frame. A warning says so."""
    path = write(tmp_path / "day.frames.gz", bars_of(MONDAY, string.ascii_uppercase), per_frame=26)
    path.write_bytes(path.read_bytes()[:-400])
    result = mdp(str(path))

    assert result.exit_code == 0
    assert "Warning: " in result.output
    assert "day.frames.gz" in result.output
    day = kept(MONDAY)
    assert day is not None
    assert 50 < day.covered < SLOTS


@pytest.mark.parametrize(
    "content", [b"", b"no gzip at all", gzip.compress(b"", mtime=0), gzip.compress(b"no tab\n", mtime=0)]
)
def test_what_is_no_recording_is_refused(tmp_path: Path, content: bytes) -> None:
    """With one line and exit code 1; nothing is written."""
    path = tmp_path / "day.frames.gz"
    path.write_bytes(content)
    result = mdp(str(path))

    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert "day.frames.gz" in result.output
    assert not Path("var").exists()


def test_a_recording_without_bars_says_so(tmp_path: Path) -> None:
    """Of a plan without aggregates."""
    start = start_of(MONDAY)
    trades = [{"ev": "T", "sym": "A", "p": 1, "s": 1, "t": start + n, "e": start + n} for n in range(9)]
    result = mdp(str(write(tmp_path / "day.frames.gz", trades)))

    assert (result.exit_code, result.output) == (0, "The recordings hold no bars\n")


def test_a_recording_within_one_slot_is_not_kept(tmp_path: Path) -> None:
    """It covers nothing."""
    result = mdp(str(write(tmp_path / "day.frames.gz", bars_of(MONDAY, last=0))))

    assert "0 of 192" in result.output
    assert "no: covers no slot" in result.output
    assert kept(MONDAY) is None


def test_a_day_that_covers_more_stays(tmp_path: Path) -> None:
    """Whatever is built later from less."""
    mdp(str(write(tmp_path / "day.frames.gz", bars_of(MONDAY))))
    result = mdp(str(write(tmp_path / "part.frames.gz", bars_of(MONDAY, last=50))))

    assert "no: the one that is there covers more" in result.output
    day = kept(MONDAY)
    assert day is not None
    assert day.complete


def test_days_are_kept_for_the_feed_of_the_configuration(tmp_path: Path) -> None:
    """Those of a replay do not reach the real market's boards."""
    path = write(tmp_path / "day.frames.gz", bars_of(MONDAY))
    mdp(str(path), "--massive-feed", "127.0.0.1:4300")

    assert kept(MONDAY) is None
    assert kept(MONDAY, feed="127.0.0.1:4300") is not None


def test_without_a_file_the_days_are_listed(tmp_path: Path) -> None:
    """Unusable ones, too; none at first."""
    assert "No recorded days in var/history/RealTime_stocks" in mdp().output
    mdp(str(write(tmp_path / "two.frames.gz", bars_of(MONDAY) + bars_of(TUESDAY, last=20))))
    broken = VolumeFiles("var/history", "RealTime", "stocks", keep=30).folder / "2024-03-06.volumes"
    broken.write_bytes(b"nonsense")

    lines = [line.split() for line in mdp().output.splitlines() if line.startswith("2024")]
    assert lines == [
        ["2024-03-04", "3", "192", "of", "192", "yes", "yes"],
        ["2024-03-05", "3", "20", "of", "192", "no", "yes"],
        ["2024-03-06", "unusable"],
    ]


def test_a_history_that_is_off_is_refused() -> None:
    """There is no folder to write to."""
    result = mdp("--cache-history-path", "")

    assert result.exit_code == 2
    assert "cache.history_path" in result.output


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    """Exit code 1, no traceback."""
    path = write(tmp_path / "day.frames.gz", bars_of(MONDAY))
    Path("var").write_text("in the way")
    result = mdp(str(path))

    assert result.exit_code == 1
    assert "Error: cannot write into var/history" in result.output


def test_a_real_days_volumes_are_those_of_a_naive_count() -> None:
    """99 symbols, minute bars: at the end of each slot the sum of what traded in bars before it."""
    path = data_file("us-99-minute-2025-01-27.frames.gz")
    result = mdp(str(path))
    assert "192 of 192" in result.output, result.output
    day = kept(date(2025, 1, 27))
    assert day is not None
    history = run(summarize([day]))

    traded: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    start = start_of(date(2025, 1, 27))
    with gzip.open(path, "rt") as file:
        for line in file:
            for bar in json.loads(line.split("\t", 1)[1]):
                traded[bar["sym"]][(bar["s"] - start) // SLOT_MS] += bar["v"]
    assert len(history) == len(traded) == 99
    for symbol, slots in traded.items():
        total = 0.0
        for slot in range(SLOTS):
            total += slots[slot]
            volume, days = history.expected(symbol, slot)
            assert volume == pytest.approx(total, rel=1e-6), (symbol, slot)
            assert days == 1
