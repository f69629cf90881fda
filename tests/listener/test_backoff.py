"""The wait between attempts."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from mdp.listener.backoff import BASE_SECONDS, Backoff


class HighestRandom(random.Random):
    """Jitter that always picks the ceiling."""

    def uniform(self, a: float, b: float) -> float:
        return b


def test_ceiling_doubles_up_to_the_cap() -> None:
    """0.5 s, 1, 2, 4 ... and never more than configured."""
    backoff = Backoff(cap_seconds=5.0, rng=HighestRandom())
    assert [backoff.next_delay() for _ in range(6)] == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]


def test_reset_begins_again_at_the_shortest() -> None:
    """After stable data."""
    backoff = Backoff(cap_seconds=60.0, rng=HighestRandom())
    for _ in range(5):
        backoff.next_delay()
    backoff.reset()
    assert backoff.next_delay() == BASE_SECONDS


def test_jitter_is_full() -> None:
    """Uniform from zero to the ceiling, so that clients of one lost server spread out."""
    backoff = Backoff(cap_seconds=0.5, rng=random.Random(1))
    delays = [backoff.next_delay() for _ in range(2_000)]
    assert min(delays) < 0.01
    assert max(delays) > 0.49
    assert abs(sum(delays) / len(delays) - 0.25) < 0.02


@given(failures=st.integers(0, 100_000), cap=st.floats(0.001, 86_400), seed=st.integers(0, 100))
def test_delay_is_bounded_after_any_number_of_failures(failures: int, cap: float, seed: int) -> None:
    """A night of failures neither overflows nor waits for ever."""
    backoff = Backoff(cap_seconds=cap, rng=random.Random(seed))
    backoff.failures = failures
    assert 0.0 <= backoff.next_delay() <= cap
    assert backoff.failures == failures + 1
