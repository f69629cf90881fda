"""A partition's clock: the listener's word counts, a stray event does not."""

from __future__ import annotations

from mdp.processor.led_clock import LedClock

OPEN = 1_773_149_400_000  # 2026-03-10 09:30 New York
HOUR = 3_600_000
DAY = 86_400_000


def test_it_goes_by_its_own_events_until_the_listener_says_its_time() -> None:
    """An older listener says nothing."""
    clock = LedClock()
    assert clock.observe(OPEN, [("A", OPEN)])
    clock.observe(OPEN + 1_000, [("A", OPEN + 1_000)])
    assert clock.now_ms == OPEN + 1_000


def test_the_listener_moves_it_by_any_time_and_never_back() -> None:
    """Hours without an event of the partition, or a night."""
    clock = LedClock()
    assert clock.lead(OPEN), "the first day"
    assert not clock.lead(OPEN + 3 * HOUR)
    assert not clock.lead(OPEN + HOUR)
    assert clock.now_ms == OPEN + 3 * HOUR
    assert clock.lead(OPEN + DAY), "another day"


def test_events_near_the_listeners_time_move_it_and_strays_do_not() -> None:
    """However many of them agree: of one partition they may all be of one symbol."""
    clock = LedClock()
    clock.lead(OPEN)
    for n in range(20):
        stray = OPEN + HOUR + n * 1_000
        assert not clock.observe(stray, [(f"S{n}", stray), ("B", OPEN + n)])
    assert clock.now_ms == OPEN + 19
