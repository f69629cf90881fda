"""Values of the cache as JSON, chosen from in steps."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdp.cache.base import Entry, encode_json
from mdp.wds.values import entry_json, lightened
from mdp.wds.views import Options, View


async def read(value: Any, options: Options) -> Any:
    """What a client of these options reads."""
    view = View("alerts", options, ()) if options.fields or options.where else None
    return msgspec.json.decode(await entry_json(Entry(value, 1, 1), options.limit, view))


def drive(value: Any, options: Options) -> Any:
    """The same without a loop: it only ever gives way."""
    steps = read(value, options)
    try:
        while True:
            steps.send(None)
    except StopIteration as end:
        return end.value


@given(st.integers(0, 2_100), st.integers(0, 2_100), st.integers(0, 2_100))
@settings(max_examples=50)
def test_steps_choose_what_one_step_would(size: int, limit: int, least: int) -> None:
    """The first `limit` items that fit, wherever they lie."""
    items = [{"symbol": "A", "n": n, "more": 1} for n in range(size)]
    chosen = [{"symbol": "A", "n": n} for n in range(size) if n >= least]
    options = Options(limit=limit, fields=("n",), where=(("n", ">=", least),))
    assert drive(items, options) == chosen[: limit or None]
    assert drive(items, Options(limit=limit)) == items[: limit or None]


def test_single_values_are_chosen_or_null() -> None:
    """One that does not fit is as if it were not there; what has no fields stays whole."""
    assert drive({"a": 1, "b": 2}, Options(fields=("b",))) == {"b": 2}
    assert drive({"a": 1}, Options(where=(("a", ">", 1),))) is None
    assert drive(7, Options(fields=("b",))) == 7
    assert drive((), Options(limit=3)) == []


async def test_a_long_list_is_encoded_in_steps_and_arrives_whole() -> None:
    """Steps at any length give the JSON of the whole."""
    for size in (0, 1, 499, 500, 501, 1_000, 1_203):
        data = await entry_json(Entry(list(range(size)), 1, 1), 0)
        assert data == str(list(range(size))).replace(" ", "").encode()


MARKET = {"timestamp": 1, "symbols": {f"S{n}": {"price": n} for n in range(2_500)}, "symbol_count": 2_500}


def turns_of(steps: Any) -> tuple[int, Any]:
    """How often it gives way, and what comes of it."""
    turns = 0
    try:
        while True:
            steps.send(None)
            turns += 1
    except StopIteration as end:
        return turns, end.value


def test_statistics_of_the_whole_market_are_encoded_in_steps_and_arrive_whole() -> None:
    """The very JSON that one step would make; a small value stays as it is."""
    turns, data = turns_of(entry_json(Entry(MARKET, 1, 1), 0))
    assert turns == 2
    assert data == encode_json(MARKET)
    small = {"symbols": {"A": 1}}
    assert turns_of(lightened(small)) == (0, small)


def test_what_cannot_be_encoded_says_so() -> None:
    """As in one step; nothing half done comes back."""
    with pytest.raises(TypeError):
        turns_of(lightened({"symbols": {**MARKET["symbols"], "S2499": object()}}))  # type: ignore[dict-item]
