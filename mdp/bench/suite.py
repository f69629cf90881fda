"""Several runs and one verdict: the issue's table of targets, and the cost of many symbols.

Each run is a process of its own, so that one run's memory is not another's peak.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from mdp.bench import report
from mdp.bench.demo_start import seconds_to_first_row
from mdp.bench.figures import middle, ratio
from mdp.bench.options import IngestOptions
from mdp.bench.process import BenchError, Machine
from mdp.bench.report import Row, at_least, at_most, holds
from mdp.bench.result import Result

_RING_MB = 64 * 1.048576
_RUN_SECONDS = 600  # after which a run counts as hung
_NOTHING_LOST = "  shed, expired, dropped, rejected; sums"
_ROUNDS = 2  # of a comparison, alternating, so that the machine's mood hits both sides


class Outcome(msgspec.Struct):
    """What several runs found."""

    machine: Machine
    rows: list[Row]
    results: list[Result]


Say = Callable[[str], None]


def targets(base: IngestOptions, say: Say) -> Outcome:
    """The issue's whole table, each run short; under six minutes.

    Raises:
        BenchError: A run could not measure.
    """
    rows: list[Row] = []
    results: list[Result] = []
    short = msgspec.structs.replace(base, suite=False, json="", seconds=9.0, warmup=3.0)

    def measured(what: str, **changes: object) -> Result:
        say(what)
        result = run(msgspec.structs.replace(short, **changes))
        results.append(result)
        return result

    shapes: list[tuple[str, float, dict[str, object]]] = [
        ("100 events a frame, 2:8:1", 0.25, {}),
        ("100 events a frame, aggregates only", 0.20, {"mix": "aggregates"}),
        ("10 events a frame, 2:8:1", 0.12, {"events_per_frame": 10}),
    ]
    for what, least, changes in shapes:
        result = measured(f"throughput: {what}", **changes)
        note = f"  ({result.rate:,.0f} of {result.bare_rate:,.0f} events/s; {disturbance(result)})"
        rows.append(at_least(f"ratio, {what}", result.ratio, least, note=note))
        rows += loss_rows(result)
    result = measured("latency: 100,000 events/s", mode="open", rate="100000", seconds=15.0)
    rows += latency_rows(result)
    rows += loss_rows(result)
    result = measured("memory: 11,000 symbols, 2,000 full windows", symbols=11_000, full_windows=2_000)
    rows.append(at_most("RSS peak, 11,000 symbols, 2,000 full trade windows, MB", result.rss_peak_mb, 600))
    rows += loss_rows(result)
    compared = compare(msgspec.structs.replace(short, seconds=6.0, compare_symbols=[1_000, 20_000]), say)
    rows += compared.rows
    results += compared.results
    # With all windows full from the start: a minute of so many trades fills two thirds of them, the more the
    # faster we are, and this is about what waits.
    result = measured(
        "overload: 1.5 times the throughput for a minute",
        mode="open",
        rate="1.5x",
        seconds=60.0,
        symbols=11_000,
        full_windows=11_000,
    )
    rows += overload_rows(result)
    say("start: mdp run --demo to the first row")
    rows.append(at_most("from mdp run --demo to the first row in a client, s", seconds_to_first_row(), 5))
    return Outcome(Machine.here(), rows, results)


def compare(base: IngestOptions, say: Say) -> Outcome:
    """CPU per event with few and with many symbols, each divided by bare decoding of its own frames.

    Raises:
        BenchError: A run could not measure.
    """
    counts = base.compare_symbols
    plain = msgspec.structs.replace(base, compare_symbols=[], json="", suite=False, mode="closed")
    costs: dict[int, list[float]] = {count: [] for count in counts}
    results = []
    for number in range(_ROUNDS):
        for count in counts:
            say(f"{count:,} symbols, round {number + 1} of {_ROUNDS}")
            full = min(plain.full_windows, count)
            result = run(msgspec.structs.replace(plain, symbols=count, full_windows=full))
            results.append(result)
            costs[count].append(result.cpu_in_bare)
    rows = []
    few = min(counts)
    for count in counts:
        if count != few:
            cost, least = middle(costs[count]), middle(costs[few])
            what = f"CPU per event at {count:,} symbols against {few:,}, in bare decodes"
            rows.append(at_most(what, ratio(cost, least), 1.5, "{:.2f}", f"  ({cost:.2f} and {least:.2f})"))
    failed = [row for result in results for row in loss_rows(result) if not row.passed]
    rows += failed or [holds(_NOTHING_LOST, True, f"0 in {len(results)} runs", "0; exact")]
    return Outcome(Machine.here(), rows, results)


def disturbance(result: Result) -> str:
    """What to hold against a figure of a closed loop: the machine was busy with something else."""
    return f"by CPU time {result.cpu_ratio:.3f}, {result.crowded:.0%} waiting for a core"


def loss_rows(result: Result) -> list[Row]:
    """Nothing may be lost in this run; rows only for what went wrong, and one that says what held."""
    lost = result.accounting.lost
    rows = [row for row in report.accounting_rows(result) if not row.passed]
    rows.append(holds(_NOTHING_LOST, lost == 0 and not rows, f"{lost:,}", "0; exact"))
    return rows


def latency_rows(result: Result) -> list[Row]:
    """The targets of the open loop at 100,000 events/s."""
    latency, lag = result.clients.latency, result.lag_ms
    note = f"  (p50 {latency.p50:.1f}, max {latency.max:.1f}, {latency.count:,} quotes)"
    return [
        at_most("frame due to quote at the client, p99, ms", latency.p99, 50, note=note),
        at_most("event-loop lag p99 in that run, ms", lag.p99, 10, note=f"  (p50 {lag.p50:.1f})"),
        at_most(
            "longest step, warm-up included, ms",
            result.longest_work_ms,
            20,
            note=f"  (a turn of the loop, of its processor time; lag {result.longest_lag_ms:.1f}; longest"
            f" step of a stage, by the clock: {result.longest_step_ms:.1f}, {result.longest_stage})",
        ),
    ]


def overload_rows(result: Result) -> list[Row]:
    """The targets of a minute at 1.5 times the throughput."""
    lost = result.accounting.lost
    rows = [
        at_most(
            "overload: RSS peak, MB",
            result.rss_peak_mb,
            round(1.3 * result.rss_normal_mb + _RING_MB),
            note=f"  ({result.rss_normal_mb:.0f} before)",
        ),
        holds(
            "overload: never cut by the slow-consumer rule",
            not result.cut,
            result.cut or "not cut",
            "not cut",
        ),
        at_most("overload: age of what is delivered, max, ms", result.clients.latency.max, 2_000, "{:.0f}"),
        holds(
            "overload: clients stay connected",
            not result.clients.closes,
            f"{result.clients.closes} closed",
            "0",
        ),
    ]
    wrong = [row for row in report.accounting_rows(result) if not row.passed]
    rows += wrong
    figure = (
        f"{result.open_processed_rate:,.0f} of {result.open_rate:,.0f} events/s, {lost:,} lost and counted"
    )
    rows.append(holds("overload: accounting", not wrong, figure))
    return rows


def run(options: IngestOptions) -> Result:
    """One run in a process of its own.

    Raises:
        BenchError: It ended without a result.
    """
    with tempfile.TemporaryDirectory(prefix="mdp-bench-") as folder:
        path = Path(folder) / "result.json"
        asked = msgspec.json.encode(msgspec.structs.replace(options, json=str(path))).decode()
        command = [sys.executable, "-m", "mdp.bench.ingest", asked]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_RUN_SECONDS, check=False)  # noqa: S603 (our own module)
        except subprocess.TimeoutExpired:
            raise BenchError(f"a run did not end within {_RUN_SECONDS} s") from None
        if not path.exists():
            said = (done.stdout + done.stderr).strip().splitlines()
            raise BenchError(f"a run failed: {said[-1] if said else f'exit code {done.returncode}'}")
        return msgspec.json.decode(path.read_bytes(), type=Result)
