"""`mdp watch`: feeds in the terminal, as live tables for people and as JSON lines for programs."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import orjson
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mdp.client import ClientError, Update, WdsClient

MAX_ROWS = 30  # of a board that are shown
MAX_SYMBOLS = 40  # of a feed with one value per symbol; the ones that changed last
MAX_LINES = 15  # of a feed without a table of its own
_REFRESH_PER_SECOND = 8

# Field -> heading, in the order a trader reads them.
COLUMNS = {
    "rank": "rank",
    "symbol": "symbol",
    "close": "last",
    "pct_change": "chg%",
    "pct_change_since_open": "chg-open%",
    "accumulated_volume": "volume",
    "relative_volume": "rvol",
    "free_float": "float",
}


def plain(text: object) -> str:
    """`text` without control characters: a payload must not be able to steer the terminal."""
    return "".join(character if character.isprintable() else "?" for character in str(text))


def amount(value: object) -> str:
    """A count in few characters: 1,234 and 56.7K and 8.90M."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "-"
    for limit, divisor, unit in ((1e9, 1e9, "B"), (1e6, 1e6, "M"), (1e4, 1e3, "K")):
        if abs(value) >= limit:
            return f"{value / divisor:.2f}{unit}"
    return f"{value:,.0f}"


def _cell(field: str, value: Any) -> Text:
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else None
    if field == "symbol":
        return Text(plain(value), style="bold")
    if number is None:
        return Text("-", style="dim")
    if field in ("accumulated_volume", "free_float"):
        return Text(amount(number) if number else "-")
    if field in ("pct_change", "pct_change_since_open"):
        return Text(f"{number:+.2f}", style="green" if number > 0 else "red" if number < 0 else "")
    if field == "close":
        return Text(f"{number:,.4f}" if abs(number) < 1 else f"{number:,.2f}")
    return Text(f"{number:.0f}" if field == "rank" else f"{number:.2f}")


class FeedView:
    """What is shown of one feed. Bounded, whatever arrives."""

    def __init__(self, feed: str) -> None:
        self.feed = feed
        self.state = "connecting"
        self._board: list[dict[str, Any]] | None = None
        self._symbols: dict[str, dict[str, Any]] = {}  # symbol -> last value, the newest at the end
        self._lines: deque[str] = deque(maxlen=MAX_LINES)

    def update(self, update: Update) -> None:
        """Take an update: of an event feed first the last ones there were, then each."""
        if update.kind == "list":
            for event in reversed(update.value or ()):
                self.add(event)
        elif update.value is not None or not update.epoch:  # with numbers, None is: nothing there yet
            self.add(update.value)

    def add(self, payload: Any) -> None:
        """Take one payload: a board, a value of one symbol, or anything else."""
        if isinstance(payload, list) and all(isinstance(row, dict) and "symbol" in row for row in payload):
            self._board = payload[:MAX_ROWS]
        elif isinstance(payload, dict) and "symbol" in payload and "pct_change" in payload:
            symbol = str(payload["symbol"])
            self._symbols.pop(symbol, None)
            self._symbols[symbol] = payload
            if len(self._symbols) > MAX_SYMBOLS:
                del self._symbols[next(iter(self._symbols))]
        else:
            self._lines.append(plain(orjson.dumps(payload).decode())[:500])

    def render(self) -> RenderableType:
        """The feed as it stands, for rich."""
        title = Text.assemble((plain(self.feed), "bold"), "  ", (plain(self.state), "dim"))
        if self._board is not None:
            return self._table(title, self._board, COLUMNS)
        if self._symbols:
            rows = sorted(self._symbols.values(), key=lambda row: str(row["symbol"]))
            return self._table(title, rows, {k: v for k, v in COLUMNS.items() if k != "rank"})
        return Group(title, *(Text(line, no_wrap=True, overflow="ellipsis") for line in self._lines))

    @staticmethod
    def _table(title: Text, rows: Sequence[dict[str, Any]], columns: dict[str, str]) -> Table:
        table = Table(title=title, title_justify="left")
        for field, heading in columns.items():
            table.add_column(heading, justify="left" if field == "symbol" else "right", no_wrap=True)
        for row in rows:
            table.add_row(*(_cell(field, row.get(field)) for field in columns))
        return table


async def watch(client: WdsClient, feeds: Sequence[str], console: Console) -> None:
    """Show `feeds` until cancelled. In a pipe, changes of a connection's state go to standard error.

    Raises:
        ClientError: The service refused a feed or the key.
    """
    if not console.is_terminal:
        states: dict[str, str] = {}

        def tell(feed: str, state: str) -> None:
            if state != states.get(feed, "live"):
                print(f"{feed}: {plain(state)}", file=sys.stderr, flush=True)
            states[feed] = state

        await _follow_all(client, feeds, _print_line, tell)
        return
    views = {feed: FeedView(feed) for feed in feeds}

    def render() -> Group:
        return Group(*(view.render() for view in views.values()))

    def set_state(feed: str, state: str) -> None:
        views[feed].state = state

    with Live(
        get_renderable=render,
        console=console,
        refresh_per_second=_REFRESH_PER_SECOND,
        vertical_overflow="crop",  # the last state stays on the screen, whole, after Ctrl-C
    ):
        await _follow_all(client, feeds, lambda feed, update: views[feed].update(update), set_state)


def _print_line(feed: str, update: Update) -> None:
    """One line a message: values that there are, and events from now on."""
    if update.kind == "list" or (update.value is None and update.epoch):
        return
    # Flushed per line: whoever reads the pipe wants the market now, not 8 KiB later.
    print(orjson.dumps({"feed": update.feed, "data": update.value}).decode(), flush=True)


async def _follow_all(
    client: WdsClient,
    feeds: Sequence[str],
    on_update: Callable[[str, Update], None],
    on_state: Callable[[str, str], None],
) -> None:
    async def follow(feed: str) -> None:
        async for update in client.subscribe(feed, on_state=lambda state: on_state(feed, state)):
            on_update(feed, update)

    try:
        async with asyncio.TaskGroup() as group:
            for feed in feeds:
                group.create_task(follow(feed), name=f"watch {feed}")
    except BaseExceptionGroup as failed:
        # One feed's end is everybody's end; the user wants its reason and not a tree of them.
        refusals = [error for error in failed.exceptions if isinstance(error, ClientError)]
        if refusals:
            raise refusals[0] from None
        raise failed.exceptions[0] from None
