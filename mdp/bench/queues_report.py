"""How the figures of `mdp bench queues` are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from mdp.bench.chain_counts import ChainCounts
from mdp.bench.figures import Quantiles, middle, ratio
from mdp.bench.queues_result import Offered, QueuesResult, Side, Turn, cpu_per_million
from mdp.bench.report import Row, at_least, at_most, machine_line

TARGET_RATIO = 0.4
TARGET_RATE = 200_000
TARGET_COMMANDS = 60
_MOST_COMMANDS = 12  # named one by one


def targets(result: QueuesResult) -> list[Row]:
    """The issue's targets that this run has a figure for."""
    rows = [at_least("events/s through Redis", result.chain.rate, TARGET_RATE, "{:,.0f}")]
    if result.alone is not None:
        rows.append(at_least("ratio to one process", result.ratio, TARGET_RATIO))
    if result.offered is not None:
        what = f"Redis commands per 1,000 events at {result.offered.rate:,.0f}/s offered"
        rows.append(at_most(what, result.offered.commands_per_1000, TARGET_COMMANDS))
    return rows


def print_result(result: QueuesResult, console: Console) -> None:
    """One run in full."""
    title = f"mdp bench queues · {result.processors} processors · {result.wds} wds · {result.cores} cores"
    frame = f"{result.events_per_frame} events a frame · {result.symbols:,} symbols"
    table = Table(title=f"{title} · {frame}", title_justify="left", show_header=False)
    for name, value in figures(result):
        table.add_row(name, value)
    console.print(table)
    for row in targets(result):
        console.print(f"{_mark(row.passed)} {row.what}: {row.figure} ({row.target})")
    console.print(_terms(result))
    for line in accounting_lines(result):
        console.print(line)
    console.print(machine_line(result.machine))


def figures(result: QueuesResult) -> list[tuple[str, str]]:
    """Name and value of everything measured, in order."""
    found = [("through Redis", _rates(result.chain, result.closed_lost))]
    if result.alone is not None:
        found += [
            ("one process, in turns with it", _rates(result.alone, result.alone.lost)),
            (
                "ratio",
                f"{result.ratio:.3f} (by CPU time {ratio(result.cpu_rate, result.alone_cpu_rate):.3f}: "
                f"{result.cpu_rate:,.0f} and {result.alone_cpu_rate:,.0f} events/s)",
            ),
        ]
    found += [
        ("decoding alone", f"{result.bare_rate:,.0f} events/s"),
        ("CPU s per million events", _costs(result.chain.cpu_per_million)),
        ("cores used, and waited for", _shares(result.chain.turns)),
    ]
    if result.alone is not None:
        found.append(("the same of one process", _costs(result.alone.cpu_per_million)))
        found.append(("cores used, and waited for", _shares(result.alone.turns)))
    if result.offered is not None:
        found += [*_offered(result.offered), ("Redis commands", _commands(result.offered))]
    if result.moderate is not None:
        found += [
            *_offered(result.moderate),
            ("frame due to quote at the client", _quantiles(result.moderate.latency)),
            ("the sender's own lateness", _quantiles(result.moderate.lateness)),
        ]
    for side in (result.chain, result.alone):
        if side is not None:
            memory = " · ".join(f"{one.name} {one.rss_mb:.0f} ({one.peak_mb:.0f})" for one in side.memory)
            found.append(("RSS in the end (peak), MB", memory))
    clients = result.chain.clients
    found.append(
        (
            "clients, last phase",
            f"{clients.clients} connected, {clients.closes} closed; {clients.messages:,} messages: "
            f"{clients.quotes:,} quotes, {clients.repeats:,} repeats, {clients.boards:,} boards",
        )
    )
    return found


def accounting_lines(result: QueuesResult) -> list[str]:
    """Whether all sums are exact; where not, which ones."""
    lines = []
    if result.counts.replayed:
        lines.append(f"partitions changed hands: {result.counts.replayed:,} events were read again")
    for name, side in (("through Redis", result.chain), ("one process", result.alone)):
        if side is None:
            continue
        wrong = [check for check in side.checks if not check.exact]
        lines += [f"{_mark(False)} {name}: {c.name}: {c.left:,} against {c.right:,}" for c in wrong]
        if not wrong:
            lines.append(f"{_mark(True)} accounting {name}, {len(side.checks)} sums: all exact")
        if side.connections != 1 or side.cut:
            cut = f"; cut: {side.cut}" if side.cut else ""
            lines.append(f"{_mark(False)} {name}: {side.connections} connections{cut}")
    return lines


def print_replicas(results: Sequence[QueuesResult], console: Console) -> None:
    """What one more of a role costs: all runs beside each other."""
    if len(results) < 2:
        return
    table = Table(title="replicas", title_justify="left")
    columns = ("processors", "wds", "events/s", "listener", "redis", "processor", "wds ", "feeder")
    for column in (*columns, "commands/1,000", "p50 ms", "p99 ms", "RSS MB", "read again"):
        table.add_column(column, justify="right")
    for result in results:
        costs = cpu_per_million([result.offered.turn] if result.offered else result.chain.turns)
        latency = result.moderate.latency if result.moderate else Quantiles()
        table.add_row(
            str(result.processors),
            str(result.wds),
            f"{result.chain.rate:,.0f}",
            *(f"{costs.get(name, 0.0):.2f}" for name in ("listener", "redis", "processor", "wds", "feeder")),
            f"{result.offered.commands_per_1000:.1f}" if result.offered else "-",
            f"{latency.p50:.1f}",
            f"{latency.p99:.1f}",
            f"{sum(one.rss_mb for one in result.chain.memory):.0f}",
            f"{result.counts.replayed:,}",
        )
    table.caption = (
        "listener to feeder: CPU seconds per million events at the offered rate, all replicas together; "
        "read again: partitions changed hands meanwhile, and the row is worth little"
    )
    table.caption_justify = "left"
    console.print(table)


def _rates(side: Side, lost: int) -> str:
    rates = sorted(turn.rate for turn in side.turns)
    spread = f"turns {rates[0]:,.0f} to {rates[-1]:,.0f}" if rates else "no turn"
    beside = f"; the other side, idle, used {middle(side.beside):.2f} cores" if any(side.beside) else ""
    return f"{side.rate:,.0f} events/s ({spread}; {lost:,} lost{beside})"


def _costs(costs: Mapping[str, float]) -> str:
    feeder = costs.get("feeder", 0.0)
    parts = " · ".join(f"{name} {cost:.2f}" for name, cost in costs.items() if name != "feeder")
    return f"{sum(costs.values()) - feeder:.2f} = {parts}; feeder and clients {feeder:.2f}"


def _shares(turns: Sequence[Turn]) -> str:
    """Of the time, by process: at work, and ready while others had the cores."""
    wall = sum(turn.wall_seconds for turn in turns)
    names = dict.fromkeys(name for turn in turns for name in turn.cpu)

    def share(name: str) -> str:
        used, waited = (sum(one.get(name, 0.0) for one in of) for of in _columns(turns))
        return f"{name} {ratio(used, wall):.2f} + {ratio(waited, wall):.2f}"

    total = ratio(sum(turn.cores * turn.wall_seconds for turn in turns), wall)
    return f"{total:.2f} in all: " + " · ".join(share(name) for name in names)


def _columns(turns: Sequence[Turn]) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    return [turn.cpu for turn in turns], [turn.waited for turn in turns]


def _offered(offered: Offered) -> list[tuple[str, str]]:
    turn = offered.turn
    return [
        (
            f"offered {offered.rate:,.0f} events/s",
            f"{turn.rate:,.0f} processed meanwhile, {offered.lost:,} lost; {turn.wall_seconds:.0f} s",
        ),
        ("CPU s per million events", _costs(cpu_per_million([turn]))),
    ]


def _commands(offered: Offered) -> str:
    """Calls for 1,000 events by command, the most first."""
    events = offered.turn.events
    rows = list(offered.commands.items())
    named = [f"{name} {ratio(1_000 * calls, events):.2f}" for name, calls in rows[:_MOST_COMMANDS]]
    rest = sum(calls for _, calls in rows[_MOST_COMMANDS:])
    more = [f"others {ratio(1_000 * rest, events):.2f}"] if rest else []
    return f"{offered.commands_per_1000:.1f} per 1,000 events: " + " · ".join([*named, *more])


def _quantiles(found: Quantiles) -> str:
    return f"p50 {found.p50:.1f} · p99 {found.p99:.1f} · max {found.max:.1f} ms ({found.count:,} measured)"


def _terms(result: QueuesResult) -> Table:
    """Every term of the chain's accounting."""
    counts: ChainCounts = result.counts
    table = Table(title="accounting, through Redis", title_justify="left")
    names = ("received", "expired", "dropped", "waiting", "into Redis", "processed", "expired", "missed")
    for column in ("", *names, "unreadable"):
        table.add_column(column, justify="left" if not column else "right")
    for name, inbox in sorted(counts.listener.queues.items()):
        end = counts.queue(name)
        terms = (inbox.received, inbox.expired, inbox.dropped, inbox.waiting, inbox.taken)
        after = (end.processed, end.expired, end.missed, end.unreadable)
        table.add_row(name, *(f"{term:,}" for term in (*terms, *after)))
    ring, sent, streams = counts.listener.ring, result.chain.sent, counts.listener.streams
    by_type = f"T {sent.trades:,} · Q {sent.quotes:,} · A {sent.aggregates:,}"
    refused = sum(counts.listener.rejected.values())
    table.caption_justify = "left"
    table.caption = (
        f"sent {sent.events:,} events ({by_type}) in {sent.frames:,} frames, {sent.acks:,} acks · "
        f"ring {ring.frames:,} frames = {ring.taken_frames:,} decoded + {ring.shed_frames:,} shed "
        f"({ring.shed_events:,} events) + {ring.waiting_frames:,} waiting · rejected {refused:,} · "
        f"streams {streams.sent:,} written, {streams.lost:,} lost, {streams.unwritable:,} unwritable · "
        f"fenced {counts.fenced:,}"
    )
    return table


def _mark(passed: bool) -> str:
    return "[green]ok[/green]" if passed else "[red]NO[/red]"
