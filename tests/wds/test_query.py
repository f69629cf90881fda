"""Query parameters as options of version 2."""

from __future__ import annotations

from http import HTTPStatus

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdp.wds import protocol, query
from mdp.wds.query import Problem
from mdp.wds.views import RELATIONS, Options
from tests.wds.signers import hs256


def test_parameters_become_the_options_of_version_2() -> None:
    """So that a stream and a subscription with the same options share a view."""
    found = query.stream(
        [
            ("feeds", "quote:A,scanners:*"),
            ("limit", "5"),
            ("fields", "b,a"),
            ("where", "a>=1.5"),
            ("where", "b=x=y"),
            ("full", "true"),
        ]
    )
    assert found.feeds == ("quote:A", "scanners:*")
    assert found.options == Options(True, 5, ("a", "b"), (("a", ">=", 1.5), ("b", "=", "x=y")))
    assert found.resume == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=1", ("a", "=", 1)),
        ("a!=-2.5e1", ("a", "!=", -25)),
        ("a<=true", ("a", "<=", True)),
        ('a="1"', ("a", "=", "1")),
        ("a=AAPL", ("a", "=", "AAPL")),
        ("a=NaN", ("a", "=", "NaN")),
        ("a=null", ("a", "=", "null")),
        ("a<", ("a", "<", "")),
        ("a=[1]", ("a", "=", "[1]")),
        ("a>1e999", ("a", ">", "1e999")),
    ],
)
def test_a_comparison_holds_a_number_a_truth_value_or_a_text(text: str, expected: object) -> None:
    """Whatever is no JSON of these kinds is taken as a text."""
    (found,) = query.snapshot("quote:A", [("where", text)]).options.where
    assert found == expected
    assert isinstance(found[2], bool) is (text == "a<=true")  # 1 would be equal to it


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [
        ("limit", "-1", "bad_limit"),
        ("limit", "1.5", "bad_limit"),
        ("limit", "", "bad_limit"),
        ("limit", "٣", "bad_limit"),
        ("limit", "9" * 19, "bad_limit"),
        ("where", "close", "bad_option"),
        ("where", ">1", "bad_option"),
        ("where", "close=" + "x" * 65, "bad_option"),
        ("fields", "x" * 65, "bad_option"),
        ("fields", ",".join("abc" * 40), "bad_option"),
        ("full", "true", "unknown_parameter"),
        ("feeds", "quote:B", "unknown_parameter"),
        ("<script>", "1", "unknown_parameter"),
    ],
)
def test_what_is_wrong_with_a_parameter_is_named(name: str, text: str, code: str) -> None:
    """By its code; what the client sent is repeated shortened and as ASCII only."""
    with pytest.raises(Problem) as caught:
        query.snapshot("quote:A", [(name, text)])
    assert caught.value.code == code
    assert caught.value.status == HTTPStatus.BAD_REQUEST
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "name", ["key", "API_KEY", "apikey", "token", "access_token", "jwt", "Authorization"]
)
def test_secrets_in_a_url_are_refused_by_their_names(name: str) -> None:
    """With the advice to revoke them; before anything else is looked at."""
    with pytest.raises(Problem, match="revoke it") as caught:
        query.refuse_secrets(["feeds", name])
    assert caught.value.code == "key_in_url"


def test_a_bearer_is_a_token_or_a_key() -> None:
    """Told apart by their form; never shown."""
    token = hs256()
    assert query.credentials(f"Bearer {token}") == protocol.Auth("", token)
    assert query.credentials("bearer  mdp_ab_c.d-e") == protocol.Auth("mdp_ab_c.d-e")
    assert query.credentials(None) == protocol.Auth("")
    assert token not in repr(query.credentials(f"Bearer {token}"))


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic secret", "secret"])
def test_another_scheme_is_refused_without_repeating_it(header: str) -> None:
    """It may hold a password."""
    with pytest.raises(Problem) as caught:
        query.credentials(header)
    assert caught.value.status == HTTPStatus.UNAUTHORIZED
    assert "secret" not in str(caught.value)


names = st.sampled_from(["feeds", "limit", "fields", "where", "full"]) | st.text(max_size=8)
values = (
    st.text(max_size=30)
    | st.sampled_from(["quote:A", "alerts,halts", "*", "1", "0", "true"])
    | st.builds("{}{}{}".format, st.text(max_size=5), st.sampled_from(RELATIONS), st.integers() | st.floats())
)


@given(st.lists(st.tuples(names, values), max_size=6), st.text(max_size=20))
def test_any_parameters_are_a_request_or_a_problem(parameters: list[tuple[str, str]], last: str) -> None:
    """And every problem can be sent."""
    try:
        found = query.stream(parameters, last)
    except Problem as problem:
        answer = msgspec.json.decode(problem.json())
        assert (answer["status"], answer["code"] in query.ERRORS) == ("error", True)
    else:
        hash(found.options)
        assert found.feeds
