"""The table of `docs/failures.md`, out of what was measured."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from tests.failures.cases import CASES
from tests.failures.stage import Outcome

PAGE = Path(__file__).parent.parent.parent / "docs" / "failures.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def table(outcomes: Mapping[str, Outcome]) -> str:
    """Rows in the order of the cases; those that were not played are named."""
    lines = [
        "| case | boards, s | quotes, s | first board after, s | faults "
        "| alerts: told, missing, of them in no gap, marked, false | events | growth, MB | verdict |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, case in CASES.items():
        if name not in outcomes:
            continue
        one = outcomes[name]
        if one.failed:
            lines.append(f"| {case.name} | | | | | | | | not played to its end: {_short(one.failed)} |")
            continue
        faults = ", ".join(f"{count} {what}" for what, count in one.faults.items()) or "none"
        unknown = f"; {one.unknown:,} not accounted for" if one.unknown else ""
        fresh = "" if one.fresh_s is None else f"{one.fresh_s:.1f}"
        lines.append(
            f"| {case.name} | {one.boards_s:.1f} | {one.quotes_s:.1f} | {fresh} | {faults} "
            f"| {one.alerts}, {one.missing}, {one.uncovered}, {one.extra}, {one.false} "
            f"| {one.accounting}{unknown} | {_growth(one):.0f} "
            f"| {'; '.join(case.problems(one)) or 'as it should be'} |"
        )
    left = [case.name for name, case in CASES.items() if name not in outcomes]
    if left:
        lines += ["", f"Not played in this run: {'; '.join(left)}."]
    return "\n".join(lines)


def write(outcomes: Mapping[str, Outcome], page: Path = PAGE) -> None:
    """Put the table, with date and machine, between the marks of the page.

    Raises:
        ValueError: The page has no such marks.
    """
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page}: needs {BEGIN} and {END}")
    machine = f"{os.cpu_count()} processors, {platform.system()}, Python {platform.python_version()}"
    when = datetime.now(UTC).date().isoformat()
    page.write_text(
        f"{before}{BEGIN}\nMeasured {when}: {machine}.\n\n{table(outcomes)}\n{END}{after}", encoding="utf-8"
    )


def _growth(one: Outcome) -> float:
    grown = (most - before for before, most, _ in one.rss_mb.values() if before)
    return max(grown, default=0.0)


def _short(text: str) -> str:
    return " ".join(text.replace("|", "/").split())[:160]
