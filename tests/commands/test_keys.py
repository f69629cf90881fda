"""`mdp keys`: what it prints, keeps and refuses."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mdp.cli import main
from mdp.wds.keys import KeyFile, KeyStore


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("MDP_CONFIG", "MDP_WDS_KEYS_PATH"):
        monkeypatch.delenv(name, raising=False)


def mdp(*arguments: str) -> Result:
    """Run the command line."""
    return CliRunner().invoke(main, ["keys", *arguments])


def only_id() -> str:
    """The id of the one key there is."""
    return KeyFile("var/keys.json").read()[0].id


def test_a_key_is_printed_once_and_opens_the_service() -> None:
    """Alone on standard output, for a pipe; the file has no more than its digest."""
    result = mdp("add", "Desk", "--feeds", "quote:*", "--feeds", "halts")
    assert result.exit_code == 0
    key = result.stdout.strip()
    assert "\n" not in key
    assert key not in result.stderr
    path = Path("var/keys.json")
    assert key not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    store = KeyStore(str(path), lambda: 0.0)
    store.refresh()
    identity = store.identify(key)
    assert identity is not None
    assert identity.permission.patterns == ("quote:*", "halts")
    assert key not in mdp("list").output


def test_the_list_shows_state_feeds_and_times() -> None:
    """One line a key; the names of the columns first."""
    assert "No keys in" in mdp("list").stderr
    mdp("add", "Desk")
    mdp("add", "Widget", "--feeds", "scanners:*", "--expires", "30d")
    lines = mdp("list").stdout.splitlines()
    assert lines[0].split() == ["id", "name", "state", "feeds", "created", "expires"]
    assert [line.split()[1:4] for line in lines[1:]] == [
        ["Desk", "valid", "all"],
        ["Widget", "valid", "scanners:*"],
    ]
    assert lines[1].endswith("never")


def test_a_revoked_key_stays_in_the_list() -> None:
    """By its id; the key itself is not shown even if it was given by mistake."""
    key = mdp("add", "Desk").stdout.strip()
    refused = mdp("revoke", key)
    assert refused.exit_code == 2
    assert key not in refused.output
    assert mdp("revoke", only_id()).exit_code == 0
    assert "revoked" in mdp("list").stdout


@pytest.mark.parametrize(
    "expires", ["30d", "12h", "2999-01-31", "2999-01-31T18:00Z", "2999-01-31T18:00:00+02:00"]
)
def test_an_end_is_a_date_a_time_or_a_span(expires: str) -> None:
    """In the future."""
    assert mdp("add", "Desk", "--expires", expires).exit_code == 0
    assert KeyFile("var/keys.json").read()[0].expires is not None


@pytest.mark.parametrize(
    "arguments",
    [
        ["Desk", "--expires", "tomorrow"],
        ["Desk", "--expires", "2001-01-01"],
        ["Desk", "--expires", "0d"],
        ["Desk", "--expires", "99999d" * 3],
        ["Desk", "--feeds", "quotes:*"],
        [""],
        ["two\nlines"],
        ["x" * 101],
    ],
)
def test_what_makes_no_sense_makes_no_key(arguments: list[str]) -> None:
    """One line, exit code 2, no file."""
    result = mdp("add", *arguments)
    assert result.exit_code == 2
    assert result.stderr.count("\n") <= 1
    assert not Path("var/keys.json").exists()


def test_a_file_that_cannot_be_used_is_said_in_a_line() -> None:
    """Exit code 1, and it stays as it is."""
    Path("var").mkdir()
    Path("var/keys.json").write_text("hunter2")
    Path("var/keys.json").chmod(0o600)
    for arguments in (["add", "Desk"], ["list"], ["revoke", "x"]):
        result = mdp(*arguments)
        assert result.exit_code == 1
        assert "no file of keys" in result.stderr
    assert Path("var/keys.json").read_text() == "hunter2"


def test_without_a_path_there_is_nothing_to_keep_keys_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Said by the name of the setting."""
    monkeypatch.setenv("MDP_WDS_KEYS_PATH", "")
    result = mdp("list")
    assert result.exit_code == 2
    assert "wds.keys_path" in result.stderr
