"""Values of the cache as JSON, chosen from in steps."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from mdp.cache.base import Entry
from mdp.wds.values import entry_json
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
