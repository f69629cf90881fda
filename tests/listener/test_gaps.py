"""The ledger of outages."""

from __future__ import annotations

import json

from mdp.listener.gaps import MAX_NAMES, MAX_STATES, GapLedger


class Times:
    """A wall clock and a market clock that a test sets."""

    def __init__(self) -> None:
        self.wall = 1_000_000
        self.market: int | None = 500_000

    def ledger(self, max_entries: int = 10) -> GapLedger:
        return GapLedger(wall_ms=lambda: self.wall, market_ms=lambda: self.market, max_entries=max_entries)


def test_outage_is_an_interval_from_the_last_frame_to_the_next() -> None:
    """On both clocks."""
    times = Times()
    ledger = times.ledger()
    ledger.open("aborted", detail="broke", silent_ms=300)
    times.wall += 5_000
    times.market = 505_000
    ledger.close()
    (gap,) = ledger.entries()
    assert (gap["start_ms"], gap["end_ms"]) == (999_700, 1_005_000)
    assert (gap["market_start_ms"], gap["market_end_ms"]) == (499_700, 505_000)
    assert (gap["reason"], gap["detail"], gap["number"]) == ("aborted", "broke", 1)


def test_open_outage_has_no_end() -> None:
    """So an operator sees that it lasts."""
    ledger = Times().ledger()
    ledger.open("refused")
    assert ledger.entries()[0]["end_ms"] is None
    assert ledger.current is not None


def test_further_failures_belong_to_the_outage_that_lasts() -> None:
    """One interval, the first reason, the attempts and states meanwhile."""
    times = Times()
    ledger = times.ledger()
    ledger.open("aborted")
    times.wall += 1
    ledger.note_state("connecting")
    ledger.note_attempt()
    ledger.open("refused", silent_ms=5)
    ledger.note_attempt()
    ledger.close()
    (gap,) = ledger.entries()
    assert gap["reason"] == "aborted"
    assert gap["start_ms"] == 1_000_000
    assert gap["attempts"] == 2
    assert gap["states"] == ["connecting"]


def test_states_and_attempts_without_an_outage_are_not_remembered() -> None:
    """The first connection of a process ends no outage."""
    ledger = Times().ledger()
    ledger.note_state("connecting")
    ledger.note_attempt()
    assert ledger.close() is None
    assert ledger.entries() == []


def test_market_time_is_none_while_unknown() -> None:
    """Never guessed from the wall clock."""
    times = Times()
    times.market = None
    ledger = times.ledger()
    ledger.open("dns", silent_ms=100)
    ledger.close()
    assert ledger.entries()[0]["market_start_ms"] is None
    assert ledger.entries()[0]["market_end_ms"] is None


def test_oldest_entries_are_forgotten_and_numbers_go_on() -> None:
    """Bounded, and still countable."""
    ledger = Times().ledger(max_entries=3)
    for _ in range(5):
        ledger.open("aborted")
        ledger.close()
    assert [gap["number"] for gap in ledger.entries()] == [3, 4, 5]
    assert (ledger.total, len(ledger)) == (5, 3)


def test_states_of_a_long_outage_are_bounded() -> None:
    """A night of attempts fills no memory."""
    ledger = Times().ledger()
    ledger.open("refused")
    for _ in range(1_000):
        ledger.note_state("connecting")
    assert len(ledger.entries()[0]["states"]) == MAX_STATES


def test_wall_clock_set_back_makes_no_negative_interval() -> None:
    """The wall clock may jump; the end is never before the start."""
    times = Times()
    ledger = times.ledger()
    ledger.open("aborted")
    times.wall -= 60_000
    ended = ledger.close()
    assert ended is not None
    assert ended.end_ms == ended.start_ms


def test_a_provider_whose_clock_is_behind_its_events_makes_no_negative_interval() -> None:
    """The begin may be known by the events, whose time is ahead of what the provider says at the end."""
    times = Times()
    ledger = times.ledger()
    ledger.open("operator").market_start_ms = 600_000
    times.market = 505_000
    ledger.close()
    assert ledger.entries()[0]["market_end_ms"] == 600_000
    assert ledger.missing(600_000)


def test_entries_are_plain_json() -> None:
    """They are served by the admin API."""
    ledger = Times().ledger()
    ledger.open("stalled")
    assert json.loads(json.dumps(ledger.entries())) == ledger.entries()


def test_a_market_time_within_an_outage_is_missing() -> None:
    """From the last frame before it to the first one after; while it lasts, from then on."""
    times = Times()
    ledger = times.ledger()
    ledger.open("aborted", silent_ms=300)  # 499,700 in market time
    times.wall, times.market = 1_005_000, 505_000
    assert ledger.missing(499_700)
    assert ledger.missing(900_000)
    ledger.close()

    assert [ledger.missing(ms) for ms in (499_699, 499_700, 505_000, 505_001)] == [False, True, True, False]


def test_an_outage_whose_end_in_market_time_is_unknown_lasts_as_long_as_on_the_wall() -> None:
    """One whose begin is unknown cannot be placed."""
    times = Times()
    ledger = times.ledger()
    ledger.open("aborted")
    times.wall, times.market = 1_005_000, None
    ledger.close()
    ledger.open("refused")

    assert [ledger.missing(ms) for ms in (500_000, 505_000, 505_001)] == [True, True, False]


def test_a_loss_while_connected_is_no_outage() -> None:
    """Nor is a restart, which whoever was started sees without the ledger."""
    times = Times()
    ledger = times.ledger()
    loss = ledger.begin("restart", market_ms=499_000)
    assert not ledger.missing(500_000)
    ledger.finish(loss, market_ms=501_000)

    assert not ledger.missing(500_000)


def test_losses_last_side_by_side_with_an_outage() -> None:
    """Each has its own end; all are numbered together and counted by reason."""
    times = Times()
    ledger = times.ledger()
    shed, expired = ledger.begin("shed", market_ms=100.0), ledger.begin("expired")
    ledger.open("aborted")
    times.wall += 7
    ledger.finish(shed, market_ms=250.5)
    first, second, third = ledger.entries()
    assert (first["market_start_ms"], first["market_end_ms"], first["end_ms"]) == (100, 250, times.wall)
    assert (second["end_ms"], third["end_ms"], expired.end_ms) == (None, None, None)
    assert [entry["number"] for entry in (first, second, third)] == [1, 2, 3]
    assert (ledger.total, ledger.by_reason) == (3, {"shed": 1, "expired": 1, "aborted": 1})


def test_whoever_asks_is_told_of_an_outages_begin_and_end_once() -> None:
    """Not of each failure within it, nor of losses while connected."""
    ledger = Times().ledger()
    told: list[str] = []
    ledger.on_open.append(lambda gap: told.append(f"open {gap.reason}"))
    ledger.on_close.append(lambda gap: told.append(f"close {gap.reason} {gap.end_ms is not None}"))
    ledger.finish(ledger.begin("shed"))
    ledger.open("aborted")
    ledger.open("refused")
    ledger.close()
    ledger.close()
    assert told == ["open aborted", "close aborted True"]


def test_symbols_are_named_up_to_a_bound_and_counted_all() -> None:
    """The first by name, so that two looks at the ledger agree; none means any symbol."""
    ledger = Times().ledger()
    gap = ledger.begin("expired")
    gap.name_symbols({f"S{number:04}" for number in range(5_000)})
    gap.name_uncertain(["BBB", "AAA"])
    (entry,) = ledger.entries()
    assert (entry["symbols"][:2], len(entry["symbols"]), entry["symbols_count"]) == (
        ["S0000", "S0001"], MAX_NAMES, 5_000,
    )  # fmt: skip
    assert (entry["uncertain"], entry["uncertain_count"]) == (["AAA", "BBB"], 2)
    gap.name_uncertain(None)
    assert (gap.uncertain, gap.uncertain_count) == (None, None)
