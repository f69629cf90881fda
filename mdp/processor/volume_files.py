"""Files of recorded volumes by time of day: one per trading day, in a folder per feed and market.

    FOLDER/FEED-MARKET/2026-03-10.volumes

A file is a line that names the format, a CRC, and a msgpack of the day with the feed's address and the
market, so that a simulated market's volumes never reach real boards, not even by a copied file. It is
written to a file of its own that then replaces the old one. About 3 MB for 11,000 symbols.

A file that is damaged, foreign or of another version counts as not there, with one warning.
"""

from __future__ import annotations

import contextlib
import os
import re
import zlib
from datetime import date
from pathlib import Path

import msgspec
import structlog

from mdp.analyzers.volume_history import DayVolumes

log = structlog.get_logger(__name__)

SUFFIX = ".volumes"
_MAGIC = b"mdp volumes 1\n"
_CRC_BYTES = 4
_MAX_FILE_BYTES = 256 * 1024 * 1024


class _Content(msgspec.Struct):
    feed: str
    market: str
    volumes: DayVolumes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Content).decode


class VolumeFiles:
    """The recorded days of one feed. Blocks: use it in a thread. Errors of the disk are counted, not raised.

    Args:
        folder: Where the folders of all feeds are.
        feed: The feed's address, e.g. `RealTime` or `127.0.0.1:4300`.
        market: E.g. `stocks`.
        keep: How many days are kept; older ones are deleted.

    Attributes:
        errors: Files that could not be written.
        unusable: Files that were found and could not be used.
    """

    def __init__(self, folder: str, feed: str, market: str, *, keep: int) -> None:
        self._folder = Path(folder) / re.sub(r"[^A-Za-z0-9.]+", "_", f"{feed}-{market}")
        self._feed, self._market = feed, market
        self._keep = keep
        self._warned: set[Path] = set()
        self.errors = 0
        self.unusable = 0

    @property
    def folder(self) -> Path:
        """Where the files of this feed are."""
        return self._folder

    def days(self) -> list[date]:
        """The days of which there is a file, usable or not, oldest first."""
        found = []
        with contextlib.suppress(OSError):
            for path in self._folder.iterdir():
                if path.suffix == SUFFIX:
                    with contextlib.suppress(ValueError):
                        found.append(date.fromisoformat(path.stem))
        return sorted(found)

    def read(self, day: date) -> DayVolumes | None:
        """A day's volumes; None where there is no usable file."""
        path = self._path(day)
        try:
            return self._read(path, day)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as exc:
            self._refuse(path, exc.strerror or str(exc))
        except (msgspec.MsgspecError, ValueError) as exc:
            self._refuse(path, str(exc))
        return None

    def _read(self, path: Path, day: date) -> DayVolumes:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise ValueError("it is too large")
        data = path.read_bytes()
        if not data.startswith(_MAGIC):
            raise ValueError("it is of another format or version")
        head = len(_MAGIC) + _CRC_BYTES
        body = memoryview(data)[head:]
        if zlib.crc32(body).to_bytes(_CRC_BYTES, "big") != data[len(_MAGIC) : head]:
            raise ValueError("it is damaged")
        content = _decode(body)
        if (content.feed, content.market) != (self._feed, self._market):
            raise ValueError("it is of another feed or market")
        if content.volumes.day != day:
            raise ValueError("it is of another day than its name says")
        content.volumes.check()
        return content.volumes

    def write(self, volumes: DayVolumes) -> bool:
        """Keep a day, unless a file of it covers more slots; delete what is older than `keep` days.

        Returns:
            Whether it was written.
        """
        if not volumes.covered:
            return False
        before = self.read(volumes.day)
        if before is not None and before.covered > volumes.covered:
            return False
        body = _encode(_Content(self._feed, self._market, volumes))
        path = self._path(volumes.day)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(_MAGIC + zlib.crc32(body).to_bytes(_CRC_BYTES, "big"))
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as exc:
            with contextlib.suppress(OSError):
                temporary.unlink()
            self.errors += 1
            if self.errors == 1:  # once: a full disk stays full
                log.error("volume_history_not_written", path=str(path), error=exc.strerror or str(exc))
            return False
        self._prune(volumes.day)
        return True

    def refuse(self, day: date, reason: str) -> None:
        """Say of a day's file that it turned out to be of no use."""
        self._refuse(self._path(day), reason)

    def _prune(self, written: date) -> None:
        days = self.days()
        for day in days[: max(len(days) - self._keep, 0)]:
            if day != written:  # an old day that is replayed, or built from a recording just now
                with contextlib.suppress(OSError):
                    self._path(day).unlink()

    def _path(self, day: date) -> Path:
        return self._folder / f"{day.isoformat()}{SUFFIX}"

    def _refuse(self, path: Path, reason: str) -> None:
        self.unusable += 1
        if path not in self._warned:
            self._warned.add(path)
            log.warning("volume_history_unusable", path=str(path), reason=reason, action="left out")
