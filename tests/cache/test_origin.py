"""Where reference values say they came from."""

from __future__ import annotations

from datetime import date

import msgspec
from aiohttp import web

from mdp.cache import paths
from mdp.cache.origin import AVERAGED, OriginOf
from mdp.cache.table import FLOAT, PREVIOUS, ReferenceRow
from tests.cache.market import KEY, TODAY, Market, floats, snapshot, splits
from tests.cache.provider import Answer
from tests.cache.test_reference import complete, keeping, new_york, through_msgpack, until


def open_yesterday() -> Market:
    """A provider that knows of no closing."""
    provider = Market()
    provider.closing = date(2000, 1, 1)
    return provider


def test_before_the_day_is_known_there_is_nothing_to_say() -> None:
    """No book, no fields, and an answer all the same."""

    class Nothing:
        """A reference cache that has not begun."""

        book = None

    origin = OriginOf(Nothing(), "AAPL")  # type: ignore[arg-type]
    assert origin.fields == {}
    assert origin.split_ratio == 1
    assert origin.describe()["trading_day"] is None


async def test_bulk_values_name_their_answers() -> None:
    """Each field has a source and the time of the answer; the key is in none of it. A session that turned
    out to be none is not the previous one."""
    async with keeping(Market()) as reference:
        await complete(reference)
        origin = OriginOf(reference, "AAPL")
        told = origin.describe()
    assert (
        set(origin.fields) == {*PREVIOUS, *AVERAGED, *FLOAT, "pending"} == {*ReferenceRow.__struct_fields__}
    )
    source, fetched = origin.fields["prev_day_close"]
    assert source == "REST grouped daily bars of 2026-09-21, as traded"
    assert fetched == told["sources"]["sessions"]["fetched_at"]
    assert fetched is not None
    assert (told["trading_day"], told["previous_session"]) == ("2026-09-23", "2026-09-21")
    assert {one["state"] for one in told["sources"].values()} == {"done"}
    assert told["sources"]["float"]["endpoint"] == f"GET {paths.FLOAT}"
    assert (told["sessions"], told["values"]["prev_day_close"]) == (30, 50)
    assert KEY.encode() not in msgspec.json.encode(told)


async def test_a_split_since_the_previous_session_is_the_ratio() -> None:
    """One that took effect before is listed, and is in the values of then already."""
    provider = open_yesterday()
    provider.answers[paths.SPLITS] = splits(("AAPL", "2026-09-23", 10, 1), ("MSFT", "2026-09-22", 1, 4))
    async with keeping(provider) as reference:
        await complete(reference)
        apple, micro = OriginOf(reference, "AAPL"), OriginOf(reference, "MSFT")
        row = reference.get("AAPL")
    assert apple.split_ratio == 0.1
    assert apple.describe()["splits"] == [{"executed": "2026-09-23", "ratio": 0.1}]
    assert row is not None
    assert row.prev_day_close * apple.split_ratio == 50, "as it traded"
    assert micro.split_ratio == 1
    assert micro.describe()["splits"] == [{"executed": "2026-09-22", "ratio": 4}]


async def test_a_previous_day_of_the_snapshot_is_named_as_such() -> None:
    """For symbols that the newest session lacks; the snapshot is taken as it is."""
    provider = open_yesterday()
    provider.answers[paths.SNAPSHOT] = snapshot({"AAPL": 50, "MSFT": 50, "NEW": 33})
    async with keeping(provider) as reference:
        await complete(reference)
        assert OriginOf(reference, "NEW").fields["prev_day_close"][0] == "REST snapshot, prevDay"
        assert OriginOf(reference, "AAPL").fields["prev_day_close"][0].startswith("REST grouped")


async def test_a_symbol_that_was_asked_for_alone_says_so() -> None:
    """With the time of that answer, not of the whole market's."""
    provider = open_yesterday()
    daily = {"t": new_york(date(2026, 9, 22), "00:00:00"), "o": 3, "h": 5, "l": 2, "c": 4, "v": 12, "vw": 4}
    provider.answers[paths.BARS + "NEW"] = msgspec.json.encode({"results": [daily]})

    async def the_floats(request: web.Request) -> Answer:
        return floats({"NEW": 77} if "ticker.any_of" in request.query else {"AAPL": 5})

    provider.answers[paths.FLOAT] = the_floats
    async with keeping(provider, seen=lambda: {"NEW"}) as reference:
        await complete(reference)
        reference.latecomers.look()
        await until(lambda: "NEW" in reference.latecomers.answered)
        told = OriginOf(reference, "NEW")
        apple = OriginOf(reference, "AAPL")
    assert told.describe()["asked_alone"] is True
    assert told.fields["avg_volume"] == (
        "REST daily bars of NEW up to 2026-09-22", reference.latecomers.answered["NEW"]
    )  # fmt: skip
    assert told.fields["free_float"][0] == "REST float of NEW"
    assert apple.describe()["asked_alone"] is False


async def test_a_restart_knows_when_the_values_were_fetched() -> None:
    """The time comes out of the snapshot file with the values."""
    async with keeping(open_yesterday()) as reference:
        await complete(reference)
        before = OriginOf(reference, "AAPL").describe()
        records = through_msgpack(reference)
    async with keeping(open_yesterday()) as second:
        second.load(records, TODAY.isoformat())
        again = OriginOf(second, "AAPL")
        after = again.describe()
    assert (before.pop("restored"), after.pop("restored")) == (False, True)
    assert before["sources"]["float"]["fetched_at"] is not None
    assert after == before
    assert again.fields["prev_day_close"] == (
        "REST daily bars up to 2026-09-22, kept over a restart",
        before["sources"]["sessions"]["fetched_at"],
    )


async def test_what_is_not_there_says_why() -> None:
    """An endpoint that the plan lacks has no time of an answer."""
    provider = open_yesterday()
    provider.answers[paths.FLOAT] = 403
    async with keeping(provider) as reference:
        await complete(reference)
        told = OriginOf(reference, "AAPL").describe()["sources"]
    assert told["float"]["state"] == "absent"
    assert told["float"]["detail"]
    assert told["float"]["fetched_at"] is None
    assert told["sessions"]["detail"] == ""
