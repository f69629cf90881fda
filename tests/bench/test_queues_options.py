"""What `mdp bench queues` takes and refuses."""

from __future__ import annotations

import msgspec
import pytest

from mdp.bench.queues_options import QueuesOptions, check, replicas


def test_each_further_number_of_replicas_is_one_run() -> None:
    """One of a kind is changed at a time, so that the difference is its cost."""
    assert QueuesOptions(processors=[1, 2, 4], wds=[1, 3]).shapes() == [(1, 1), (2, 1), (4, 1), (1, 3)]
    assert QueuesOptions().shapes() == [(1, 1)]


def test_replicas_are_numbers_each_once() -> None:
    """In the order in which they were given."""
    assert replicas("4,1, 2,1") == [4, 1, 2]


@pytest.mark.parametrize("text", ["", "0", "17", "1,,2", "two", "1.5", "-1"])
def test_other_replicas_are_refused(text: str) -> None:
    """With what was found and what is allowed."""
    with pytest.raises(ValueError, match="allowed: numbers from 1 to 16"):
        replicas(text)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seconds", 0),
        ("rate", -1),
        ("latency_rate", 1e8),
        ("symbols", 1),
        ("clients", 0),
        ("credit_bytes", 1 << 26),
        ("cores", 0),
    ],
)
def test_what_cannot_be_measured_is_refused(name: str, value: float) -> None:
    """One line that names the option."""
    check(QueuesOptions())
    with pytest.raises(ValueError, match=f"^{name} must be from"):
        check(msgspec.structs.replace(QueuesOptions(), **{name: value}))
