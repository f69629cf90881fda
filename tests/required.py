"""What tests need of the system: without it they skip, and in CI they fail."""

from __future__ import annotations

import os
import shutil

import pytest


def require_tool(command: str, package: str = "") -> str:
    """The path of a command; `package` has it on Debian.

    Where it is missing, the test skips; with CI=true it fails, lest nobody notice that nothing is tested.
    """
    path = shutil.which(command)
    if path is not None:
        return path
    words = f"needs {command} in PATH (Debian: {package or command})"
    if os.environ.get("CI") == "true":
        pytest.fail(words)
    pytest.skip(words)


def find_program(*names: str) -> str | None:
    """The path of the first of several that is there."""
    return next((path for name in names if (path := shutil.which(name))), None)


def require_program(*names: str) -> pytest.MarkDecorator:
    """Skips a test where none of several programs is there. In CI that is a failure: of the test."""
    missing = find_program(*names) is None and os.environ.get("CI") != "true"
    return pytest.mark.skipif(missing, reason=f"needs {' or '.join(names)} in PATH")
