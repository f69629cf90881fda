"""Snapshot and journal: what lets a restart on the same trading day go on where it stopped.

The *journal* is appended to before results leave (`Results.commit`): a record is in the kernel's
hands by then, so `kill -9` loses none (a power failure may). The *snapshot* is written every
`snapshot_seconds` and at the end, in a thread, to a file of its own that then replaces the old one.
Both are msgpack streams. File names carry the feed's address and the market, their heads too, so that
a simulated market's values never reach real boards.

Each snapshot starts a new journal generation; what happens while it is being written is in both, and
records may be replayed twice. Files:

    NAME.FEED-MARKET.snapshot      head, records, end
    NAME.FEED-MARKET.journal-N     head, records; replayed from the snapshot's generation on
    NAME.FEED-MARKET.lock          empty; held by the process that writes the others

A second process on the same files writes nothing while the first lives: it would delete the first one's
journal. It goes on from what the first had kept, and takes over at its next snapshot.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import re
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import structlog

log = structlog.get_logger(__name__)

_FORMAT = 1
_encode = msgspec.msgpack.Encoder().encode
_HEADER = struct.Struct(">II")  # before each record: its length and CRC


class Restored(msgspec.Struct):
    """What a start finds: the snapshot's head and records, then the journal's, in order."""

    head: dict[str, Any]
    records: list[Any]
    journal: list[Any]


class Store:
    """Reads and writes the files of one feed. Errors of the disk are logged and counted, never raised.

    Args:
        path: Start of the files' names.
        feed: The feed's address, e.g. `socket.massive.com`.
        market: E.g. `stocks`.
    """

    def __init__(self, path: str, feed: str, market: str) -> None:
        slug = re.sub(r"[^A-Za-z0-9.]+", "_", f"{feed}-{market}")
        base = Path(path)
        self._base = base.with_name(f"{base.name}.{slug}")
        self._identity = {"feed": feed, "market": market, "format": _FORMAT}
        self._snapshot = self._base.with_name(self._base.name + ".snapshot")
        self._generation = 0
        self._journal_fd: int | None = None
        self._lock_fd: int | None = None
        self._failed = False
        #: A save that was cancelled may still be writing when the next begins.
        self._writing = threading.Lock()
        self._written = 0  # generation of the newest snapshot written
        self.errors = 0
        self.journal_records = 0
        self.snapshots = 0

    def load(self) -> Restored | None:
        """What was kept, or None where there is nothing usable. Blocks: call it before the start."""
        found = self._journals()
        self._generation = max(found, default=0)
        head: dict[str, Any] = {"generation": 0}
        records: list[Any] = []
        if self._snapshot.exists():
            content = list(_read(self._snapshot))
            if len(content) < 2 or content[-1] != ["end", len(content) - 2] or not self._ours(content[0]):
                log.warning("snapshot_unusable", path=str(self._snapshot), action="starting without it")
            else:
                head, records = content[0], content[1:-1]
        journal: list[Any] = []
        for generation in sorted(found):
            if generation < head["generation"]:
                continue
            content = list(_read(found[generation]))
            if content and self._ours(content[0]):
                journal.extend(content[1:])
        if not records and not journal:
            return None
        return Restored(head, records, journal)

    def open(self) -> bool:
        """Start a new journal generation. Returns whether it could; if not, the one before goes on."""
        try:
            self._lock()
        except OSError as exc:
            held = isinstance(exc, BlockingIOError)
            self._error("snapshot_in_use" if held else "journal_open_failed", exc)
            return False
        self._generation += 1
        path = self._journal_path(self._generation)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        except OSError as exc:
            self._error("journal_open_failed", exc)
            return False
        head = _frame(self._identity)
        try:
            if os.write(fd, head) < len(head):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as exc:
            os.close(fd)
            self._error("journal_open_failed", exc)
            return False
        if self._journal_fd is not None:
            os.close(self._journal_fd)
        self._journal_fd = fd
        return True

    def write(self, records: list[Any]) -> None:
        """Append records to the journal; returns when the kernel has them."""
        if self._journal_fd is None:
            return
        self.journal_records += len(records)
        data = b"".join([_frame(record) for record in records])
        written = 0
        try:
            while written < len(data):
                written += os.write(self._journal_fd, data[written:])
        except OSError as exc:
            self._error("journal_write_failed", exc)
            # Half a record would make everything behind it unreadable.
            with contextlib.suppress(OSError):
                os.ftruncate(self._journal_fd, os.fstat(self._journal_fd).st_size - written)

    async def save(self, head: dict[str, Any], records: Iterator[Any]) -> bool:
        """Write a snapshot from records made step by step; the loop is given back between steps.

        Returns:
            Whether it was written. The old one stays where it was not.
        """
        if not self.open():  # without it the journal that goes on would be taken for an old one
            return False
        generation = self._generation
        chunks = [_frame({**self._identity, **head, "generation": generation})]
        count = 0
        for record in records:
            chunks.append(_frame(record))
            count += 1
            await asyncio.sleep(0)
        chunks.append(_frame(["end", count]))
        try:
            await asyncio.to_thread(self._replace, chunks, generation)
        except OSError as exc:
            self._error("snapshot_failed", exc)
            return False
        self.snapshots += 1
        for old, path in self._journals().items():
            if old < generation:
                with contextlib.suppress(OSError):
                    path.unlink()
        return True

    def close(self) -> None:
        """Close the journal and let another process write."""
        for fd in (self._journal_fd, self._lock_fd):
            if fd is not None:
                os.close(fd)
        self._journal_fd = self._lock_fd = None

    def _lock(self) -> None:
        """Become the one that writes; raises OSError where another process does. The kernel frees it."""
        if self._lock_fd is not None:
            return
        self._base.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(self._base.with_name(self._base.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise
        self._lock_fd = fd
        # Whoever wrote before us may have come further than what we read at our start.
        self._generation = max(self._generation, *self._journals(), 0)

    def _replace(self, chunks: list[bytes], generation: int) -> None:
        """Runs in a thread, one at a time; a newer snapshot is never replaced by an older one."""
        with self._writing:
            if generation < self._written:
                return
            self._snapshot.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._snapshot.with_name(self._snapshot.name + ".tmp")
            with temporary.open("wb") as file:
                file.writelines(chunks)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._snapshot)
            self._written = generation

    def _journal_path(self, generation: int) -> Path:
        return self._base.with_name(f"{self._base.name}.journal-{generation}")

    def _journals(self) -> dict[int, Path]:
        prefix = self._base.name + ".journal-"
        found = {}
        with contextlib.suppress(OSError):
            for path in self._base.parent.iterdir():
                tail = path.name[len(prefix) :]
                if path.name.startswith(prefix) and tail.isdigit():
                    found[int(tail)] = path
        return found

    def _ours(self, head: Any) -> bool:
        return isinstance(head, dict) and all(head.get(key) == value for key, value in self._identity.items())

    def _error(self, event: str, exc: OSError) -> None:
        self.errors += 1
        if not self._failed:  # once: a full disk fails at every write
            self._failed = True
            log.error(event, error=exc.strerror or str(exc), hint="a restart now would lose what came since")


def _frame(record: Any) -> bytes:
    body = _encode(record)
    return _HEADER.pack(len(body), zlib.crc32(body)) + body


def _read(path: Path) -> Iterator[Any]:
    """The records of a file up to the first that is cut off (a kill may fall into a write) or damaged."""
    try:
        data = path.read_bytes()
    except OSError:
        return
    at = 0
    while at + _HEADER.size <= len(data):
        length, checksum = _HEADER.unpack_from(data, at)
        at += _HEADER.size
        body = data[at : at + length]
        if len(body) < length or zlib.crc32(body) != checksum:
            return
        try:
            yield msgspec.msgpack.decode(body)
        except (ValueError, RecursionError):  # zeros have a right checksum, and are no record
            return
        at += length
