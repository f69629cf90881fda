"""The kinds of values that a trading day's warm-up asks for, and how far each is."""

from __future__ import annotations

from typing import Literal

import msgspec

SourceName = Literal["splits", "snapshot", "sessions", "float"]
SOURCES: tuple[SourceName, ...] = ("splits", "snapshot", "sessions", "float")
ANSWERED = ("done", "absent")


class Progress(msgspec.Struct, frozen=True):
    """How far the warm-up is. `total` is what is known to be needed now and may still grow."""

    done: int  # calls answered
    total: int
    symbols: int


class Source(msgspec.Struct):
    """One kind of value: `wanted` until it is `done`, `failed` (asked again soon) or `absent` (later)."""

    state: str = "wanted"
    detail: str = ""
    fetched_ms: int | None = None  # wall clock of its last answer

    @property
    def answered(self) -> bool:
        """Whether there is nothing more to come soon."""
        return self.state in ANSWERED
