"""`python -m tests.failures`: play the matrix and write `docs/failures.md`."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path

import msgspec

from tests.failures import report
from tests.failures.cases import CASES, Case
from tests.failures.stage import Outcome, staged

_ATTEMPTS = 2
_STARVED_SECONDS = 1.0  # times that were taken on a machine that is busy with something else mean nothing


async def play(names: list[str], results: Path, logs: Path) -> None:
    """Play some cases; those of a kind share a cluster as long as it heals. Adds to the results."""
    stages = list(dict.fromkeys(CASES[name].kind for name in names))
    for kind in stages:
        todo = [name for name in names if CASES[name].kind == kind]
        while todo:
            todo = await _play_together(kind, todo, results, logs)


async def _play_together(kind: str, todo: list[str], results: Path, logs: Path) -> list[str]:
    """Play cases on one cluster; returns those that are left where it did not heal."""
    folder = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=logs))
    async with staged(folder, kind) as stage:
        while todo:
            name = todo.pop(0)
            case = CASES[name]
            try:
                for _ in range(_ATTEMPTS):
                    outcome = await stage.play(case.name, case.act)
                    if outcome.starved_s < _STARVED_SECONDS or not case.problems(outcome):
                        break
                    print(f"     again: {case.name}, no processor for {outcome.starved_s:.1f} s", flush=True)
            except AssertionError as error:
                _show(case, failed(case, str(error)), name, results)
                return todo
            _show(case, outcome, name, results)
    return []


def failed(case: Case, why: str) -> Outcome:
    """The outcome of a case that could not be played to its end."""
    return Outcome(
        name=case.name, boards_s=0, quotes_s=0, status_s=0, fresh_s=None, faults={}, notes={}, alerts=0,
        missing=0, uncovered=0, extra=0, false=0, accounting="", unknown=0, connections=0, rss_mb={},
        details=[], failed=why[:600] or "failed",
    )  # fmt: skip


def _show(case: Case, outcome: Outcome, name: str, results: Path) -> None:
    known = msgspec.json.decode(results.read_bytes()) if results.exists() else {}
    known[name] = outcome
    results.write_bytes(msgspec.json.format(msgspec.json.encode(known), indent=1))
    problems = case.problems(outcome)
    print(f"{'FAIL' if problems else 'ok  '} {case.name}: {'; '.join(problems)}", flush=True)
    print(
        f"     boards {outcome.boards_s:.1f} s, quotes {outcome.quotes_s:.1f} s, fresh {outcome.fresh_s}; "
        f"{outcome.accounting}; unknown {outcome.unknown}; alerts {outcome.alerts}, "
        f"missing {outcome.missing} ({outcome.uncovered} in no gap), extra {outcome.extra}; "
        f"notes {outcome.notes}; "
        f"connections {outcome.connections}",
        flush=True,
    )
    for detail in outcome.details[:6]:
        print(f"     {detail}", flush=True)


def main() -> None:
    """Play what is named; all of it where nothing is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}")
    parser.add_argument("--results", type=Path, default=Path("var/failures.json"), help="is added to")
    parser.add_argument("--logs", type=Path, default=None, help="folder for the processes' logs")
    parser.add_argument("--write-only", action="store_true", help="the page, out of earlier results")
    given = parser.parse_args()
    unknown = [name for name in given.cases if name not in CASES]
    if unknown:
        parser.error(f"no such case: {', '.join(unknown)}")
    given.results.parent.mkdir(parents=True, exist_ok=True)
    logs = given.logs or Path(tempfile.mkdtemp(prefix="mdp-failures-"))
    logs.mkdir(parents=True, exist_ok=True)
    print(f"logs: {logs}", flush=True)
    if not given.write_only:
        asyncio.run(play(given.cases or list(CASES), given.results, logs))
    if given.write_only or not given.cases:
        report.write(msgspec.json.decode(given.results.read_bytes(), type=dict[str, Outcome]))


if __name__ == "__main__":
    main()
