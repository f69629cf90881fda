"""`mdp watch`: what is shown of a feed, bounded and harmless whatever arrives."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
from rich.console import Console

from mdp.client import ClientError, Update, WdsClient
from mdp.commands.watch import MAX_LINES, MAX_ROWS, MAX_SYMBOLS, FeedView, amount, watch


def row(symbol: str, rank: int = 1, **changes: Any) -> dict[str, Any]:
    """A row of a board."""
    values = {
        "symbol": symbol,
        "rank": rank,
        "close": 12.3456,
        "pct_change": 45.6,
        "pct_change_since_open": -1.25,
        "accumulated_volume": 12_345_678,
        "relative_volume": 5.5,
        "free_float": 8_900_000,
    }
    return values | changes


def shown(view: FeedView, width: int = 120) -> str:
    """A view as plain text."""
    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(view.render())
    return capture.get()


def test_a_board_shows_the_columns_a_trader_reads() -> None:
    """Rank, symbol, last, changes with their sign, volume, relative volume, float; in that order."""
    view = FeedView("scanners:top_gainers")
    view.add([row("NVDA"), row("AMD", 2, pct_change=-3.0)])
    text = shown(view)
    heading = next(line for line in text.splitlines() if "symbol" in line)
    columns = ["rank", "symbol", "last", "chg%", "chg-open%", "volume", "rvol", "float"]
    assert [heading.index(column) for column in columns] == sorted(
        heading.index(column) for column in columns
    )
    line = next(line for line in text.splitlines() if "NVDA" in line)
    assert [cell.strip() for cell in line.strip("│ ").split("│")] == [
        "1", "NVDA", "12.35", "+45.60", "-1.25", "12.35M", "5.50", "8.90M",
    ]  # fmt: skip
    assert "-3.00" in text


def test_a_new_board_replaces_the_old() -> None:
    """An empty one too: nothing stale stays on the screen."""
    view = FeedView("scanners:top_gainers")
    view.add([row("OLD")])
    view.add([row("NEW")])
    assert "OLD" not in shown(view)
    view.add([])
    assert "NEW" not in shown(view)


def test_values_by_symbol_are_one_table_of_the_last_ones() -> None:
    """A wildcard of quotes shows each symbol once, and at most so many, the latest."""
    view = FeedView("quote:*")
    for number in range(MAX_SYMBOLS + 5):
        view.add(row(f"S{number:03}"))
    view.add(row("S010", close=99.0))
    text = shown(view)
    assert text.count("S010") == 1
    assert "99.00" in text
    assert "S004" not in text
    assert sum(" S" in line for line in text.splitlines()) == MAX_SYMBOLS


def test_other_payloads_are_the_last_lines() -> None:
    """Alerts, halts and news: newest at the end, bounded in number and length."""
    view = FeedView("halts")
    for number in range(MAX_LINES + 5):
        view.add({"n": number, "text": "x" * 10_000})
    lines = [line for line in shown(view).splitlines() if '"n"' in line]
    assert len(lines) == MAX_LINES
    assert f'"n":{MAX_LINES + 4}' in lines[-1]


def test_boards_are_cut_to_what_fits() -> None:
    """500 rows are not a screen."""
    view = FeedView("scanners:top_volume")
    view.add([row(f"S{number}", number) for number in range(500)])
    assert f"S{MAX_ROWS - 1} " in shown(view)
    assert f"S{MAX_ROWS} " not in shown(view)


def test_payloads_cannot_steer_the_terminal() -> None:
    """Escape sequences and markup in a payload or a feed's name are shown, not obeyed."""
    view = FeedView("news:\x1b[2J")
    view.state = "\x1b]0;title\x07"
    view.add([row("A\x1b[31m"), row("[bold]B[/bold]")])
    text = shown(view)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[bold]B[/bold]" in text


def test_odd_values_are_a_dash() -> None:
    """Missing, null, text where a number is usual, and an unknown float of 0."""
    view = FeedView("scanners:top_volume")
    view.add([{"symbol": "A", "close": None, "pct_change": "n/a", "free_float": 0, "rank": True}])
    line = next(line for line in shown(view).splitlines() if " A " in line)
    assert line.count("-") == 7


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (9_999, "9,999"),
        (12_345, "12.35K"),
        (2_500_000, "2.50M"),
        (-3e9, "-3.00B"),
        (None, "-"),
        ("1", "-"),
    ],
)
def test_amounts_are_short(value: object, text: str) -> None:
    """A column of volumes stays readable."""
    assert amount(value) == text


class State(str):
    """Among the payloads: the connection's state changes to this."""


class Feeds(WdsClient):
    """A client whose feeds are given."""

    def __init__(self, payloads: dict[str, list[Any]]) -> None:
        super().__init__("ws://unused")
        self._payloads = payloads

    async def subscribe(  # type: ignore[override]
        self, feed: str, *, on_state: Callable[[str], None] = lambda state: None
    ) -> AsyncGenerator[Update, None]:
        """The given payloads; an exception among them is raised."""
        on_state("live")
        for payload in self._payloads[feed]:
            if isinstance(payload, BaseException):
                raise payload
            if isinstance(payload, State):
                on_state(payload)
                continue
            yield payload if isinstance(payload, Update) else Update(feed, payload)


async def test_in_a_pipe_each_message_is_one_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    """With its feed, so that several can be told apart."""
    console = Console(file=io.StringIO(), force_terminal=False)
    await watch(Feeds({"a": [[1], {"x": "é\n"}], "b": [None]}), ["a", "b"], console)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(lines, key=lambda line: str(line["feed"])) == [
        {"feed": "a", "data": [1]},
        {"feed": "a", "data": {"x": "é\n"}},
        {"feed": "b", "data": None},
    ]


async def test_in_a_pipe_only_what_is_new_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """Under the name of its feed; the events before, and a value that is not there yet, are no messages."""
    updates = [
        Update("quote:B", None, epoch=1),
        Update("quote:B", {"close": 1}, epoch=1, seq=1),
        Update("halts", [1, 2], epoch=1, kind="list"),
        Update("halts", 3, epoch=1, kind="event"),
    ]
    await watch(Feeds({"quote:*": updates}), ["quote:*"], Console(file=io.StringIO(), force_terminal=False))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [{"feed": "quote:B", "data": {"close": 1}}, {"feed": "halts", "data": 3}]


def test_what_an_event_feed_had_is_shown_before_what_comes() -> None:
    """Oldest first, as it would have been if one had watched; nothing there is nothing shown."""
    view = FeedView("halts")
    view.update(Update("halts", [{"n": 2}, {"n": 1}], epoch=1, kind="list"))
    view.update(Update("halts", {"n": 3}, epoch=1, kind="event"))
    view.update(Update("halts", None, epoch=1))
    lines = [line for line in shown(view).splitlines() if '"n"' in line]
    assert [json.loads(line)["n"] for line in lines] == [1, 2, 3]
    assert "null" not in shown(view)


async def test_in_a_pipe_trouble_is_told_apart_from_data(capsys: pytest.CaptureFixture[str]) -> None:
    """Once for each change, on standard error; a connection that is simply live says nothing."""
    lost = State("cannot connect; trying again")
    await watch(Feeds({"a": [1, lost, lost, State("live"), 2]}), ["a"], Console(file=io.StringIO()))
    said = capsys.readouterr()
    assert said.err.splitlines() == ["a: cannot connect; trying again", "a: live"]
    assert len(said.out.splitlines()) == 2


async def test_on_a_terminal_it_is_a_live_table() -> None:
    """The last state of the feeds is drawn."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=120, height=40)
    async with asyncio.timeout(60):
        await watch(Feeds({"scanners:top_gainers": [[row("NVDA")]]}), ["scanners:top_gainers"], console)
    assert "NVDA" in file.getvalue()
    assert "live" in file.getvalue()


async def test_one_refused_feed_ends_it_with_its_reason() -> None:
    """The user gets the reason itself and not a group of exceptions."""
    feeds = Feeds({"a": [ClientError("a was refused")], "b": [1]})
    with pytest.raises(ClientError, match="a was refused"):
        await watch(feeds, ["a", "b"], Console(file=io.StringIO(), force_terminal=False))
