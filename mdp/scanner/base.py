"""What a scanner is: an analyzer of results.

It subscribes to feeds on the bus, takes what was published in batches, and may publish feeds of its own
or add fields to `market:status`. Like every analyzer it is synchronous and takes time from its input.
"""

from __future__ import annotations

from typing import Any, ClassVar

from mdp.analyzers.base import Output
from mdp.cache.base import Message


class Scanner:
    """Base of all scanners. Every hook does nothing by default.

    Attributes:
        name: Short name, unique in a process.
        patterns: Feeds to subscribe to (`mdp.feeds.match`).
    """

    name: ClassVar[str] = ""
    patterns: ClassVar[tuple[str, ...]] = ()

    def __init__(self, out: Output) -> None:
        self.out = out

    def process(self, messages: list[Message]) -> None:
        """Take what was published since the last call, in order."""

    def status_fields(self) -> dict[str, Any]:
        """Fields to add to `market:status`."""
        return {}
