"""How many requests may start."""

from __future__ import annotations

import pytest

from mdp.cache.bucket import TokenBucket


def starts(bucket: TokenBucket, count: int) -> list[float]:
    """When each of some requests starts that are all there at 0 s."""
    now, found = 0.0, []
    for _ in range(count):
        while wait := bucket.take(now):
            now += wait
        found.append(now)
    return found


def test_a_burst_starts_at_once_and_the_rest_at_the_rate() -> None:
    """Five a second with a burst of five."""
    assert starts(TokenBucket(5, 5), 8) == pytest.approx([0, 0, 0, 0, 0, 0.2, 0.4, 0.6])


def test_five_a_minute_are_one_every_12_seconds() -> None:
    """The free plan: never two at once."""
    assert starts(TokenBucket(5 / 60, 5 / 60), 3) == pytest.approx([0, 12, 24])


def test_a_pause_saves_no_more_than_a_burst() -> None:
    """An hour of silence is no licence for thousands."""
    bucket = TokenBucket(10, 3)
    assert bucket.take(0) == 0
    assert [bucket.take(3_600) for _ in range(4)][:3] == [0, 0, 0]
    assert bucket.take(3_600) > 0


def test_who_reserves_starts_when_others_would_who_wait() -> None:
    """A token that is not there yet is taken all the same, and is nobody else's."""
    bucket = TokenBucket(5, 2)

    assert [bucket.reserve(0.0) for _ in range(5)] == pytest.approx([0, 0, 0.2, 0.4, 0.6])
    assert bucket.take(0.6) > 0
    assert bucket.take(0.8) == 0
