"""Rates, failed logins, addresses: rules without sockets, with a clock of the test's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdp.wds.limits import ActionMeter, LoginThrottle, Networks, address_of


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_passes_then_a_steady_rate() -> None:
    """The bucket's content at once, then what flows in."""
    meter = ActionMeter(10.0, 20, 0.0)
    assert [meter.take(0.0) for _ in range(21)] == ["go"] * 20 + ["slow_down"]
    assert [meter.take(0.1), meter.take(0.1)] == ["go", "slow_down"]
    assert meter.take(0.2) == "go"


def test_a_pause_fills_the_bucket_and_no_more() -> None:
    """A day of silence is not a day's worth of messages."""
    meter = ActionMeter(10.0, 20, 0.0)
    assert [meter.take(86_400.0) for _ in range(21)].count("go") == 20


def test_who_goes_on_is_closed_and_who_pauses_is_not() -> None:
    """A hundred refusals in a row are too many; a pause for a tenth of the bucket starts anew."""
    meter = ActionMeter(10.0, 20, 0.0)
    verdicts = [meter.take(0.0) for _ in range(121)]
    assert verdicts == ["go"] * 20 + ["slow_down"] * 100 + ["close"]
    patient = ActionMeter(10.0, 20, 0.0)
    for _ in range(120):
        patient.take(0.0)
    assert patient.take(0.2) == "go"
    assert [patient.take(0.2) for _ in range(101)] == ["go"] + ["slow_down"] * 100


@given(st.lists(st.floats(0, 10), max_size=200))
def test_never_more_than_burst_and_rate(pauses: list[float]) -> None:
    """Whatever the times, actions are at most the bucket and what flowed in."""
    meter, now, passed = ActionMeter(5.0, 8, 0.0), 0.0, 0
    for pause in pauses:
        now += pause
        passed += meter.take(now) == "go"
    assert passed <= 8 + 5.0 * now + 1e-6


def test_failures_slow_an_address_down_twice_as_long_each() -> None:
    """Five are free, then 1 s, 2 s, 4 s ... up to a minute; another address is not concerned."""
    clock = Clock()
    throttle = LoginThrottle(clock)
    waits = []
    for _ in range(14):
        throttle.failed("10.0.0.1")
        waits.append(throttle.wait_seconds("10.0.0.1"))
    assert waits == [0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60]
    assert throttle.wait_seconds("10.0.0.2") == 0
    clock.now += 59
    assert throttle.wait_seconds("10.0.0.1") == 1
    clock.now += 1
    assert throttle.wait_seconds("10.0.0.1") == 0


def test_failures_are_forgotten_after_ten_minutes() -> None:
    """And take no memory any more."""
    clock = Clock()
    throttle = LoginThrottle(clock)
    for _ in range(9):
        throttle.failed("10.0.0.1")
    clock.now += 600
    assert throttle.wait_seconds("10.0.0.1") == 0
    assert len(throttle) == 0


def test_the_table_of_addresses_is_bounded() -> None:
    """The one that failed longest ago makes room, not the one that was seen first."""
    throttle = LoginThrottle(Clock(), max_addresses=3)
    for _ in range(6):
        throttle.failed("a")
    for address in ("b", "c", "a", "d"):
        throttle.failed(address)
    assert len(throttle) == 3
    assert throttle.wait_seconds("a") > 0


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("somewhere", "somewhere"),
        ("", ""),
    ],
)
def test_a_customer_counts_as_one_address(host: str, address: str) -> None:
    """With IPv6 one customer has 2^64 of them."""
    assert address_of(host) == address


def test_networks_know_their_addresses() -> None:
    """As they are counted; nothing that is no address lies in one."""
    networks = Networks(["127.0.0.0/8", "::1/128", "10.0.0.7"])
    for host in ("127.0.0.1", "127.9.9.9", "::1", "10.0.0.7", "::ffff:127.0.0.1"):
        assert address_of(host) in networks
    for host in ("10.0.0.8", "2001:db8::1", "", "localhost"):
        assert address_of(host) not in networks
    assert "127.0.0.1" not in Networks([])
    with pytest.raises(ValueError, match="not appear to be"):
        Networks(["everywhere"])
