"""What the active listener tells the others: it comes back as it was said, and damage costs one field."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from mdp.listener.announcement import Announcement, feed_fields, read_announcement

WORD = Announcement(
    epoch=1_700_000_000_000,
    id="host-1-ab",
    ts=5,
    state="live",
    detail="receiving stocks from RealTime",
    since=4,
    gaps=2,
    server_ms=10_250,
    market_ms=10_000,
    ledger=[{"number": 1, "reason": "aborted"}],
    accounting={"streams": {"received": 3, "sent": 3}},
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def as_read(fields: dict[str, bytes]) -> dict[bytes, bytes]:
    """As Redis gives it back."""
    return {name.encode(): value for name, value in fields.items()}


@given(detail=TEXTS, state=TEXTS, ts=st.integers(0, 1 << 60))
def test_a_word_comes_back_as_it_was_said(detail: str, state: str, ts: int) -> None:
    """Texts that look like numbers or JSON too."""
    word = Announcement(detail=detail, state=state, ts=ts, ledger=[{"a": 1}], accounting={"b": {"c": 2}})
    assert read_announcement(as_read(word.fields())) == word


def test_nothing_said_is_no_state() -> None:
    """Before the first listener."""
    assert read_announcement({}) == Announcement()
    assert feed_fields({}) == (
        {"feed_state": "down", "feed_detail": "no listener has said anything", "feed_since": 0, "gaps": 0},
        None,
    )


def test_market_status_gets_what_one_process_says_of_its_feed() -> None:
    """And the lag, where both times are known."""
    fields, lag = feed_fields(as_read(WORD.fields()))
    assert fields == {
        "feed_state": "live",
        "feed_detail": "receiving stocks from RealTime",
        "feed_since": 4,
        "gaps": 2,
    }
    assert lag == 250
    silent = feed_fields(as_read(WORD.fields()) | {b"detail": b""})[0]
    assert (silent["feed_state"], silent["feed_detail"]) == ("live", ""), "it has said something, no more"
    assert feed_fields(as_read(WORD.fields()) | {b"server_ms": b"0"})[1] is None


@given(field=st.sampled_from(Announcement.__struct_fields__), junk=st.binary(max_size=20))
@example(field="ledger", junk=b"null")
def test_a_damaged_field_costs_itself_alone(field: str, junk: bytes) -> None:
    """A newer listener's idea of a field must not silence the rest."""
    read = read_announcement(as_read(WORD.fields()) | {field.encode(): junk})
    for name in Announcement.__struct_fields__:
        if name != field:
            assert getattr(read, name) == getattr(WORD, name)


@given(fields=st.dictionaries(st.binary(max_size=10), st.binary(max_size=10)))
def test_any_hash_is_read(fields: dict[bytes, bytes]) -> None:
    """Whatever lies there."""
    read: Any = read_announcement(fields)
    assert isinstance(read, Announcement)
