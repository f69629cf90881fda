"""What the control API controls: implemented by the application, called by the server."""

from __future__ import annotations

from typing import Any, Protocol


class UnknownSymbolError(Exception):
    """Nothing is known of a symbol: one line that says what to check."""


class NotHereError(Exception):
    """Another process's business: one line that says whose.

    Attributes:
        details: The same for programs; put beside the line.
    """

    def __init__(self, reason: str, **details: Any) -> None:
        super().__init__(reason)
        self.details = details


class NotYetError(Exception):
    """Nobody can say it at this moment, but soon somebody can: one line that says why."""


class Controls(Protocol):
    """The process as an operator sees it.

    What reads is cheap and never waits, `explain` excepted. What changes raises ValueError, with one line
    that is shown to the operator, for input it cannot follow; any other exception counts as a fault of the
    program.
    Nothing returned or raised may hold a secret. Whatever belongs to a role of another process raises
    NotHereError.
    """

    def status(self) -> dict[str, Any]:
        """State of feed and market, versions, uptime."""

    def gaps(self) -> list[dict[str, Any]]:
        """The gap ledger: each outage as an interval, oldest first."""

    def queues(self) -> dict[str, Any]:
        """The accounting: for each queue received, processed, expired, dropped, waiting."""

    def analyzers(self) -> list[dict[str, Any]]:
        """Each analyzer with its counts and whether it is enabled."""

    async def explain(self, symbol: str) -> dict[str, Any]:
        """Each number that is shown of a symbol with its rule, inputs, source and time.

        Raises:
            UnknownSymbolError: Nothing is known of it on this trading day.
            NotHereError: Another process works on it.
            NotYetError: Nobody does yet, or who does is not known.
        """

    async def feed_start(self) -> None:
        """Connect to the provider; nothing happens when it is connected."""

    async def feed_stop(self) -> None:
        """Disconnect and stay so until told otherwise."""

    async def feed_restart(self) -> None:
        """Disconnect and connect again at once."""

    async def feed_configure(
        self, feed: str | None, market: str | None, subscriptions: list[str] | None
    ) -> None:
        """Change what is connected to and subscribed; None leaves a setting as it is."""

    async def record_start(self, path: str) -> None:
        """Write raw frames to a new file from now on."""

    async def record_stop(self) -> None:
        """End the recording and close its file."""
