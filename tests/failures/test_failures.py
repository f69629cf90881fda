"""The failure matrix as tests: whoever dies, clients see nothing twice, nothing go back, no false high."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.failures.cases import CASES
from tests.failures.cluster import faketime_library
from tests.failures.stage import staged

KINDS = list(dict.fromkeys(case.kind for case in CASES.values()))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
async def test_the_matrix(kind: str, tmp_path: Path) -> None:
    """Every case of a kind, one after the other on the same processes."""
    if kind == "skewed" and not faketime_library():
        pytest.skip("needs libfaketime (Debian: faketime)")
    problems: dict[str, list[str]] = {}
    async with staged(tmp_path, kind) as stage:
        for case in CASES.values():
            if case.kind == kind and (found := case.problems(await stage.play(case.name, case.act))):
                problems[case.name] = found
    assert problems == {}
