"""Messages that came over Redis: taken apart without being read."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdp.cache.relayed import RelayedMessage, decode, parse
from mdp.cache.schemas import mark
from mdp.feeds import QUOTE

NUMBER = st.integers(min_value=0, max_value=2**62)


@given(NUMBER, NUMBER, NUMBER, st.binary())
def test_whatever_the_payload_is_it_comes_out_as_it_went_in(
    epoch: int, seq: int, ts: int, body: bytes
) -> None:
    """Also one with line feeds and spaces: only the first line is the place."""
    assert parse(b"%d %d %d\n" % (epoch, seq, ts) + body) == (epoch, seq, ts, body, 1)


@given(NUMBER, st.integers(min_value=1, max_value=10**6), st.binary())
def test_the_version_comes_out_as_it_is_marked(number: int, version: int, body: bytes) -> None:
    """1 is not written out, and what is not written out is 1."""
    head = b"%d 2 3" % number + mark(version)
    assert parse(head + b"\n" + body) == (number, 2, 3, body, version)
    assert (head.count(b" ") == 2) == (version == 1)


def test_what_a_newer_version_says_in_its_head_is_passed_over() -> None:
    """Its version is understood all the same, so that it can be refused with a message."""
    assert parse(b"1 2 3 4 and more\n{}") == (1, 2, 3, b"{}", 4)


@pytest.mark.parametrize(
    "data", [b"", b"1 2 3", b"1 2\n{}", b"1 2 3 x\n{}", b"a b c\n{}", b'{"price":1}', b"\n{}", b"1  2 3\n{}"]
)
def test_anything_else_is_refused(data: bytes) -> None:
    """A bare payload above all: somebody publishes on the wrong channel."""
    with pytest.raises(ValueError, match="not a message of the bus"):
        parse(data)


def test_a_payload_is_decoded_when_it_is_looked_at_and_once() -> None:
    """Who only hands it on pays nothing, and a broken one costs only who looks."""
    message = RelayedMessage("quote:A", QUOTE, 1, 2, 3, b'{"a":[1]}')
    assert message.json() == b'{"a":[1]}'
    assert message.value is message.value
    assert message.value == {"a": [1]}
    broken = RelayedMessage("quote:A", QUOTE, 1, 2, 3, b"{")
    assert broken.json() == b"{"
    with pytest.raises(msgspec.DecodeError):
        _ = broken.value


def test_a_payload_of_another_type_than_asked_for_is_an_error() -> None:
    """It is not made to fit."""
    assert decode(b"[1]", list[int]) == [1]
    with pytest.raises(msgspec.DecodeError):
        decode(b'["x"]', list[int])
