"""From results to what is printed and decided."""

from __future__ import annotations

import io

import msgspec
import pytest
from rich.console import Console

from mdp.bench import report, suite
from mdp.bench.accounting import Accounting, Check, QueueTerms
from mdp.bench.clients import ClientFigures
from mdp.bench.figures import Quantiles
from mdp.bench.options import IngestOptions, check
from mdp.bench.process import BenchError, Machine
from mdp.bench.result import Result, Segment

MACHINE = Machine(date="2026-03-10T10:30:00+00:00", python="3.11.7", cpu="a cpu", cores=2)


def make_result(**changes: object) -> Result:
    result = Result(
        machine=MACHINE, mode="closed", mix="all", symbols=100, events_per_frame=100, connections=1
    )
    return msgspec.structs.replace(result, **changes)


def segment(rate: float, bare: float) -> Segment:
    return Segment(events=int(rate * 2), wall_seconds=2, cpu_seconds=1, bare_rate=bare, bare_cpu_rate=bare)


def shown(result: Result) -> str:
    out = io.StringIO()
    report.print_result(result, Console(file=out, width=200))
    return out.getvalue()


def test_rate_and_ratio_are_medians_of_segments() -> None:
    """A disturbed segment decides neither; a ratio pairs each segment with its own bare slices."""
    result = make_result(segments=[segment(100, 400), segment(300, 1_000), segment(10, 1_000)])

    assert result.rate == 100
    assert result.ratio == pytest.approx(0.25)


def test_a_result_is_exact_only_on_one_uncut_connection() -> None:
    """Sums that hold are not enough where the feeder had to cut, or the platform connected twice."""
    good = Check("sum", 1, 1)

    assert make_result(checks=[good]).exact
    assert not make_result(checks=[good, Check("other", 1, 2)]).exact
    assert not make_result(checks=[good], connections=2).exact
    assert not make_result(checks=[good], cut="64 MiB wait").exact


def test_the_report_names_what_is_wrong_and_both_counts() -> None:
    """A failed sum can be read without the JSON."""
    text = shown(make_result(checks=[Check("quotes: sent = decoded", 80, 79)], cut="70 bytes wait"))

    assert "NO quotes: sent = decoded: 80 against 79" in text
    assert "cut: 70 bytes wait" in text


def test_the_report_shows_figures_of_each_mode() -> None:
    """Closed loop prints throughput and ratio, open loop latency and what was offered."""
    closed = shown(make_result(segments=[segment(100_000, 400_000)], checks=[Check("sum", 1, 1)]))
    latency = Quantiles(count=9, p50=1.5, p99=20.25, max=31.0)
    opened = shown(make_result(open_rate=50_000.0, open_seconds=3.0, clients=ClientFigures(latency=latency)))

    assert "ratio" in closed
    assert "0.250" in closed
    assert "offered" not in closed
    assert "50,000 events/s for 3 s" in opened
    assert "p50 1.5 · p99 20.2 · max 31.0 ms (9 measured)" in opened
    assert "a cpu · 2 cores" in opened


def test_a_result_survives_json() -> None:
    """What a run of a suite writes, the suite reads."""
    result = make_result(segments=[segment(1, 2)], checks=[Check("sum", 1, 1)], cut="x")

    assert msgspec.json.decode(msgspec.json.encode(result), type=Result) == result


@pytest.mark.parametrize(
    ("row", "passed"),
    [
        (report.at_least("x", 0.25, 0.25), True),
        (report.at_least("x", 0.249, 0.25), False),
        (report.at_most("x", 50, 50), True),
        (report.at_most("x", 50.1, 50), False),
        (report.holds("x", True, "yes"), True),
    ],
)
def test_targets_include_their_limit(row: report.Row, passed: bool) -> None:
    """At least and at most mean what they say."""
    assert row.passed is passed


def test_loss_in_a_throughput_run_fails_its_row() -> None:
    """Nothing may expire there, even where all sums are exact."""
    lossy = Accounting(queues={"trades": QueueTerms(received=5, processed=3, expired=2)})

    assert [row.passed for row in suite.loss_rows(make_result())] == [True]
    assert [row.passed for row in suite.loss_rows(make_result(accounting=lossy))] == [False]


def test_overload_rows_judge_memory_age_and_the_connection() -> None:
    """RSS may grow by 0.3 and the ring; what is delivered is under 2 s old; nothing is cut."""
    fine = make_result(
        rss_normal_mb=100.0, rss_peak_mb=190.0, clients=ClientFigures(latency=Quantiles(1, 5, 5, 1_999))
    )
    bad = msgspec.structs.replace(
        fine,
        rss_peak_mb=200.0,
        cut="10 s",
        clients=ClientFigures(closes=1, latency=Quantiles(1, 5, 5, 2_001)),
    )

    assert all(row.passed for row in suite.overload_rows(fine))
    assert [row.passed for row in suite.overload_rows(bad)] == [False] * 6


def test_comparison_pairs_runs_and_divides_by_bare_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each side is the median of its rounds, in units of its own frames' bare decoding."""
    costs = {1_000: iter([4.0, 6.0]), 20_000: iter([7.0, 9.0])}
    order: list[int] = []

    def run(options: IngestOptions) -> Result:
        order.append(options.symbols)
        return make_result(cpu_in_bare=next(costs[options.symbols]), symbols=options.symbols)

    monkeypatch.setattr(suite, "run", run)

    outcome = suite.compare(IngestOptions(compare_symbols=[1_000, 20_000]), lambda _: None)

    assert order == [1_000, 20_000, 1_000, 20_000]
    assert outcome.rows[0].figure == "1.60  (8.00 and 5.00)"
    assert [row.passed for row in outcome.rows] == [False, True]
    assert outcome.rows[1].figure == "0 in 4 runs"


def test_comparison_shows_each_run_that_lost_something(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fast run that dropped events is no measurement of cost."""
    lossy = Accounting(rejected={"malformed": 2})
    monkeypatch.setattr(suite, "run", lambda options: make_result(cpu_in_bare=1.0, accounting=lossy))

    outcome = suite.compare(IngestOptions(compare_symbols=[10, 20]), lambda _: None)

    assert [row.passed for row in outcome.rows] == [True, False, False, False, False]


def test_a_busy_machine_is_named_beside_the_figure() -> None:
    """The ratio by CPU time and the share of waiting tell a slow platform from a busy machine."""
    assert suite.disturbance(make_result(cpu_in_bare=4.0, crowded=0.25)) == (
        "by CPU time 0.250, 25% waiting for a core"
    )


def test_a_run_without_a_result_is_an_error_with_its_last_words() -> None:
    """A crash of a run is not a missing row."""
    with pytest.raises(BenchError, match="seconds must be from"):
        suite.run(IngestOptions(seconds=0))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rate": "fast"}, "rate"),
        ({"rate": "0"}, "rate"),
        ({"rate": "nan"}, "rate"),
        ({"rate": "-2x"}, "rate"),
        ({"symbols": 1}, "symbols"),
        ({"seconds": float("nan")}, "seconds"),
        ({"full_windows": 12_000}, "full_windows"),
        ({"compare_symbols": [1]}, "compare_symbols"),
    ],
)
def test_impossible_options_are_refused_by_name(changes: dict[str, object], named: str) -> None:
    """One line says which option, what was found and what is allowed."""
    with pytest.raises(ValueError, match=f"^{named} must be"):
        check(msgspec.structs.replace(IngestOptions(), **changes))


def test_rates_are_numbers_or_multiples() -> None:
    """`1.5x` is a multiple of the throughput, in open loop only."""
    assert IngestOptions(mode="open", rate="1.5x").multiple == 1.5
    assert IngestOptions(mode="closed", rate="1.5x").multiple == 0
    assert IngestOptions(mode="open", rate="5e4").events_per_second == 50_000
    assert IngestOptions(mode="open", rate="5e4").multiple == 0
