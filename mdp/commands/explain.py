"""`mdp explain`: a symbol's numbers with rule, inputs, source and time, as tables."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any
from urllib.parse import quote

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mdp.commands import admin_api
from mdp.commands.watch import plain
from mdp.sessions import NEW_YORK

#: Section of the answer -> what a field of it is called in front of its name.
SECTIONS = {"fields": "", "daily_range": "", "trade_stats": "trade_stats.", "halt": "halt."}
_TITLES = {
    "fields": "The quote",
    "daily_range": "The day's range",
    "trade_stats": "The day's trades",
    "halt": "Halts",
}


class ElsewhereError(admin_api.AdminError):
    """Another processor is to be asked: some lines that say which, and how."""


class NoFieldError(Exception):
    """The answer has no such field: one line."""


async def fetch(url: str, token: str, symbol: str) -> dict[str, Any]:
    """Ask the admin API at `url` (`http://host:port`) for a symbol.

    Raises:
        admin_api.AdminError: It could not be asked, or knows nothing of the symbol.
        ElsewhereError: Another processor works on the symbol.
    """
    url = url.rstrip("/")
    async with admin_api.session_for(token) as session:
        path = f"/api/v1/explain/{quote(symbol, safe='')}"
        try:
            return await admin_api.call(session, url, "GET", path)
        except admin_api.AdminError as error:
            if "owner" in error.answer:
                raise ElsewhereError(_elsewhere(url, symbol, error.answer)) from None
            raise


def _elsewhere(url: str, symbol: str, said: dict[str, Any]) -> str:
    """Where to ask instead. Which port a process has, its own log and configuration say."""
    name, host, process = plain(symbol), plain(said.get("host")), said.get("process")
    whose = f"process {plain(process)} on {host}" if process else host
    return (
        f"{name} is of partition {plain(said.get('partition'))}, "
        f"and {url} is not the processor that owns it.\n"
        f"  owner  {plain(said['owner'])} ({whose})\n"
        f"  ask    on {host}: mdp explain {name} --url http://127.0.0.1:PORT, PORT being that process's\n"
        "         admin.port (with --workers, the first has the configured one, each further one 10 more)"
    )


def one_field(answer: dict[str, Any], name: str) -> dict[str, Any]:
    """The explanation of one field: `pct_change`, `pre_market_high`, `trade_stats.vwap`, `halt.status`.

    Raises:
        NoFieldError: There is none; the message names those that there are.
    """
    names = []
    for section, prefix in SECTIONS.items():
        for field, told in (answer.get(section) or {}).items():
            if prefix + field == name:
                return dict(told)
            names.append(prefix + field)
    if not names:
        raise NoFieldError(
            f"nothing of {answer.get('symbol')} has numbers yet: it had no bar and no trade today"
        )
    raise NoFieldError(f'FIELD: found "{name}"; allowed: {", ".join(names)}')


def as_time(ms: Any, day: str | None = None) -> str:
    """A time in New York: of the day at hand without its date; "-" for none."""
    if not isinstance(ms, int | float) or not ms:
        return "-"
    at = datetime.fromtimestamp(ms / 1000, NEW_YORK)
    clock = f"{at:%H:%M:%S}" + (f".{at.microsecond // 1000:03d}" if at.microsecond else "")
    return clock if at.date().isoformat() == day else f"{at:%Y-%m-%d} {clock}"


def as_value(value: Any, *, exact: bool = False) -> str:
    """A value in few characters; `exact`: with all its digits."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, int):
        return f"{value:,}" if abs(value) < 100_000_000_000 else str(value)
    if isinstance(value, float):
        if exact:
            return repr(value)
        return f"{value:,.6g}" if abs(value) < 1e6 else f"{value:,.0f}"
    if isinstance(value, list):
        return ", ".join(plain(one) for one in value) or "none"
    return plain(value)


def overview(answer: dict[str, Any]) -> RenderableType:
    """All of a symbol: a table for each feed, then reference values and trust."""
    day = answer.get("trading_day")
    parts: list[RenderableType] = [_head(answer)]
    for section, title in _TITLES.items():
        fields = answer.get(section) or {}
        if not fields:
            continue
        table = Table(title=title, title_justify="left", title_style="bold", expand=False)
        table.add_column("field", style="bold", no_wrap=True)
        table.add_column("value", justify="right")
        table.add_column("from", overflow="fold")
        table.add_column("as of", no_wrap=True)
        for name, told in fields.items():
            table.add_row(
                Text(plain(SECTIONS[section] + name)),
                Text(_shown(name, told["value"], day)),
                Text(_from(told, day)),
                Text(as_time(told.get("as_of"), day)),
            )
        parts.append(table)
    rules = answer.get("trade_rules")
    if rules:
        words = Text("Rules of trade conditions", style="bold")
        parts.append(words.append(f"  {plain(rules['source'])}, of {plain(rules['dated'])}", style=""))
    parts += [_reference(answer.get("reference") or {}), _trust(answer.get("trust") or {}, day)]
    parts.append(Text(f"The rule of a number: mdp explain {plain(answer.get('symbol'))} FIELD", style="dim"))
    return Group(*parts)


def detail(answer: dict[str, Any], name: str) -> RenderableType:
    """One number: its rule in words, and every input.

    Raises:
        NoFieldError: See `one_field`.
    """
    told, day = one_field(answer, name), answer.get("trading_day")
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(Text(plain(name)), Text(_shown(name, told["value"], day, exact=True), style="bold"))
    table.add_row("rule", Text(plain(told["rule"])))
    table.add_row("source", Text(plain(told["source"])))
    table.add_row("as of", Text(_times(told, day)))
    parts: list[RenderableType] = [_head(answer), table]
    if told["inputs"]:
        inputs = Table(title="Inputs", title_justify="left", title_style="bold")
        inputs.add_column("input", style="bold", no_wrap=True)
        inputs.add_column("value", justify="right")
        inputs.add_column("source", overflow="fold")
        inputs.add_column("as of")
        for one, fact in told["inputs"].items():
            inputs.add_row(
                Text(plain(one)),
                Text(_shown(one, fact["value"], day, exact=True)),
                Text(plain(fact["source"])),
                Text(_times(fact, day)),
            )
        parts.append(inputs)
    parts.append(_trust(answer.get("trust") or {}, day))
    return Group(*parts)


def _head(answer: dict[str, Any]) -> Text:
    day = answer.get("trading_day")
    head = Text(plain(answer.get("symbol")), style="bold")
    head.append(
        f"  trading day {plain(day)}, {plain(answer.get('session'))}, "
        f"market time {as_time(answer.get('market_time'), day)} New York",
        style="",
    )
    return head


def _is_time(name: str) -> bool:
    return name.endswith(("timestamp", "_ts", "_at", "_time", "_since")) or name == "regular_session_start"


def _shown(name: str, value: Any, day: str | None, *, exact: bool = False) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return as_time(value, day) if is_number and value and _is_time(name) else as_value(value, exact=exact)


def _from(told: dict[str, Any], day: str | None) -> str:
    """In one cell: the inputs of what is computed, the source of the rest."""
    inputs = " · ".join(f"{plain(n)} {_shown(n, f['value'], day)}" for n, f in told["inputs"].items())
    return inputs if told["kind"] == "computed" else plain(told["source"])


def _times(fact: dict[str, Any], day: str | None) -> str:
    at = as_time(fact.get("as_of"), day)
    fetched = fact.get("fetched_at")
    return f"{at}, fetched {as_time(fetched)}" if fetched else at


def _reference(reference: dict[str, Any]) -> RenderableType:
    if not reference.get("trading_day"):
        return Text("Reference values: none, the trading day is not known to them", style="dim")
    words = Text("Reference values", style="bold")
    ratio = reference.get("split_ratio", 1)
    words.append(
        f" of {plain(reference['trading_day'])}, previous session {plain(reference['previous_session'])}"
        + (
            f", from {plain(reference.get('kept_in', 'the snapshot file'))}"
            if reference.get("restored")
            else ""
        )
        + (f", adjusted by a split: {as_value(ratio)} shares for one" if ratio != 1 else ""),
        style="",
    )
    for name, source in (reference.get("sources") or {}).items():
        why = f" ({plain(source['detail'])})" if source.get("detail") else ""
        fetched = f", {as_time(source['fetched_at'])}" if source.get("fetched_at") else ""
        words.append(
            f"\n  {plain(name)}: {plain(source['state'])}{why}, {plain(source['endpoint'])}{fetched}",
            style="",
        )
    return words


def _trust(trust: dict[str, Any], day: str | None) -> RenderableType:
    words = Text("Trust", style="bold")
    stale = trust.get("stale")
    words.append(
        f"  feed {plain(trust.get('feed_state'))}; "
        + ("stale: newer data may be missing" if stale else "not stale" if stale is False else "no bar today")
        + (f"; data lost at {as_time(trust['lost_at'], day)}" if trust.get("lost_at") else ""),
        style="red" if stale else "",
    )
    if trust.get("pending"):
        words.append(f"\n  not answered yet: {', '.join(map(plain, trust['pending']))}", style="yellow")
    for gap in trust.get("gaps") or []:
        begin, end = gap.get("market_start_ms"), gap.get("market_end_ms")
        words.append(
            f"\n  gap {plain(gap.get('number'))}: {plain(gap.get('reason'))}, "
            f"{as_time(begin, day)} to {as_time(end, day) if end else 'now'}",
            style="",
        )
    return words
