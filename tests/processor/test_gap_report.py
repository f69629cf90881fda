"""One ledger out of many: what is said of a gap that several partitions repair."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from mdp.cache.keys import Keys
from mdp.cache.redis_link import connect
from mdp.listener.announcement import Announcement
from mdp.listener.gaps import Gap
from mdp.processor.gap_report import GAPS, GapReport, merged, pack
from tests.redis_server import RedisServer
from tests.waiting import eventually

KEYS = Keys("t:")


def entry(number: int = 1, start: int = 100, of: list[Any] | None = None, **more: Any) -> dict[str, Any]:
    """Of a ledger; with `of` it is a partition's."""
    gap: dict[str, Any] = msgspec.to_builtins(Gap(number, "aborted", "", start, 5))
    return {**gap, **({} if of is None else {"of": of}), **more}


SOURCE = [1, 100, "aborted"]


@pytest.mark.parametrize(
    ("words", "together"),
    [
        (["done", "done"], "done"),
        (["done", "running"], "running"),
        (["partial", "waiting"], "waiting"),
        (["done", "partial"], "partial"),
        (["partial", "failed"], "failed"),
        (["done", ""], "done"),
        (["", ""], ""),
    ],
)
def test_what_is_said_of_a_gap_is_the_worst_once_nobody_works_on_it(words: list[str], together: str) -> None:
    """As long as somebody does, it is under way."""
    parts = {number: [entry(7, of=[SOURCE], repair=word)] for number, word in enumerate(words)}
    (gap,) = merged([entry()], parts)
    assert gap["repair"] == together
    assert gap["partitions"] == [0, 1]
    assert gap["number"] == 1


def test_symbols_add_up() -> None:
    """Those that could not be repaired are named; where one partition does not know them, nobody does."""
    parts = {
        0: [entry(of=[SOURCE], repair="partial", repaired=5, uncertain=["B"], uncertain_count=1,
                  repair_detail="1 symbols could not be repaired", not_recoverable=["x"])],
        3: [entry(of=[SOURCE], repair="partial", repaired=2, uncertain=["A"], uncertain_count=1,
                  repair_detail="1 symbols could not be repaired", not_recoverable=["x", "w"])],
    }  # fmt: skip
    (gap,) = merged([entry()], parts)
    assert (gap["repaired"], gap["uncertain"], gap["uncertain_count"]) == (7, ["A", "B"], 2)
    assert gap["repair_detail"] == "1 symbols could not be repaired"
    assert gap["not_recoverable"] == ["w", "x"]
    parts[3][0] |= {"uncertain": None, "uncertain_count": None}
    (gap,) = merged([entry()], parts)
    assert (gap["uncertain"], gap["uncertain_count"]) == (None, None)


def test_what_only_a_partition_lost_is_told_with_its_number() -> None:
    """In the order of time, beside what the listener lost."""
    gaps = merged([entry(1, 300)], {4: [entry(9, 200, of=[], reason="missed"), entry(10, 400, of=[])]})
    assert [(gap["number"], gap.get("partition")) for gap in gaps] == [(9, 4), (1, None), (10, 4)]
    assert all("of" not in gap for gap in gaps)


def test_an_entry_of_two_gaps_is_said_of_both() -> None:
    """A connection that flapped is repaired once."""
    other = [2, 150, "aborted"]
    parts = {0: [entry(of=[SOURCE, other], repair="done", repaired=3)]}
    gaps = merged([entry(), entry(2, 150)], parts)
    assert [gap["repair"] for gap in gaps] == ["done", "done"]


async def test_the_ledgers_are_read_from_redis(redis_server: RedisServer) -> None:
    """Damaged ones, and those of newer versions, are left out. What was read last stays."""
    client = connect(redis_server.config())
    report = GapReport("report", client, KEYS)
    with redis_server.client() as writing:
        said = Announcement(ts=1, ledger=[entry()])
        writing.hset(KEYS.listener, mapping=said.fields())
        mine = [entry(7, of=[SOURCE], repair="done", repaired=4)]
        rows = {"partition:0": pack(1, 1, mine), "partition:1": b"?", "partition:2": msgspec.msgpack.encode(
            [9, 1, 1, []]), "scanner": pack(1, 1, []), "partition:3": pack(1, 1, "x")}  # type: ignore[arg-type]  # fmt: skip
        writing.hset(KEYS.parts(GAPS), mapping=rows)
    await report.start()
    try:
        await eventually(lambda: bool(report.partitions))
        assert list(report.partitions) == [0]
        (gap,) = report.entries()
        assert (gap["repair"], gap["repaired"]) == ("done", 4)
        (gap,) = report.entries(own={0: [entry(7, of=[SOURCE], repair="failed")]})
        assert gap["repair"] == "failed", "what we know ourselves is newer"
        (gap,) = report.entries(listener=[])
        assert gap["partition"] == 0, "told, though the listener has forgotten it"
        assert "1 entries" in report.health().detail
    finally:
        await report.stop()
        await client.aclose()
