"""Programs of the system that some tests need."""

from __future__ import annotations

import os
import shutil

import pytest


def find_program(*names: str) -> str | None:
    """The path of the first of several that is there."""
    return next((path for name in names if (path := shutil.which(name))), None)


def require_program(*names: str) -> pytest.MarkDecorator:
    """Skips a test where none of several programs is there. In CI that is a failure."""
    missing = find_program(*names) is None and os.environ.get("CI") != "true"
    return pytest.mark.skipif(missing, reason=f"needs {' or '.join(names)} in PATH")
