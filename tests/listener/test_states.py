"""The state machine of a feed."""

from __future__ import annotations

import itertools

import pytest

from mdp.listener.states import FeedState, StateChange, StateMachine


def machine_in(state: FeedState) -> StateMachine:
    """A machine that was led to a state along allowed steps."""
    paths = {
        FeedState.IDLE: [],
        FeedState.CONNECTING: [FeedState.CONNECTING],
        FeedState.AUTHENTICATING: [FeedState.CONNECTING, FeedState.AUTHENTICATING],
        FeedState.LIVE: [FeedState.CONNECTING, FeedState.AUTHENTICATING, FeedState.LIVE],
        FeedState.STALLED: [
            FeedState.CONNECTING,
            FeedState.AUTHENTICATING,
            FeedState.LIVE,
            FeedState.STALLED,
        ],
        FeedState.COOLING_DOWN: [FeedState.CONNECTING, FeedState.COOLING_DOWN],
        FeedState.FAILED: [FeedState.FAILED],
    }
    machine = StateMachine()
    for step in paths[state]:
        machine.to(step, "")
    return machine


def test_callbacks_hear_each_change_once_with_both_states_and_the_time() -> None:
    """A renewed detail is no change."""
    now = itertools.count(1_000)
    machine = StateMachine(wall_ms=lambda: next(now))
    heard: list[StateChange] = []
    machine.on_change.append(heard.append)

    machine.to(FeedState.CONNECTING, "first")
    machine.to(FeedState.CONNECTING, "second")

    assert heard == [StateChange(FeedState.IDLE, FeedState.CONNECTING, "first", 1_001)]
    assert machine.detail == "second"
    assert machine.since_ms == 1_001


def test_callback_that_raises_loses_only_itself() -> None:
    """The machine and the other callbacks go on."""
    machine = StateMachine()
    heard: list[StateChange] = []

    def broken(change: StateChange) -> None:
        raise RuntimeError("broken")

    machine.on_change.extend([broken, heard.append])
    machine.to(FeedState.CONNECTING, "")
    assert len(heard) == 1
    assert machine.state is FeedState.CONNECTING


@pytest.mark.parametrize("state", list(FeedState))
def test_every_state_can_be_stopped(state: FeedState) -> None:
    """An operator is never refused."""
    machine = machine_in(state)
    machine.to(FeedState.IDLE, "stopped")
    assert machine.state is FeedState.IDLE


@pytest.mark.parametrize(
    ("state", "target"),
    [
        (FeedState.IDLE, FeedState.LIVE),
        (FeedState.CONNECTING, FeedState.LIVE),
        (FeedState.CONNECTING, FeedState.STALLED),
        (FeedState.AUTHENTICATING, FeedState.STALLED),
        (FeedState.STALLED, FeedState.LIVE),
        (FeedState.COOLING_DOWN, FeedState.LIVE),
        (FeedState.FAILED, FeedState.LIVE),
    ],
)
def test_steps_that_make_no_sense_are_refused(state: FeedState, target: FeedState) -> None:
    """Live without authentication, a stall without data: mistakes of the caller."""
    machine = machine_in(state)
    with pytest.raises(ValueError, match=f"from {state.value} to {target.value}"):
        machine.to(target, "")
    assert machine.state is state


def test_names_are_those_of_the_contract() -> None:
    """Metrics, health and clients know these words."""
    assert [state.value for state in FeedState] == [
        "idle",
        "connecting",
        "authenticating",
        "live",
        "stalled",
        "cooling_down",
        "failed",
    ]
