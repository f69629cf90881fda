"""The page of the failure matrix, and what counts as a failure of a case."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec
import pytest

from tests.failures.__main__ import failed
from tests.failures.cases import CASES
from tests.failures.counts import in_words
from tests.failures.recorder import Seen, delay
from tests.failures.report import BEGIN, END, table, write

KILL = CASES["processor-kill"]
GOOD = msgspec.structs.replace(
    failed(KILL, "x"), failed="", boards_s=2.0, quotes_s=4.0, rss_mb={"wds-a": (80.0, 90.0, 85.0)}
)


def test_a_good_outcome_has_no_problem() -> None:
    """Within its limits, everything seen once."""
    assert KILL.problems(GOOD) == []


@pytest.mark.parametrize(
    "change",
    [
        {"failed": "did not heal"},
        {"faults": {"repeated": 1}},
        {"false": 1},
        {"quotes_s": 12.1},
        {"boards_s": 12.1},
        {"missing": 1},
        {"uncovered": 1},
        {"unknown": -1},
        {"connections": 1},
        {"rss_mb": {"wds-a": (80.0, 300.0, 85.0)}},
    ],
)
def test_each_thing_that_must_not_happen_is_a_problem(change: dict[str, object]) -> None:
    """Named in words, one each."""
    assert len(KILL.problems(msgspec.structs.replace(GOOD, **change))) == 1


def test_the_page_names_what_was_not_played(tmp_path: Path) -> None:
    """Text around the marks stays; without marks it is refused."""
    page = tmp_path / "failures.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write({"processor-kill": GOOD}, page)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "\nold\n" not in text
    assert "| processor: kill -9 | 2.0 | 4.0 |" in text
    assert f"Not played in this run: {CASES['nothing'].name};" in text
    page.write_text("no marks")
    with pytest.raises(ValueError, match="needs"):
        write({}, page)
    assert "not played to its end: a b" in table({"processor-kill": failed(KILL, "a\nb")})


def test_every_event_is_named() -> None:
    """What is neither processed nor lost is not accounted for."""
    before = Counter(sent=10, processed=10)
    after = Counter(sent=30, processed=22, missed=5)
    assert in_words(before, after) == ("20 sent = 12 processed + 5 missed", 3)


def test_what_a_frozen_redis_wrote_late_is_not_counted_twice() -> None:
    """A listener without an answer still counts it as its own; more than that is a defect."""
    after = Counter({"sent": 30, "processed": 22, "left with a listener": 10})
    assert in_words(Counter(), after) == ("30 sent = 22 processed + 8 left with a listener", 0)
    after["processed"] = 30
    assert in_words(Counter(), after)[1] == 0
    after["processed"] = 31
    assert in_words(Counter(), after)[1] == -11


def test_what_a_listener_wrote_after_it_was_asked_last_is_not_counted_twice() -> None:
    """Also where much had been left before, and was found to be expired meanwhile."""
    before = Counter({"sent": 30, "processed": 14, "left with a listener": 16})
    after = Counter({"sent": 50, "processed": 34, "expired in the listener": 16, "left with a listener": 3})
    assert in_words(before, after)[1] == 0
    after["processed"] = 35
    assert in_words(before, after)[1] == -4


def test_lateness_is_that_of_a_bar_until_the_next_news() -> None:
    """A symbol without bars is not late; one whose bar was never shown is late until the end."""
    seen = [Seen("quote:A", "state", 1, 1, 0, 5.0, True)]
    assert delay(seen, [], 0.0, 20.0) == 0.0
    assert delay(seen, [2.0, 3.0], 0.0, 20.0) == 3.0
    assert delay(seen, [4.0, 9.0], 0.0, 20.0) == 11.0
