"""Configuration files of a test, and what a refusal of one has to look like."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdp.config import ConfigError
from mdp.config_load import load

SECRET = "s3cret-S3CRET"


def write(text: str, name: str = "test.toml") -> str:
    """A configuration file in the current folder; returns its path."""
    Path(name).write_text(text, encoding="utf-8")
    return name


def refusal(
    text: str = "", environ: dict[str, str] | None = None, flags: dict[str, object] | None = None
) -> str:
    """The message that a configuration is refused with, checked to be one line."""
    with pytest.raises(ConfigError) as caught:
        load(write(text), environ or {}, flags or {})
    message = str(caught.value)
    assert message.isprintable(), "a refusal is one line without control characters"
    return message
