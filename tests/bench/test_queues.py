"""`mdp bench queues`: real processes, short; and what it prints and returns. Speed is never asserted."""

from __future__ import annotations

import asyncio
import io
import os
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from rich.console import Console

from mdp.bench import queues, queues_report, queues_run
from mdp.bench.accounting import Check
from mdp.bench.chain_counts import ChainCounts, ProcessorCounts, Reader
from mdp.bench.figures import Quantiles
from mdp.bench.process import BenchError
from mdp.bench.queues_options import QueuesOptions
from mdp.bench.queues_result import Memory, Offered, QueuesResult, Side, Turn, possible
from mdp.cli import main
from tests.bench.test_report import MACHINE
from tests.required import require_tool

SMALL = QueuesOptions(
    symbols=300,
    seconds=0.5,
    warmup=0.0,
    clients=2,
    quotes=5,
    rate=4_000,
    latency_rate=2_000,
    open_seconds=1.0,
    credit_bytes=65_536,  # so little waits that nothing grows too old where others have the processor
    cores=64,
)


@pytest.fixture(autouse=True)
def _keep_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process of the tests stays where it is."""
    monkeypatch.setattr(queues, "cores", lambda most: set())


def turn(events: int, seconds: float, **cpu: float) -> Turn:
    return Turn(events, seconds, cpu, dict.fromkeys(cpu, 0.25))


def side(*turns: Turn, **changes: Any) -> Side:
    made = Side(checks=[Check("a", 1, 1)], connections=1, turns=list(turns), memory=[Memory("redis", 10, 12)])
    return msgspec.structs.replace(made, **changes)


def made_result(**changes: Any) -> QueuesResult:
    result = QueuesResult(
        machine=MACHINE,
        processors=1,
        wds=1,
        symbols=300,
        events_per_frame=100,
        cores=2,
        chain=side(
            turn(200_000, 1.0, listener=0.5, feeder=0.2), turn(600_000, 2.0, listener=1.1, feeder=0.3)
        ),
        alone=side(turn(500_000, 1.0, all=0.9), turn(1_000_000, 2.0, all=1.8), beside=[0.2, 0.3, 0.4]),
        offered=Offered(
            200_000,
            turn(1_000_000, 5.0, listener=1.0),
            commands={"xadd": 40_000, **{f"other{n}": 1_000 for n in range(20)}},
        ),
        moderate=Offered(50_000, turn(250_000, 5.0, listener=1.0), latency=Quantiles(7, 40.0, 90.0, 99.0)),
    )
    return msgspec.structs.replace(result, **changes)


def printed(result: QueuesResult) -> str:
    out = io.StringIO()
    queues_report.print_result(result, Console(file=out, width=400))
    return out.getvalue()


def test_the_ratio_is_that_of_neighbouring_turns() -> None:
    """200,000 of 500,000 and 300,000 of 500,000: the machine's mood hits both of a pair."""
    result = made_result()

    assert result.chain.rate == 250_000
    assert result.ratio == pytest.approx(0.5)
    assert result.chain.cpu_per_million == {"listener": pytest.approx(2.0), "feeder": pytest.approx(0.625)}


def test_what_is_possible_is_bound_by_all_cores_and_by_the_busiest_process() -> None:
    """A million events in 2.5 s of two cores; not where one process needs 3 s, unless there are two of it."""
    assert possible({"a": 2.0, "b": 2.0, "feeder": 1.0}, 2, {}) == pytest.approx(400_000)
    assert possible({"a": 3.0, "b": 1.0}, 2, {}) == pytest.approx(1e6 / 3)
    assert possible({"a": 3.0, "b": 1.0}, 2, {"a": 2}) == pytest.approx(500_000)
    assert possible({}, 2, {}) == 0
    assert made_result().cpu_rate == pytest.approx(500_000)
    assert made_result(alone=None).alone_cpu_rate == 0


def test_targets_and_figures_are_shown() -> None:
    """Commands for 1,000 events by name, the rest in one; what is below its target says NO."""
    text = printed(made_result())

    assert "ok events/s through Redis: 250,000 (≥ 200000)" in text
    assert "ok ratio to one process: 0.500 (≥ 0.4)" in text
    assert "60.0 per 1,000 events: xadd 40.00 · other0 1.00" in text
    assert "others 9.00" in text
    assert "p50 40.0 · p99 90.0" in text
    assert "2.00 = listener 2.00; feeder and clients 0.62" in text
    assert "(by CPU time 0.900: 500,000 and 555,556 events/s)" in text
    assert "the other side, idle, used 0.30 cores" in text
    assert "changed hands" not in text
    slow = made_result(chain=side(turn(1_000, 1.0)), alone=None)
    assert "NO events/s through Redis: 1,000" in printed(slow)
    assert "ratio to one process" not in printed(slow)


def test_what_is_not_exact_is_named() -> None:
    """Either side, a sum that is wrong or a connection that was lost; and a hand-over meanwhile."""
    reader = ProcessorCounts(reader=Reader(delivered=5))
    wrong = made_result(
        chain=side(checks=[Check("quotes: sent = decoded", 5, 4)]),
        alone=side(connections=2, cut="slow"),
        counts=ChainCounts(processors=[reader]),
    )

    assert not wrong.exact
    assert made_result().exact
    assert not made_result(alone=side(connections=2)).exact
    text = printed(wrong)
    assert "NO through Redis: quotes: sent = decoded: 5 against 4" in text
    assert "NO one process: 2 connections; cut: slow" in text
    assert "partitions changed hands: 5 events were read again" in text


def test_exit_codes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """1 where events are unaccounted for or nothing can be measured, 2 for options; all results are kept."""
    results = [made_result(), made_result(processors=2, alone=None)]

    async def run(options: QueuesOptions, processors: int, wds: int, *, alone: bool) -> QueuesResult:
        found = results[processors - 1]
        assert alone == (processors == 1)
        return found

    def code(**options: Any) -> int:
        path = str(tmp_path / "r.json")
        return queues.main(
            QueuesOptions(json=path, processors=[1, 2], **options), Console(file=io.StringIO())
        )

    monkeypatch.setattr(queues_run, "run", run)
    assert code() == 0
    kept = msgspec.json.decode((tmp_path / "r.json").read_bytes(), type=list[QueuesResult])
    assert [one.processors for one in kept] == [1, 2]
    results[1] = made_result(alone=None, chain=side(checks=[]))
    assert code() == 1
    assert code(seconds=0) == 2

    async def cannot(*_: object, **__: object) -> QueuesResult:
        raise BenchError("needs redis-server")

    monkeypatch.setattr(queues_run, "run", cannot)
    assert code() == 1


def test_sigterm_ends_what_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run is cancelled, so that it stops its processes; the exit code says why."""
    cleaned: list[bool] = []

    async def run(*_: object, **__: object) -> QueuesResult:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(60)
        finally:
            cleaned.append(True)
        return made_result()

    monkeypatch.setattr(queues_run, "run", run)

    assert queues.main(QueuesOptions(), Console(file=io.StringIO())) == 143
    assert cleaned == [True]


def test_the_command_refuses_other_replicas() -> None:
    """Before anything is started, in one line."""
    answer = CliRunner().invoke(main, ["bench", "queues", "--wds", "1,x"])

    assert answer.exit_code == 2
    assert '--wds: found "1,x"; allowed: numbers' in answer.output


def test_replicas_are_shown_beside_each_other() -> None:
    """One row for each run, costs by role; for one run there is nothing to compare."""
    out = io.StringIO()
    queues_report.print_replicas([made_result()], Console(file=out, width=200))
    assert out.getvalue() == ""

    queues_report.print_replicas([made_result(), made_result(processors=2)], Console(file=out, width=200))
    assert out.getvalue().count("250,000") == 2


@pytest.mark.slow
@pytest.mark.parametrize(("processors", "wds", "alone"), [(1, 1, True), (2, 2, False)])
async def test_every_event_through_redis_is_accounted_for(processors: int, wds: int, alone: bool) -> None:
    """Real processes: all that is sent is processed, clients see it, and Redis's commands are counted."""
    require_tool("redis-server")

    result = await queues_run.run(SMALL, processors, wds, alone=alone)

    assert [check for check in result.chain.checks if not check.exact] == []
    assert result.exact
    assert (result.alone is not None) == alone
    assert result.chain.sent.events == result.counts.settled > 900
    assert result.chain.rate > 0
    assert result.chain.clients.clients == 2 * wds
    assert result.moderate is not None
    assert result.moderate.latency.count > 0
    assert result.offered is not None
    assert {"xadd", "xread"} <= set(result.offered.commands)
    assert len(result.chain.memory) == 2 + processors + wds
    assert set(result.chain.turns[0].cpu) == {"feeder", "listener", "processor", "redis", "wds"}
    assert "accounting through Redis" in printed(result)
