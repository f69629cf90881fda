"""What an operator can do to the provider's connection: the part of `Controls` that a listener answers."""

from __future__ import annotations

from typing import Any

from mdp.config import ConfigError
from mdp.listener.massive import MassiveListener
from mdp.listener.recorder import Recorder, RecorderError


class FeedControls:
    """See `mdp.admin.controls.Controls`, whose methods of the same names these are."""

    def __init__(self, listener: MassiveListener) -> None:
        self._listener = listener

    def gaps(self) -> list[dict[str, Any]]:
        return self._listener.gaps.entries()

    async def feed_start(self) -> None:
        await self._listener.start_feed()

    async def feed_stop(self) -> None:
        await self._listener.stop_feed()

    async def feed_restart(self) -> None:
        await self._listener.restart_feed()

    async def feed_configure(
        self, feed: str | None, market: str | None, subscriptions: list[str] | None
    ) -> None:
        try:
            await self._listener.configure(feed=feed, market=market, subscriptions=subscriptions)
        except ConfigError as exc:
            raise ValueError(str(exc)) from None

    async def record_start(self, path: str) -> None:
        listener = self._listener
        if listener.recorder is not None and listener.recorder.active:
            raise ValueError(f"a recording runs already: {listener.recorder.path}")
        recorder = Recorder(path)
        try:
            await recorder.start()
        except (RecorderError, OSError) as exc:
            raise ValueError(str(exc)) from None
        listener.recorder = recorder

    async def record_stop(self) -> None:
        recorder = self._listener.recorder
        if recorder is None:
            raise ValueError("no recording runs")
        self._listener.recorder = None
        await recorder.stop()

    async def close(self) -> None:
        """End a recording that still runs, so that its file is whole. For the end of the process."""
        if self._listener.recorder is not None:
            await self.record_stop()

    def recording(self) -> dict[str, Any] | None:
        """The recording that runs, for `status`."""
        recorder = self._listener.recorder
        if recorder is None:
            return None
        counters = recorder.counters
        return {
            "path": str(recorder.path),
            "frames": counters.written,
            "dropped": counters.dropped,
            "error": recorder.error,
        }
