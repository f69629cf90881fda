"""Keys in a file: made, found, revoked; never shown."""

from __future__ import annotations

import os
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdp.wds import keys as module
from mdp.wds.keys import KeyFile, KeyFileError, KeyStore, new_key

NOW = datetime(2026, 3, 10, 14, 30, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a file of keys may be."""
    return tmp_path / "var" / "keys.json"


def store(path: Path, now: datetime = NOW) -> KeyStore:
    """What the service makes of the file."""
    found = KeyStore(str(path), now.timestamp)
    found.refresh()
    return found


def add(path: Path, *feeds: str, expires: datetime | None = None) -> tuple[str, str]:
    """A new key and its id."""
    key, entry = new_key("Desk", list(feeds) or ["**"], expires, NOW)
    KeyFile(path).add(entry)
    return key, entry.id


def test_a_key_is_found_with_what_it_permits(path: Path) -> None:
    """And only the whole key."""
    key, key_id = add(path, "quote:*")
    identity = store(path).identify(key)
    assert identity is not None
    assert (identity.kind, identity.id, identity.expires_at) == ("key", key_id, None)
    assert identity.permission.allows("quote:AAPL")
    assert not identity.permission.allows("halts")
    other, _ = new_key("Desk", ["**"], None, NOW)
    for wrong in (key[:-1], key + "A", key.upper(), key_id, other, "", "mdp__", key.replace("mdp", "MDP")):
        assert store(path).identify(wrong) is None


def test_keys_are_random_and_long(path: Path) -> None:
    """256 bits each: what makes a fast hash enough."""
    made = {new_key("n", ["**"], None, NOW)[0] for _ in range(50)}
    assert len(made) == 50
    assert all(len(key.split("_", 2)[2]) == 43 for key in made)


def test_the_file_holds_no_key_and_is_for_its_owner_only(path: Path) -> None:
    """Neither whole nor the random part; mode 0600 from the first byte on."""
    key, _ = add(path)
    assert key.split("_", 2)[2] not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [name for name in os.listdir(path.parent) if name.startswith(".")] == []


def test_a_digest_fits_its_own_entry_only(path: Path) -> None:
    """Who can edit the file's feeds but has no key cannot move a known digest to a better entry."""
    key, first = add(path, "halts")
    _, second = add(path, "**")
    first_entry, second_entry = KeyFile(path).read()
    path.write_text(path.read_text().replace(second_entry.digest, first_entry.digest))
    os.chmod(path, 0o600)
    found = store(path)
    assert found.identify(key.replace(first, second)) is None
    assert found.identify(key) is not None


def test_a_revoked_key_opens_nothing_and_stays_on_record(path: Path) -> None:
    """Revoking twice keeps the first time; an unknown id is None."""
    key, key_id = add(path)
    file = KeyFile(path)
    revoked = file.revoke(key_id, NOW)
    assert revoked is not None
    assert revoked.state_at(NOW.timestamp()) == "revoked"
    again = file.revoke(key_id, NOW + timedelta(days=1))
    assert again is not None
    assert again.revoked == NOW
    assert file.revoke("unknown", NOW) is None
    assert store(path).identify(key) is None
    assert store(path).current(key_id) is None


def test_a_key_expires_to_the_second(path: Path) -> None:
    """Valid before, not at the time."""
    key, key_id = add(path, expires=NOW + timedelta(hours=1))
    before = store(path, NOW + timedelta(minutes=59, seconds=59)).identify(key)
    assert before is not None
    assert before.expires_at == (NOW + timedelta(hours=1)).timestamp()
    late = store(path, NOW + timedelta(hours=1))
    assert late.identify(key) is None
    assert late.current(key_id) is None
    assert KeyFile(path).read()[0].state_at((NOW + timedelta(hours=1)).timestamp()) == "expired"


def test_changes_are_noticed_and_nothing_is_read_without(path: Path) -> None:
    """First no file, then one, then a change, then none again."""
    found = store(path)
    assert len(found) == 0
    assert not found.refresh()
    key, key_id = add(path)
    assert found.refresh()
    assert found.identify(key)
    assert not found.refresh()
    KeyFile(path).revoke(key_id, NOW)
    assert found.refresh()
    assert found.identify(key) is None
    key, _ = add(path)
    found.refresh()
    assert found.identify(key)
    path.unlink()
    assert found.refresh()
    assert found.identify(key) is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"version":2,"keys":[]}',
        '{"version":1,"keys":[],"more":1}',
        '{"version":1,"keys":[{"id":"a"}]}',
        '{"version":1,"keys":[{"id":"a","name":"","digest":"","feeds":["x:y:z:q"],"created":"2026-01-01T00:00:00Z"}]}',
        '{"version":1,"keys":[{"id":"a","name":"","digest":"","feeds":[],"created":"2026-01-01T00:00:00"}]}',
        "[" * 5_000,
    ],
)
def test_a_broken_file_is_refused_and_a_running_service_keeps_its_keys(path: Path, content: str) -> None:
    """A slip of an editor locks nobody out; it is counted once, not at each look."""
    key, _ = add(path)
    found = store(path)
    path.write_text(content)
    os.chmod(path, 0o600)
    with pytest.raises(KeyFileError):
        KeyFile(path).read()
    assert not found.refresh()
    assert not found.refresh()
    assert found.errors == 1
    assert found.identify(key) is not None


def test_a_file_that_others_may_write_is_refused(path: Path) -> None:
    """Whoever could write it could let himself in."""
    add(path)
    os.chmod(path, 0o620)
    with pytest.raises(KeyFileError, match="chmod 600"):
        KeyFile(path).read()
    os.chmod(path, 0o644)
    assert len(KeyFile(path).read()) == 1


def test_the_number_of_keys_and_the_size_are_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full file takes no more, a huge one is not read."""
    monkeypatch.setattr(module, "MAX_KEYS", 2)
    add(path)
    add(path)
    with pytest.raises(KeyFileError, match="all it may"):
        add(path)
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 10)
    with pytest.raises(KeyFileError, match="larger than"):
        KeyFile(path).read()


def test_a_failed_write_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All or nothing, and no leftovers."""
    key, _ = add(path)

    def full(source: str, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(KeyFileError, match="No space"):
        add(path)
    assert sorted(os.listdir(path.parent)) == ["keys.json", "keys.json.lock"]
    assert store(path).identify(key)


def test_keys_added_at_the_same_time_are_all_kept(path: Path) -> None:
    """One change at a time, over processes too: the lock is the file system's."""
    threads = [threading.Thread(target=add, args=(path,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(KeyFile(path).read()) == 8


def test_an_unknown_pattern_makes_no_key() -> None:
    """It would be a key that opens nothing."""
    with pytest.raises(ValueError, match="no feed matches"):
        new_key("Desk", ["quotes:*"], None, NOW)


def test_without_a_path_there_are_no_keys() -> None:
    """And nothing is looked at."""
    found = KeyStore("", NOW.timestamp)
    assert not found.refresh()
    assert found.identify("mdp_a_b") is None


def test_no_repr_shows_a_digest(path: Path) -> None:
    """Digests of random keys are no secrets, but nobody's business either."""
    add(path)
    entry = KeyFile(path).read()[0]
    assert entry.digest not in repr(entry) + repr(store(path))


@given(st.text(max_size=200) | st.text("mdp_0123456789abcdef", max_size=60))
def test_any_text_is_no_key(text: str) -> None:
    """Never raises, whatever is sent."""
    assert KeyStore("", NOW.timestamp).identify(text) is None
