"""The configuration's structs: what they show of secrets, and the file that documents them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import rich.pretty

from mdp.config import MASK, CacheConfig, Config, MassiveConfig, masked_url, secrets_of
from mdp.config_load import KEYS, SECTIONS, Loaded, load, value_of
from tests.config_support import SECRET

pytestmark = pytest.mark.usefixtures("in_empty_folder")
ROOT = Path(__file__).parent.parent


# --- secrets ---


def secretive() -> Loaded:
    """A configuration with a secret in every place that can hold one."""
    return load(
        None,
        {
            "MASSIVE_API_KEY": f"{SECRET}-1",
            "MDP_WDS_API_KEYS": f'["{SECRET}-2"]',
            "MDP_ADMIN_TOKEN": f"{SECRET}-3",
            "MDP_CACHE_URL": f"redis://user:{SECRET}-4@127.0.0.1:6379/0",
            "MDP_CACHE_WIDGET_URL": f"redis+sentinel://user:{SECRET}-5@a:1,b:2/main",
            "MDP_CACHE_SENTINEL_PASSWORD": f"{SECRET}-6",
        },
    )


def test_no_secret_shows_in_any_representation() -> None:
    """repr, str, format and rich's pretty printer mask; what is not secret stays readable."""
    loaded = secretive()
    for shown in (
        repr(loaded),
        str(loaded.config),
        f"{loaded.config.wds!r}",
        rich.pretty.pretty_repr(loaded),
    ):
        assert SECRET not in shown
        assert MASK in shown
    assert "port=4202" in repr(loaded.config.wds)
    assert repr(MassiveConfig()).count("api_key=''") == 1, "an empty secret stays visibly empty"


def test_secrets_are_known_for_masking_in_logs() -> None:
    """All of them, the password in an URL included, and no empty one."""
    assert sorted(secrets_of(secretive().config)) == [f"{SECRET}-{number}" for number in range(1, 7)]
    assert secrets_of(Config()) == []


def test_a_url_without_password_is_shown_as_it_is() -> None:
    """Masking changes the password only."""
    assert masked_url("redis://127.0.0.1:6379/0") == CacheConfig().url
    assert masked_url("redis://u:p@h:1/2") == f"redis://u:{MASK}@h:1/2"


# --- the documented file ---


def documented() -> dict[str, dict[str, Any]]:
    """config.toml with its settings uncommented."""
    text = (ROOT / "config.toml").read_text(encoding="utf-8")
    return tomllib.loads(re.sub(r"(?m)^#(?=\w+ = )", "", text))


def test_config_toml_changes_nothing() -> None:
    """The file of the repository is valid and all defaults."""
    loaded = load(str(ROOT / "config.toml"), {})
    assert loaded.config == Config()
    assert set(loaded.sources.values()) == {"default"}


def test_config_toml_documents_every_key_with_its_default() -> None:
    """No key is missing, none is invented, and no default has drifted."""
    sections = documented()
    assert {name: list(keys) for name, keys in sections.items()} == {
        name: list(keys) for name, keys in SECTIONS.items()
    }
    for key in KEYS:
        section, _, field = key.partition(".")
        assert sections[section][field] == value_of(Config(), key), key
