"""API keys in a file, as digests: who has one may read what, until when.

A key is 32 bytes from the system's generator, so guessing one is hopeless and a slow hash (argon2, scrypt)
would protect nothing: those are for secrets that people choose. It would cost the service 50 ms of CPU for
whatever a stranger sends. So a digest is one HMAC-SHA-256, made with the key's id, and digests are compared
in constant time. Keys that people choose do not belong here; the ones of `wds.api_keys` are as good as their
length.
"""

from __future__ import annotations

import contextlib
import fcntl
import hmac
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import structlog

from mdp.wds.permissions import Identity, Permission

log = structlog.get_logger(__name__)

MAX_KEYS = 10_000
MAX_FILE_BYTES = 16 * 1024 * 1024
_PREFIX = "mdp"  # lets scanners for leaked secrets know one
_MAX_KEY = 128  # characters; longer texts are none of ours


class KeyFileError(Exception):
    """The file of keys cannot be used; the message says why and holds no digest."""


class KeyEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key, as the file holds it. Times are UTC."""

    id: str  # part of the key, no secret
    name: str  # for people
    digest: str  # HMAC-SHA-256 of the key, hexadecimal
    feeds: list[str]  # patterns as of subscriptions; "**": every feed
    created: datetime
    expires: datetime | None = None
    revoked: datetime | None = None

    def __repr__(self) -> str:
        return f"KeyEntry(id={self.id!r}, name={self.name!r})"

    def valid_at(self, seconds: float) -> bool:
        """Whether the key opens anything at a time, in Unix seconds."""
        return self.revoked is None and (self.expires is None or seconds < self.expires.timestamp())

    def state_at(self, seconds: float) -> str:
        """`valid`, `expired` or `revoked`."""
        if self.revoked is not None:
            return "revoked"
        return "valid" if self.valid_at(seconds) else "expired"


class _File(msgspec.Struct, forbid_unknown_fields=True):
    version: int
    keys: list[KeyEntry]


def new_key(name: str, feeds: list[str], expires: datetime | None, now: datetime) -> tuple[str, KeyEntry]:
    """A new random key, and what is kept of it.

    Raises:
        ValueError: A pattern of `feeds` names no feed.
    """
    Permission(feeds)
    key_id = secrets.token_hex(6)
    key = f"{_PREFIX}_{key_id}_{secrets.token_urlsafe(32)}"
    entry = KeyEntry(
        id=key_id, name=name, digest=_digest(key_id, key), feeds=feeds, created=now, expires=expires
    )
    return key, entry


def _digest(key_id: str, key: str) -> str:
    # The id as the HMAC's key: a digest copied to another entry fits nothing.
    return hmac.digest(f"mdp key {key_id}".encode(), key.encode("utf-8", "surrogatepass"), "sha256").hex()


class KeyFile:
    """Reads and changes the file. Changes are atomic, and one at a time over all processes."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def read(self) -> list[KeyEntry]:
        """All keys, oldest first; none where there is no file.

        Raises:
            KeyFileError: It cannot be read, is no file of keys, or others than its owner may change it.
        """
        try:
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_mode & 0o022:
                    raise KeyFileError(f"{self.path}: others than the owner may write it; chmod 600 it")
                content = file.read(MAX_FILE_BYTES + 1)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise KeyFileError(f"{self.path}: {error.strerror}") from None
        if len(content) > MAX_FILE_BYTES:
            raise KeyFileError(f"{self.path}: larger than {MAX_FILE_BYTES} bytes")
        try:
            found = msgspec.json.decode(content, type=_File)
        except (msgspec.MsgspecError, UnicodeError, ValueError, RecursionError) as error:
            # msgspec's messages name places, never values of ours.
            raise KeyFileError(f"{self.path}: no file of keys: {error}") from None
        self._check(found)
        return found.keys

    def _check(self, found: _File) -> None:
        if found.version != 1:
            raise KeyFileError(f"{self.path}: version {found.version}; this program knows version 1")
        if len(found.keys) > MAX_KEYS:
            raise KeyFileError(f"{self.path}: more than {MAX_KEYS} keys")
        for entry in found.keys:
            try:
                Permission(entry.feeds)
            except ValueError as error:
                raise KeyFileError(f"{self.path}: key {entry.id[:40]!a}: {error}") from None
            for time in (entry.created, entry.expires, entry.revoked):
                if time is not None and time.tzinfo is None:
                    raise KeyFileError(f"{self.path}: key {entry.id[:40]!a}: a time without a zone")

    def add(self, entry: KeyEntry) -> None:
        """Append a key.

        Raises:
            KeyFileError: The file cannot be used, or is full.
        """
        with self._locked():
            keys = self.read()
            if len(keys) >= MAX_KEYS:
                raise KeyFileError(f"{self.path}: holds {MAX_KEYS} keys, which is all it may")
            self._write([*keys, entry])

    def revoke(self, key_id: str, now: datetime) -> KeyEntry | None:
        """Mark a key as revoked and keep it for the record; None where no key has this id.

        Raises:
            KeyFileError: The file cannot be used.
        """
        with self._locked():
            keys = self.read()
            for number, entry in enumerate(keys):
                if entry.id == key_id:
                    if entry.revoked is None:
                        keys[number] = msgspec.structs.replace(entry, revoked=now)
                        self._write(keys)
                    return keys[number]
        return None

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # A file of its own: the one that is replaced cannot carry the lock.
            lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise KeyFileError(f"{self.path}: {error.strerror}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _write(self, keys: list[KeyEntry]) -> None:
        content = msgspec.json.format(msgspec.json.encode(_File(1, keys)), indent=1) + b"\n"
        temporary = None
        try:
            # mkstemp makes it readable by the owner only (0600), before anything is in it.
            handle, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        except OSError as error:
            if temporary is not None:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
            raise KeyFileError(f"{self.path}: {error.strerror}") from None


class KeyStore:
    """The keys of a file as the service uses them: in memory, looked up by id.

    Attributes:
        errors: How often the file was found changed and could not be used.
    """

    def __init__(self, path: str, clock: Callable[[], float]) -> None:
        """Prepare; nothing is read before `refresh`.

        Args:
            path: Of the file; empty: there are no keys.
            clock: Unix time in seconds.
        """
        self._file = KeyFile(path) if path else None
        self._clock = clock
        self._entries: dict[str, tuple[KeyEntry, Permission]] = {}
        self._seen: tuple[int, ...] | None = ()  # what the file looked like; no file looks like ()
        self.errors = 0

    def __len__(self) -> int:
        return len(self._entries)

    def refresh(self) -> bool:
        """Read the file if it changed; whether the keys may be others now. Blocks for the reading.

        A file that cannot be used changes nothing and is told of once: a slip of an editor must not lock
        everybody out. A file that is gone leaves no key.
        """
        if self._file is None:
            return False
        signature = self._signature(self._file.path)
        if signature == self._seen:
            return False
        self._seen = signature
        try:
            entries = self._file.read()
        except KeyFileError as error:
            self.errors += 1
            log.error("wds_keys_unusable", error=str(error), kept=len(self._entries))
            return False
        self._entries = {entry.id: (entry, Permission(entry.feeds)) for entry in entries}
        log.info("wds_keys_read", keys=len(entries))
        return True

    @staticmethod
    def _signature(path: Path) -> tuple[int, ...] | None:
        try:
            status = path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino, status.st_mode

    def identify(self, key: str) -> Identity | None:
        """Whose a key is; None where it is unknown, revoked or expired. Never raises."""
        parts = key.split("_", 2) if len(key) <= _MAX_KEY else []
        key_id = parts[1] if len(parts) == 3 and parts[0] == _PREFIX else ""
        found = self._entries.get(key_id)
        # An unknown id takes as long as a known one: which ids exist does not show.
        fits = hmac.compare_digest(_digest(key_id, key), found[0].digest if found else "0" * 64)
        if found is None or not fits:
            return None
        entry, permission = found
        if not entry.valid_at(self._clock()):
            return None
        return Identity("key", entry.id, permission, entry.expires.timestamp() if entry.expires else None)

    def current(self, key_id: str) -> Identity | None:
        """What the key of this id stands for now; None once it is gone, revoked or expired."""
        found = self._entries.get(key_id)
        if found is None or not found[0].valid_at(self._clock()):
            return None
        entry, permission = found
        return Identity("key", entry.id, permission, entry.expires.timestamp() if entry.expires else None)


def utc_now() -> datetime:
    """The time, to the second, as the file holds it."""
    return datetime.now(UTC).replace(microsecond=0)
