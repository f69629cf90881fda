"""When an endpoint is left alone, and how it comes back."""

from __future__ import annotations

from mdp.cache.breaker import CLOSED, HALF_OPEN, OPEN, Breaker


def opened() -> Breaker:
    """One that has just opened, at 100 s."""
    breaker = Breaker(failures=3, seconds=5, max_seconds=12)
    for _ in range(3):
        assert breaker.allow(100) == 0
        breaker.failed(100)
    return breaker


def test_failures_in_a_row_open_it_and_a_success_between_does_not() -> None:
    """An endpoint that now and then fails is asked as before."""
    breaker = Breaker(failures=3, seconds=5)
    for _ in range(5):
        breaker.failed(0)
        breaker.failed(0)
        breaker.succeeded()
    assert breaker.state == CLOSED
    assert opened().state == OPEN


def test_open_it_says_how_long_to_wait() -> None:
    """And lets nobody through before."""
    breaker = opened()
    assert breaker.allow(101) == 4
    assert breaker.allow(104.5) == 0.5


def test_after_the_wait_one_may_try_and_decides_for_all() -> None:
    """The others wait for its answer."""
    breaker = opened()
    assert breaker.allow(105) == 0
    assert breaker.state == HALF_OPEN
    assert breaker.allow(105) > 0
    breaker.succeeded()
    assert breaker.state == CLOSED
    assert breaker.allow(105) == 0
    breaker.failed(105)
    assert breaker.state == CLOSED


def test_each_failed_trial_doubles_the_wait_up_to_a_limit() -> None:
    """5, 10, 12, 12 seconds."""
    breaker = opened()
    now = 105.0
    for expected in (10, 12, 12):
        assert breaker.allow(now) == 0
        breaker.failed(now)
        assert breaker.allow(now) == expected
        now += expected
    assert breaker.opened == 4


def test_a_trial_that_was_given_up_lets_the_next_one_try() -> None:
    """A cancelled asker leaves no endpoint closed for ever."""
    breaker = opened()
    assert breaker.allow(105) == 0
    breaker.gave_up()
    assert breaker.allow(105) == 0


def test_failures_of_those_under_way_when_it_opened_change_nothing() -> None:
    """They do not prolong it."""
    breaker = opened()
    breaker.failed(103)
    assert breaker.allow(104) == 1
    assert breaker.opened == 1
