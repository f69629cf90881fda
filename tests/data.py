"""Where tests find the recorded market data, which is never part of the repository.

`MDPTEST_DATA` names the folder; without it, it is `../shared/data` beside the repository. A test that
needs it skips where it is absent, unless `MDPTEST_REQUIRE_DATA=1` says that it must be there.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[1]


def data_folder() -> Path:
    """Where the recorded data should be, whether it is there or not."""
    return Path(os.environ.get("MDPTEST_DATA") or _ROOT.parent / "shared" / "data")


def data_file(name: str) -> Path:
    """The path of one recorded file; skips the test where it is absent, fails it where it must not be."""
    path = data_folder() / name
    if not path.exists():
        if os.environ.get("MDPTEST_REQUIRE_DATA") == "1":
            pytest.fail(f"MDPTEST_REQUIRE_DATA=1, but there is no {path}")
        pytest.skip(f"no recorded data: {path} is absent")
    return path
