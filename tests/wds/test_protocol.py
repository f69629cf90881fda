"""What a client may say, and every answer, without a socket."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdp.wds import protocol
from mdp.wds.protocol import Auth, Get, Refusal, Subscribe, Unsubscribe, parse

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def code_of(text: str) -> str:
    """The code of the refusal that a text gets."""
    refusal = parse(text)
    assert isinstance(refusal, Refusal)
    return refusal.code


def test_the_four_actions_are_understood() -> None:
    """Each action of the contract gives its command."""
    assert parse('{"action":"auth","api_key":"k"}') == Auth("k")
    assert parse('{"action":"subscribe","feed":"quote:AAPL"}') == Subscribe("quote:AAPL")
    assert parse('{"action":"unsubscribe","feed":"quote:*"}') == Unsubscribe("quote:*")
    assert parse('{"action":"get","cache":"halts","limit":50}') == Get("halts", 50)


def test_further_members_are_ignored() -> None:
    """A newer client may send more than we know."""
    assert parse('{"action":"subscribe","feed":"halts","id":7}') == Subscribe("halts")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "not_json"),
        ("{", "not_json"),
        ("NaN", "not_json"),
        ('{"action":"get"} x', "not_json"),
        ("[" * 60_000, "not_json"),
        ("[]", "not_object"),
        ('"subscribe"', "not_object"),
        ("null", "not_object"),
        ('{"action":"subscribe"}', "bad_feed"),
        ('{"action":"subscribe","feed":7}', "bad_feed"),
        ('{"action":"subscribe","feed":["quote:AAPL"]}', "bad_feed"),
        ('{"action":"unsubscribe","feed":null}', "bad_feed"),
        ('{"action":"subscribe","feed":""}', "unknown_feed"),
        ('{"action":"subscribe","feed":"quotes"}', "unknown_feed"),
        ('{"action":"subscribe","feed":"quote:AA*"}', "unknown_feed"),
        ('{"action":"subscribe","feed":"quote:A B"}', "unknown_feed"),
        ('{"action":"subscribe","feed":"internal:keys"}', "unknown_feed"),
        ('{"action":"unsubscribe","feed":"nothing"}', "unknown_feed"),
        ('{"action":"get"}', "bad_feed"),
        ('{"action":"get","cache":{}}', "bad_feed"),
        ('{"action":"get","cache":"quote:*"}', "wildcard_in_get"),
        ('{"action":"get","cache":"../etc/passwd"}', "unknown_feed"),
        ('{"action":"get","cache":"halts","limit":-1}', "bad_limit"),
        ('{"action":"get","cache":"halts","limit":1.5}', "bad_limit"),
        ('{"action":"get","cache":"halts","limit":"5"}', "bad_limit"),
        ('{"action":"get","cache":"halts","limit":true}', "bad_limit"),
    ],
)
def test_nonsense_is_refused_with_its_code(text: str, code: str) -> None:
    """Every kind of nonsense has a code of the table, and an answer that says more."""
    assert code_of(text) == code
    refusal = parse(text)
    assert isinstance(refusal, Refusal)
    answer = json.loads(refusal.json())
    assert answer["status"] == "error"
    assert answer["code"] in protocol.ERRORS
    assert answer["message"]


@pytest.mark.parametrize("text", ["{}", '{"action":"dance"}', '{"action":7}', '{"action":["get"]}'])
def test_an_unknown_action_gets_version_ones_answer(text: str) -> None:
    """Existing clients know `{"status":"invalid action"}`."""
    refusal = parse(text)
    assert isinstance(refusal, Refusal)
    assert refusal.json() == b'{"status":"invalid action"}'


def test_a_binary_message_is_refused_whatever_it_holds() -> None:
    """JSON in a binary message is not read either: the contract says text."""
    assert parse(b'{"action":"get","cache":"halts"}') == Refusal("binary")


@pytest.mark.parametrize("limit", ["null", "0"])
def test_no_limit_means_all(limit: str) -> None:
    """An absent, null or zero limit is no limit."""
    assert parse(f'{{"action":"get","cache":"halts","limit":{limit}}}') == Get("halts", 0)
    assert parse('{"action":"get","cache":"halts"}') == Get("halts", 0)


def test_a_huge_limit_is_as_good_as_none() -> None:
    """A limit that no machine integer holds does no harm."""
    command = parse('{"action":"get","cache":"halts","limit":' + "9" * 18 + "}")
    assert isinstance(command, Get)
    assert 10_000 <= command.limit < 2**31


def test_a_key_of_another_type_is_no_key() -> None:
    """`auth` without a string is an auth with the wrong key, not an error of its own."""
    assert parse('{"action":"auth"}') == Auth("")
    assert parse('{"action":"auth","api_key":5}') == Auth("")


def test_a_key_is_never_shown() -> None:
    """A command that ends up in a log or traceback does not carry its secret there."""
    assert "hunter2" not in repr(parse('{"action":"auth","api_key":"hunter2"}'))


def test_a_long_name_is_cut_in_the_answer() -> None:
    """An answer never grows with what was sent."""
    refusal = parse(json.dumps({"action": "subscribe", "feed": "é" * 50_000}))
    assert isinstance(refusal, Refusal)
    assert len(refusal.json()) < 1_000


def test_answers_have_the_contracts_form() -> None:
    """Names and order as in the contract's table."""
    assert protocol.subscribed("quote:A") == b'{"status":"subscribed","feed":"quote:A"}'
    assert protocol.unsubscribed("quote:A") == b'{"status":"unsubscribed","feed":"quote:A"}'
    assert protocol.got("halts", b"[1]") == b'{"cache":"halts","data":[1]}'
    assert json.loads(protocol.error("bad_limit"))["message"] == protocol.ERRORS["bad_limit"]


@given(st.text())
def test_any_text_gives_a_command_or_a_refusal(text: str) -> None:
    """Nothing a client writes raises."""
    result = parse(text)
    if isinstance(result, Refusal):
        json.loads(result.json())


@given(
    st.dictionaries(
        st.sampled_from(["action", "feed", "cache", "limit", "api_key", "x"]),
        st.sampled_from(["auth", "subscribe", "unsubscribe", "get", "quote:AAPL", "quote:*", "halts"])
        | JSON_VALUES,
    )
)
def test_any_object_gives_a_command_or_a_refusal(message: dict[str, object]) -> None:
    """Nor does any combination of the right members with the wrong values."""
    result = parse(json.dumps(message))
    if isinstance(result, Refusal):
        assert json.loads(result.json())["status"] in ("error", "invalid action")
    elif isinstance(result, Get):
        assert result.limit >= 0
