"""`mdp config` on a terminal. What it prints in a pipe is tested with the command itself."""

from __future__ import annotations

import pytest

from mdp.commands.show_config import as_text, print_table, rows
from mdp.config import MASK
from mdp.config_load import KEYS, load


def test_the_table_has_every_key_value_and_source(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Markup in a value is shown as it is, and secrets are masked."""
    monkeypatch.setenv("COLUMNS", "200")
    environ = {"MDP_CACHE_SNAPSHOT_PATH": "[red]x", "MASSIVE_API_KEY": "s3cret"}
    print_table(load(None, environ, {"wds.port": 7}))
    output = capsys.readouterr().out
    for key in KEYS:
        assert f" {key} " in output
    assert '"[red]x"' in output
    assert "--wds-port" in output
    assert "s3cret" not in output
    assert MASK in output


def test_both_forms_tell_the_same() -> None:
    """Rows feed the table and the text."""
    loaded = load(None, {"MDP_LOG_LEVEL": "debug"})
    found = {key: (value, source) for key, value, source in rows(loaded)}
    assert found["log.level"] == ("debug", "MDP_LOG_LEVEL")
    assert 'level = "debug"  # MDP_LOG_LEVEL' in as_text(loaded)
    assert len(found) == len(as_text(loaded).splitlines()) - 2 * len({key.split(".")[0] for key in KEYS}) + 1
