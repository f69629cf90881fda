"""The whole bench, short: the real application, feeder and clients. Speed is never asserted."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from mdp.bench import ingest, suite
from mdp.bench.options import IngestOptions
from mdp.bench.result import Result

SMALL = IngestOptions(symbols=200, seconds=1.0, warmup=0.3, clients=2, quotes=5)


def test_impossible_options_exit_with_2() -> None:
    """Nothing is started."""
    out = io.StringIO()

    code = ingest.main(msgspec.structs.replace(SMALL, clients=0), Console(file=out))

    assert code == 2
    assert "clients must be from 1" in out.getvalue()


def test_an_inexact_account_exits_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exit code of a suite is decided by the accounting of its runs."""
    from tests.bench.test_report import MACHINE, make_result

    bad = suite.Outcome(MACHINE, [], [make_result(connections=2)])
    monkeypatch.setattr(suite, "targets", lambda options, say: bad)

    assert ingest.main(IngestOptions(suite=True), Console(file=io.StringIO())) == 1


def test_closed_loop_accounts_for_every_event() -> None:
    """Everything sent is processed, nothing is lost, and clients saw quotes and boards."""
    # So little waits at a time that nothing grows too old where others have the processor.
    result = suite.run(msgspec.structs.replace(SMALL, full_windows=3, credit_bytes=256 * 1024))

    assert [check for check in result.checks if not check.exact] == []
    assert result.exact
    assert "failures of the analyzer top_trades" in [check.name for check in result.checks]
    assert result.accounting.lost == 0
    assert result.fill_events == 3 * 200 + 3 * 1_100
    assert result.accounting.queues["quotes"].processed == result.sent.quotes > 0
    assert result.clients.clients == 2
    assert result.clients.quotes > 0
    assert min(result.rate, result.bare_rate, result.ratio, result.cpu_us_per_event) > 0
    assert result.rss_peak_mb >= result.rss_end_mb > 10


def test_open_loop_counts_latency_of_quotes(tmp_path: Path) -> None:
    """A slow fixed rate: all of it is offered, processed and accounted for; aggregates only, ten a frame."""
    options = msgspec.structs.replace(
        SMALL, mode="open", rate="5000", mix="aggregates", events_per_frame=10, json=str(tmp_path / "r.json")
    )
    result = suite.run(options)

    assert result.exact
    assert result.accounting.lost == 0
    assert (result.sent.trades, result.sent.quotes) == (0, 0)
    assert result.sent.aggregates == 200 + 1_500 + 5_000
    assert result.clients.latency.count == result.clients.quotes > 0
    assert isinstance(result, Result)


def test_trouble_at_the_providers_rest_loses_no_event(tmp_path: Path) -> None:
    """A run without any reference values accounts for everything, and clients see their quotes."""
    options = msgspec.structs.replace(SMALL, mode="open", rate="5000", rest="500")
    result = suite.run(options)

    assert result.exact
    assert result.accounting.lost == 0
    assert result.clients.quotes > 0
