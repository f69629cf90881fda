"""`mdp bench ingest`: how fast, how soon and at what cost the real application takes a market in."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import uvloop
from rich.console import Console

from mdp.bench import options as checked
from mdp.bench import report, suite
from mdp.bench.options import IngestOptions
from mdp.bench.process import BenchError
from mdp.collector import spare_the_collector

EXIT_FAILED = 1  # the accounting is not exact, or the bench could not measure
EXIT_USAGE = 2


def main(options: IngestOptions, console: Console | None = None) -> int:
    """Measure as the options say and print what was found.

    Returns:
        0; 1 where events are unaccounted for or something did not come up; 2 for impossible options.
        Speed never decides: figures are to be read.
    """
    console = console or Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    try:
        checked.check(options)
    except ValueError as exc:
        console.print(f"mdp bench ingest: {exc}")
        return EXIT_USAGE
    try:
        if options.suite:
            return _suite(options, console)
        if options.compare_symbols:
            return _compare(options, console)
        from mdp.app import preload
        from mdp.bench import measure  # the whole application; the parent of a suite does without
        from mdp.config import Config

        preload(Config())  # as `mdp run` does
        spare_the_collector()
        result = uvloop.run(measure.run(options))
    except BenchError as exc:
        console.print(f"mdp bench ingest: {exc}")
        return EXIT_FAILED
    _write(options.json, result)
    report.print_result(result, console)
    return 0 if result.exact else EXIT_FAILED


def _suite(options: IngestOptions, console: Console) -> int:
    outcome = suite.targets(options, lambda text: console.print(text))
    _write(options.json, outcome)
    report.print_rows(outcome.rows, outcome.machine, console)
    return 0 if all(result.exact for result in outcome.results) else EXIT_FAILED


def _compare(options: IngestOptions, console: Console) -> int:
    outcome = suite.compare(options, lambda text: console.print(text))
    _write(options.json, outcome)
    report.print_rows(outcome.rows, outcome.machine, console)
    return 0 if all(result.exact for result in outcome.results) else EXIT_FAILED


def _write(path: str, what: object) -> None:
    if path:
        Path(path).write_bytes(msgspec.json.format(msgspec.json.encode(what), indent=2) + b"\n")


if __name__ == "__main__":  # a run of a suite, in a process of its own: memory starts from nothing
    sys.exit(main(msgspec.json.decode(sys.argv[1], type=IngestOptions)))
