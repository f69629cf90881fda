"""Which feeds a key or token opens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdp.feeds import FAMILIES, match
from mdp.wds.permissions import ALL_FEEDS, ANONYMOUS, EVERYTHING, MAX_PATTERNS, Identity, Permission

NAMES = [family.feed("AAPL" if family.hole else "") for family in FAMILIES]
PATTERNS = [
    *NAMES,
    "quote:*",
    "quote:MSFT",
    "stocks:*:AAPL",
    "stocks:agg:*",
    "scanners:*",
    "*",
    "*:*",
    "*:AAPL",
]
PATTERNS += ["scanners:*:events", "tta:*:widget", "*:top_gainers", "news:*:latest", "halts:*"]


@pytest.mark.parametrize(
    ("granted", "asked"),
    [
        (["quote:*"], "quote:AAPL"),
        (["quote:*"], "quote:*"),
        (["quote:AAPL"], "quote:AAPL"),
        (["quote:X:BTCUSD"], "quote:X:BTCUSD"),
        (["scanners:*"], "scanners:top_gainers"),
        (["scanners:*"], "scanners:market_breadth"),
        (["stocks:*:AAPL"], "stocks:trades:AAPL"),
        (
            ["stocks:agg:AAPL", "stocks:trades:AAPL", "stocks:quotes:AAPL", "stocks:luld:AAPL"],
            "stocks:*:AAPL",
        ),
        (["**"], "alerts"),
        (["**"], "*:*"),
    ],
)
def test_what_is_covered_may_be_read(granted: list[str], asked: str) -> None:
    """By name, by a wildcard, by several patterns together."""
    assert Permission(granted).allows(asked)


@pytest.mark.parametrize(
    ("granted", "asked"),
    [
        ([], "quote:AAPL"),
        (["quote:AAPL"], "quote:MSFT"),
        (["quote:AAPL"], "quote:*"),
        (["quote:AAPL"], "quote:aapl"),
        (["quote:*"], "*:AAPL"),
        (["quote:*"], "stocks:quotes:AAPL"),
        (["stocks:agg:*", "stocks:trades:*"], "stocks:*:AAPL"),
        (["scanners:top_gainers"], "scanners:*"),
        (["scanners:*"], "scanners:market_breadth:events"),
        (["scanners:market_breadth:events"], "scanners:market_breadth"),
        (["halts"], "halts:active"),
        (["*"], "quote:AAPL"),  # as in a subscription: names of one segment
        (["**"], "no:such:feed"),
        (["**"], "**"),
        (["**"], "../keys"),
        (["**"], ""),
    ],
)
def test_what_is_not_covered_as_a_whole_may_not(granted: list[str], asked: str) -> None:
    """A part is not enough, and what is no feed is permitted to nobody."""
    assert not Permission(granted).allows(asked)


@given(st.lists(st.sampled_from(PATTERNS), max_size=4), st.sampled_from(PATTERNS))
def test_a_permitted_wildcard_hides_nothing_forbidden(granted: list[str], asked: str) -> None:
    """Whatever a permitted subscription delivers is permitted by name, too."""
    permission = Permission(granted)
    if not permission.allows(asked):
        return
    for target in match(asked):
        symbols = ["AAPL", "MSFT", "top_gainers"] if target.symbol is None else [target.symbol]
        for symbol in symbols:
            feed = target.family.feed(symbol)
            assert permission.allows(feed) or not match(feed)


@given(st.text(max_size=40))
def test_any_text_is_a_pattern_or_refused(text: str) -> None:
    """Nothing but ValueError, and nothing of a stranger's text unescaped in it."""
    if text != ALL_FEEDS and not match(text):
        with pytest.raises(ValueError, match="no feed matches") as refused:
            Permission([text])
        assert str(refused.value).isascii()


def test_patterns_are_bounded() -> None:
    """A token does not make the service hold any number of them."""
    with pytest.raises(ValueError, match="at most"):
        Permission(["halts"] * (MAX_PATTERNS + 1))


def test_an_identity_is_counted_by_kind_and_id() -> None:
    """A key and a token's subject of one name are not the same account; nobody is no account."""
    assert Identity("key", "a").account != Identity("token", "a").account
    assert ANONYMOUS.account == Identity("configured").account == ""
    assert ANONYMOUS.permission is EVERYTHING
    assert repr(Identity("key", "a")) == "Identity('key', 'a')"
