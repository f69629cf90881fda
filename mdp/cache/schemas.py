"""How what is kept in Redis is written: a number for each kind, in one place (`docs/redis.md`, "Upgrading").

Whoever changes a form so that the version before would read it wrongly raises its number. A reader reads its
own number and all lower ones, and leaves higher ones alone with a message.
"""

from __future__ import annotations

import structlog

log = structlog.get_logger(__name__)

#: Checkpoints, and the windows of trades that are written with them (`mdp.processor.checkpoint`). 2: a
#: symbol's trades may be there one by one, not summed up yet.
CHECKPOINTS = 2
#: Parts of feeds of the whole market, and of the gap ledger (`mdp.processor.parts`).
PARTS = 1
#: The day's reference values, in Redis and in the snapshot file (`mdp.cache.reference`).
REFERENCE = 3
#: Payloads of feeds, wherever they are: messages of the bus, items of event feeds, values. 1 is never written
#: out, so that it costs nothing; values of the whole market alone have it beside their place.
FEEDS = 1


def mark(version: int) -> bytes:
    """What the head of a message of the bus ends with."""
    return b"" if version == 1 else b" %d" % version


class Refused:
    """Counts what is of a newer version than is read here, and says it once for each.

    Args:
        what: Of which kind, for the log.
        reads: Up to which version.
    """

    def __init__(self, what: str, reads: int) -> None:
        self.what = what
        self.reads = reads
        self.count = 0
        self._said = reads

    def note(self, version: int) -> None:
        """One more is left alone."""
        self.count += 1
        if version > self._said:
            self._said = version
            log.error("reader_too_old", reason=self.reason)

    @property
    def reason(self) -> str:
        """One line for a person."""
        return f"{self.what} of version {self._said}; this process reads up to {self.reads}: upgrade it, too"
