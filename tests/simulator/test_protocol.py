"""The provider's conversation rules, without a socket."""

from __future__ import annotations

import json

import pytest

from mdp.simulator.protocol import Subscriptions, parse_request, status_frame


def test_each_pair_gets_one_answer_in_order() -> None:
    """A list of pairs is answered pair by pair."""
    answers = Subscriptions().subscribe("T.*, Q.AAPL,AM.BRK.B")
    assert [text for _, text in answers] == [
        "subscribed to: T.*",
        "subscribed to: Q.AAPL",
        "subscribed to: AM.BRK.B",
    ]
    assert {status for status, _ in answers} == {"success"}


@pytest.mark.parametrize("params", ["", ",", "T", "T.", ".AAPL", "XX.AAPL", "t.AAPL", "*", "T;AAPL"])
def test_what_is_no_pair_of_a_known_topic_is_not_answered(params: str) -> None:
    """Neither acknowledged nor refused, as at the provider."""
    subscriptions = Subscriptions()
    assert subscriptions.subscribe(params) == []
    assert len(subscriptions) == 0


def test_a_duplicate_is_not_answered() -> None:
    """Within one request and over several."""
    subscriptions = Subscriptions()
    assert len(subscriptions.subscribe("T.AAPL,T.AAPL")) == 1
    assert subscriptions.subscribe("T.AAPL") == []


def test_a_topic_outside_the_plan_is_refused_alone() -> None:
    """The other pairs of the same request go through."""
    subscriptions = Subscriptions(not_authorized=["LULD"])
    assert subscriptions.subscribe("T.*,LULD.*,Q.*") == [
        ("success", "subscribed to: T.*"),
        ("error", "not authorized"),
        ("success", "subscribed to: Q.*"),
    ]
    assert not subscriptions.wants("LULD", "AAPL")


def test_only_what_was_asked_for_is_wanted() -> None:
    """A topic's wildcard covers its symbols, a pair covers itself, `A` is not `AM`."""
    subscriptions = Subscriptions()
    subscriptions.subscribe("A.*,Q.AAPL")
    assert subscriptions.wants("A", "MSFT")
    assert subscriptions.wants("Q", "AAPL")
    assert not subscriptions.wants("AM", "MSFT")
    assert not subscriptions.wants("Q", "MSFT")
    assert not subscriptions.wants("T", "AAPL")


def test_unsubscribing_ends_it_and_is_answered_once() -> None:
    """A pair that is not there gets no answer."""
    subscriptions = Subscriptions()
    subscriptions.subscribe("T.*,T.AAPL")
    assert subscriptions.unsubscribe("T.*") == [("success", "unsubscribed to: T.*")]
    assert subscriptions.unsubscribe("T.*") == []
    assert subscriptions.wants("T", "AAPL")
    assert not subscriptions.wants("T", "MSFT")


def test_nameless_events_go_to_wildcards_only() -> None:
    """Unknown and malformed events cannot be asked for by name."""
    subscriptions = Subscriptions()
    subscriptions.subscribe("T.AAPL")
    assert not subscriptions.wants("XT", "AAPL")
    assert not subscriptions.wants_all(["XT"])
    subscriptions.subscribe("Q.*")
    assert subscriptions.wants("XT", "AAPL")
    assert subscriptions.wants_all(["XT", "Q"])
    assert not subscriptions.wants_all(["T", "Q"])


def test_equal_subscriptions_have_equal_keys_in_any_order() -> None:
    """So that their frames are encoded once."""
    one, two = Subscriptions(), Subscriptions()
    one.subscribe("T.*,Q.*")
    two.subscribe("Q.*")
    assert one.key != two.key
    two.subscribe("T.*")
    assert one.key == two.key


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"action":1}', '{"action":"auth","params":5}', b"\xff\xfe", "nul"]
)
def test_nonsense_is_no_request(text: str | bytes) -> None:
    """Whatever a client sends, parsing answers None."""
    assert parse_request(text) is None


def test_status_messages_come_as_an_array_of_objects() -> None:
    """The shape of the provider's status frames."""
    assert json.loads(status_frame([("success", "subscribed to: T.*")])) == [
        {"ev": "status", "status": "success", "message": "subscribed to: T.*"}
    ]
