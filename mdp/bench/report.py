"""How results are shown: one run in full, several as a table."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from rich.console import Console
from rich.table import Table

from mdp.bench.figures import Quantiles
from mdp.bench.process import Machine
from mdp.bench.result import Result


class Row(msgspec.Struct, frozen=True):
    """One target of the issue's table and what was measured."""

    what: str
    target: str
    figure: str
    passed: bool


def at_least(what: str, figure: float, least: float, form: str = "{:.3f}", note: str = "") -> Row:
    """A figure that must not be lower."""
    return Row(what, f"≥ {least:g}", form.format(figure) + note, figure >= least)


def at_most(what: str, figure: float, most: float, form: str = "{:.1f}", note: str = "") -> Row:
    """A figure that must not be higher."""
    return Row(what, f"≤ {most:g}", form.format(figure) + note, figure <= most)


def holds(what: str, passed: bool, figure: str, target: str = "exact") -> Row:
    """Something that is so or not."""
    return Row(what, target, figure, passed)


def accounting_rows(result: Result) -> list[Row]:
    """The checks of a result as rows; those that hold are summed up in one."""
    wrong = [check for check in result.checks if not check.exact]
    rows = [holds(check.name, False, f"{check.left:,} against {check.right:,}") for check in wrong]
    if not wrong:
        rows.append(holds(f"accounting, {len(result.checks)} sums", True, "all exact"))
    if result.connections != 1 or result.cut:
        figure = f"{result.connections} connections" + (f"; cut: {result.cut}" if result.cut else "")
        rows.append(holds("one connection, never cut", False, figure))
    return rows


def machine_line(machine: Machine) -> str:
    """Where and when."""
    return f"{machine.date} · Python {machine.python} · {machine.cpu} · {machine.cores} cores"


def figures(result: Result) -> list[tuple[str, str]]:
    """Name and value of everything a run measured, in order."""
    found: list[tuple[str, str]] = []
    if result.segments:
        spread = sorted(segment.rate for segment in result.segments)
        found += [
            ("end to end", f"{result.rate:,.0f} events/s (segments {spread[0]:,.0f} to {spread[-1]:,.0f})"),
            ("bare decoding", f"{result.bare_rate:,.0f} events/s"),
            ("ratio", f"{result.ratio:.3f} (by CPU time {result.cpu_ratio:.3f})"),
        ]
    if result.open_rate:
        found += [
            ("offered", f"{result.open_rate:,.0f} events/s for {result.open_seconds:g} s"),
            ("processed meanwhile", f"{result.open_processed_rate:,.0f} events/s"),
            ("bare decoding", f"{result.bare_rate:,.0f} events/s"),
            ("frame due to quote at the client", _quantiles(result.clients.latency)),
            ("newest row of a board at the client", _quantiles(result.clients.board_age)),
            ("the sender's own lateness", _quantiles(result.sender_lateness_ms)),
            (
                "most that waited in the sender",
                f"{result.sender_most_waiting_bytes:,} bytes, {result.sender_longest_wait_ms:.0f} ms",
            ),
        ]
    found += [
        ("CPU per event", f"{result.cpu_us_per_event:.3f} us = {result.cpu_in_bare:.2f} bare decodes"),
        (
            "cores used",
            f"{result.busy:.2f} by the platform, {result.feeder_busy:.2f} by feeder and clients; "
            f"the platform waited for a core {result.crowded:.0%} of the time",
        ),
        ("event-loop lag", _quantiles(result.lag_ms)),
        (
            "longest lag, warm-up included",
            f"{result.longest_lag_ms:.1f} ms; at work {result.longest_work_ms:.1f} ms",
        ),
        ("longest step of a stage", f"{result.longest_step_ms:.1f} ms ({result.longest_stage})"),
        (
            "RSS",
            f"{result.rss_start_mb:.0f} MB at the start, {result.rss_filled_mb:.0f} after the fill "
            f"({result.fill_events:,} events), {result.rss_end_mb:.0f} in the end, "
            f"{result.rss_peak_mb:.0f} peak",
        ),
    ]
    if result.rss_normal_mb:
        found.append(("RSS, peak before the open loop", f"{result.rss_normal_mb:.0f} MB"))
    clients = result.clients
    found.append(
        (
            "clients",
            f"{clients.clients} connected, {clients.closes} closed; {clients.messages:,} messages, "
            f"{clients.bytes / 1e6:,.1f} MB: {clients.quotes:,} quotes, {clients.repeats:,} repeats, "
            f"{clients.boards:,} boards",
        )
    )
    return found


def print_result(result: Result, console: Console) -> None:
    """A run in full."""
    title = f"mdp bench ingest · {result.mode} loop · {result.mix} · {result.events_per_frame} events a frame"
    table = Table(title=f"{title} · {result.symbols:,} symbols", title_justify="left", show_header=False)
    for name, value in figures(result):
        table.add_row(name, value)
    console.print(table)
    console.print(_terms(result))
    for row in accounting_rows(result):
        console.print(f"{_mark(row.passed)} {row.what}: {row.figure}")
    console.print(machine_line(result.machine))


def print_rows(rows: Sequence[Row], machine: Machine, console: Console) -> None:
    """Targets against figures."""
    table = Table(title="mdp bench ingest · targets", title_justify="left")
    for column in ("what", "target", "figure", "pass"):
        table.add_column(column)
    for row in rows:
        table.add_row(row.what, row.target, row.figure, _mark(row.passed))
    console.print(table)
    console.print(machine_line(machine))


def _terms(result: Result) -> Table:
    """Every term of the accounting."""
    ring, sent = result.accounting.ring, result.sent
    table = Table(title="accounting", title_justify="left")
    for column in ("", "received", "processed", "expired", "dropped", "waiting"):
        table.add_column(column, justify="left" if not column else "right")
    for name, queue in sorted(result.accounting.queues.items()):
        terms = (queue.received, queue.processed, queue.expired, queue.dropped, queue.waiting)
        table.add_row(name, *(f"{term:,}" for term in terms))
    table.add_section()
    table.caption_justify = "left"
    by_type = f"T {sent.trades:,} · Q {sent.quotes:,} · A {sent.aggregates:,}"
    table.caption = (
        f"sent {sent.events:,} events ({by_type}) in {sent.frames:,} frames, {sent.acks:,} acks · "
        f"ring {ring.frames:,} frames = {ring.taken_frames:,} decoded + {ring.shed_frames:,} shed "
        f"({ring.shed_events:,} events) + {ring.waiting_frames:,} waiting · "
        f"rejected {result.accounting.refused:,} · connections {result.connections}"
    )
    return table


def _quantiles(found: Quantiles) -> str:
    return f"p50 {found.p50:.1f} · p99 {found.p99:.1f} · max {found.max:.1f} ms ({found.count:,} measured)"


def _mark(passed: bool) -> str:
    return "[green]ok[/green]" if passed else "[red]NO[/red]"
