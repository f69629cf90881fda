"""A partition's gap ledger: what the listener says, what it marks, and how it survives a hand-over."""

from __future__ import annotations

from typing import Any

from mdp.analyzers.state import Market
from mdp.listener.announcement import Announcement
from mdp.listener.gaps import Gap
from mdp.processor.losses import TrustKeeper
from mdp.processor.partition_gaps import PartitionGaps
from tests.analyzers.rig import at

NOON = at(12)
GAP: dict[str, Any] = {
    "number": 1,
    "reason": "error",
    "detail": "gone",
    "start_ms": 999_000,
    "market_start_ms": NOON - 3_000,
    "end_ms": None,
}
ENDED = {**GAP, "end_ms": 1_000_500}


def said(*gaps: dict[str, Any], ts: int = 1_000_000) -> Announcement:
    return Announcement(ts=ts, ledger=list(gaps))


class Rig:
    """One partition, and whoever repairs."""

    def __init__(self, *, now_ms: float = NOON, heard: bool = True, live: bool = True) -> None:
        self.market = Market()
        if now_ms:
            self.market.clock.set(now_ms)
        self.gaps = PartitionGaps(self.market, None)  # type: ignore[arg-type]
        self.trust = TrustKeeper(self.market, None)  # type: ignore[arg-type]
        self.gaps.owns = lambda symbol: symbol < "M"
        self.wanted: list[tuple[Gap, int, float]] = []
        if live:
            self.gaps.repair_by(self)
        if heard:
            self.hear()

    def want(self, gap: Gap, number: int, until_ms: float) -> None:
        """As the repairer that is told."""
        gap.repair = "running"
        self.wanted.append((gap, number, until_ms))

    def hear(self, *gaps: dict[str, Any], silent: bool = False, ts: int = 1_000_000) -> None:
        self.gaps.hear(said(*gaps, ts=ts), silent=silent)
        self.gaps.losses.look()

    def move(self, ms: float) -> None:
        """Events come."""
        self.market.clock.now_ms += ms

    def since(self, symbol: str = "AAA") -> float | None:
        return self.market.trust.uncertain_since(symbol)

    def handed_over(self, **settings: Any) -> Rig:
        """Another process takes the state back, as from a checkpoint."""
        other = Rig(now_ms=self.market.clock.now_ms, heard=False, live=False, **settings)
        ledger, trust = list(self.gaps.dump()), list(self.trust.dump())
        other.gaps.hydrate(ledger)
        other.trust.hydrate(trust)
        return other


def test_an_outage_marks_the_market_and_is_repaired_once_events_come_again() -> None:
    """From the listener's market time on, to the first event after the listener said that it is over."""
    rig = Rig()
    rig.hear(GAP)
    assert rig.since() == NOON - 3_000
    rig.hear(GAP)
    assert (len(rig.gaps.entries()), rig.wanted) == (1, [])
    rig.hear(ENDED)
    assert rig.wanted == []
    rig.move(40_000)
    rig.hear(ENDED)
    ((gap, number, until_ms),) = rig.wanted
    assert (gap.reason, gap.detail, gap.market_start_ms) == ("error", "gone", NOON - 3_000)
    assert (number, until_ms) == (rig.market.trust.number, NOON + 40_000)
    rig.hear(ENDED)
    assert len(rig.wanted) == 1
    assert rig.gaps.entries()[0]["of"] == [(1, 999_000, "error")]


def test_an_outage_that_was_over_before_we_heard_of_it_counts() -> None:
    """The events that came meanwhile prove nothing about what was before them."""
    rig = Rig()
    rig.hear(ENDED)
    assert rig.since() == NOON - 3_000
    rig.move(1_000)
    rig.hear(ENDED)
    assert [until for _, _, until in rig.wanted] == [NOON + 1_000]


def test_outages_that_follow_each_other_at_once_are_one() -> None:
    """A connection that flaps is not repaired for each of its attempts."""
    rig = Rig()
    second = {**GAP, "number": 2, "start_ms": 1_000_600}
    rig.hear(ENDED, second)
    assert len(rig.gaps.entries()) == 1
    rig.hear(ENDED, {**second, "end_ms": 1_000_900})
    rig.move(1_000)
    rig.hear(ENDED, {**second, "end_ms": 1_000_900})
    assert len(rig.wanted) == 1
    assert len(rig.gaps.entries()[0]["of"]) == 2


def test_a_listener_that_falls_silent_is_an_outage_until_it_speaks() -> None:
    """What its successor says of the same time is no second one."""
    rig = Rig()
    rig.hear(silent=True)
    assert rig.since() == NOON
    takeover = {**GAP, "reason": "takeover"}
    rig.hear(takeover)
    assert rig.since() == NOON - 3_000
    rig.hear({**takeover, "end_ms": 1_000_500})
    rig.move(5_000)
    rig.hear({**takeover, "end_ms": 1_000_500})
    assert [gap.reason for gap, _, _ in rig.wanted] == ["silent"]


def test_before_the_first_event_nothing_can_be_incomplete() -> None:
    """And what was over by then is not entered later."""
    rig = Rig(now_ms=0, heard=False)
    rig.hear(ENDED)
    rig.market.clock.set(NOON)
    rig.hear(ENDED)
    assert not rig.market.trust
    assert rig.gaps.entries() == []


def test_what_ended_long_before_we_came_is_in_the_state_we_have() -> None:
    """A checkpoint of an older version says nothing of the listener's ledger; a present outage counts."""
    rig = Rig(heard=False)
    rig.hear(ENDED, {**GAP, "number": 2}, ts=2_000_000)
    assert len(rig.gaps.entries()) == 1


def test_a_gap_without_a_time_or_of_yesterday_begins_today() -> None:
    """`uncertain_since` is a time of this trading day, and not in the future."""
    for start, expected in ((None, NOON), (1, at(4)), (NOON + 9_000, NOON)):
        rig = Rig()
        rig.hear({**GAP, "market_start_ms": start})
        assert rig.since() == expected


def test_what_the_listener_dropped_marks_those_of_ours_that_it_names() -> None:
    """Where it does not name all of them: everybody."""
    loss = {**GAP, "reason": "expired", "symbols": ["AAA", "ZZZ"], "symbols_count": 2, "events": 2}
    rig = Rig()
    rig.hear(loss)
    assert rig.market.trust.symbols() == ["AAA"]
    rig.hear(loss)
    assert rig.market.losses == 1
    rig.hear({**loss, "symbols_count": 700, "events": 900})
    assert rig.since("BBB") == NOON - 3_000
    others = Rig()
    others.hear({**loss, "symbols": ["ZZZ"], "symbols_count": 1})
    others.hear({**loss, "number": 2, "symbols": [], "symbols_count": 0})
    assert not others.market.trust
    assert others.gaps.entries() == []


def test_shed_frames_are_a_loss_of_any_symbol() -> None:
    """They were not decoded: the listener cannot name anybody."""
    rig = Rig()
    rig.hear({**GAP, "reason": "shed", "symbols": None, "symbols_count": None, "events": 5})
    assert rig.since("ANY") == NOON - 3_000
    assert rig.gaps.entries()[0]["of"] == [(1, 999_000, "shed")]


def test_damaged_entries_are_left_out() -> None:
    """Whoever wrote them."""
    rig = Rig()
    rig.hear({"number": "x"}, {**GAP, "start_ms": None}, {})
    assert rig.gaps.entries() == []


def test_a_successor_goes_on_with_an_outage_that_lasts() -> None:
    """It hears the end, and repairs all of it; the same entry."""
    before = Rig()
    before.hear(GAP)
    rig = before.handed_over()
    rig.gaps.repair_by(rig)
    rig.hear(GAP)
    assert rig.wanted == []
    rig.hear(ENDED)
    rig.move(9_000)
    rig.hear(ENDED)
    ((gap, number, until_ms),) = rig.wanted
    assert (gap.number, gap.market_start_ms, until_ms) == (1, NOON - 3_000, NOON + 9_000)
    assert number == rig.market.trust.number


def test_a_successor_begins_an_unfinished_repair_again() -> None:
    """And not one that is done or was given up."""
    before = Rig()
    before.hear(ENDED)
    before.move(2_000)
    before.hear(ENDED)
    before.gaps.losses.note("aggregates", "missed", 3, None)
    done = before.gaps.ledger.begin("expired")
    done.repair = "done"
    rig = before.handed_over()
    assert rig.since() == NOON - 3_000
    rig.move(1_000)
    rig.gaps.repair_by(rig)
    assert [gap.reason for gap, _, _ in rig.wanted] == ["error", "missed"]
    assert {number for _, number, _ in rig.wanted} == {before.market.trust.number}
    assert {until for _, _, until in rig.wanted} == {NOON + 3_000}
    rig.hear(ENDED)
    assert len(rig.gaps.entries()) == 3, "it was heard by the predecessor"


def test_a_loss_goes_into_the_checkpoint_that_is_behind_it() -> None:
    """Its cursors are past what was lost: nobody else would find it."""
    before = Rig()
    before.gaps.losses.note("aggregates", "missed", 3, None)
    assert before.handed_over().since("ANY") == NOON


def test_prices_of_another_listener_are_uncertain_before_it_says_anything() -> None:
    """Its first entries come before its word; the word ends the outage, and it is repaired."""
    rig = Rig()
    rig.gaps.another_writes()
    assert rig.since() == NOON
    rig.move(1_000)
    rig.hear({**ENDED, "reason": "takeover"})
    assert rig.gaps.ledger.current is None
    rig.move(20_000)
    rig.gaps.losses.look()
    assert rig.since() is not None
    assert [gap["reason"] for gap in rig.gaps.entries()] == ["takeover"]


def test_the_first_listener_of_all_takes_nothing_over() -> None:
    """Where nothing was received yet, nothing can be incomplete."""
    rig = Rig(now_ms=0)
    rig.gaps.another_writes()
    assert rig.gaps.ledger.current is None


def test_what_an_entry_says_of_lost_bars_counts_at_once() -> None:
    """Before the listener announces it, which is then no second entry; both are repaired together."""
    rig = Rig()
    rig.gaps.bars_lost({"expired": ["AAA", "BBB"]})
    assert [rig.since(name) for name in ("AAA", "CCC")] == [NOON, None]
    loss = {**GAP, "reason": "expired", "symbols": ["AAA", "BBB", "ZZZ"], "symbols_count": 3, "events": 5}
    rig.move(1_000)
    rig.hear(loss)
    (entry,) = rig.gaps.entries()
    assert (entry["reason"], entry["symbols"]) == ("expired", ["AAA", "BBB"])
    assert entry["of"] == [(1, 999_000, "expired")]
    assert rig.since("AAA") == NOON - 3_000


def test_frames_that_a_listener_shed_may_have_been_anybodys() -> None:
    """As where they are announced; a reason of a newer listener is taken for one that we know."""
    rig = Rig()
    rig.gaps.bars_lost({"shed": None})
    rig.gaps.bars_lost({"melted": ["AAA"]})
    rig.gaps.losses.look()
    assert rig.since("CCC") == NOON
    assert [entry["reason"] for entry in rig.gaps.entries()] == ["shed", "dropped"]
