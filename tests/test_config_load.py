"""The four sources of a configuration, and every refusal of one in one line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdp.config import SECRET_KEYS, URL_KEYS, Config, ConfigError
from mdp.config_load import (
    _KUBERNETES,
    KEYS,
    OTHER_VARIABLES,
    VARIABLES,
    check_for_run,
    flag_of,
    load,
)
from tests.config_support import SECRET, refusal, write

pytestmark = pytest.mark.usefixtures("in_empty_folder")


# --- where values come from ---


def test_without_any_source_every_value_is_its_default() -> None:
    """No file, no variable, no flag: the structs' defaults, each marked so."""
    loaded = load(None, {}, {})
    assert loaded.config == Config()
    assert loaded.path is None
    assert set(loaded.sources) == set(KEYS)
    assert set(loaded.sources.values()) == {"default"}


def test_each_source_wins_over_the_one_before() -> None:
    """defaults < file < environment < flags, and each value names its source."""
    path = write("[wds]\nport = 1\ntick_ms = 5\n\n[scp]\nport = 2\n\n[admin]\nport = 3\n")
    environ = {"MDP_SCP_PORT": "20", "MDP_ADMIN_PORT": "30"}
    loaded = load(path, environ, {"admin.port": "300", "metrics.port": None})
    config = loaded.config
    assert (config.wds.port, config.scp.port, config.admin.port) == (1, 20, 300)
    assert loaded.sources["wds.port"] == "test.toml:2"
    assert loaded.sources["wds.tick_ms"] == "test.toml:3"
    assert loaded.sources["scp.port"] == "MDP_SCP_PORT"
    assert loaded.sources["admin.port"] == "--admin-port"
    assert loaded.sources["metrics.port"] == "default"


def test_a_whole_number_in_the_file_is_accepted_for_seconds() -> None:
    """`stall_seconds = 5` means 5.0 and stays a float for whoever computes with it."""
    value = load(write("[massive]\nstall_seconds = 5\n"), {}).config.massive.stall_seconds
    assert value == 5.0
    assert isinstance(value, float)


def test_config_toml_of_the_current_folder_is_read_if_there() -> None:
    """Without --config, ./config.toml counts."""
    write("[log]\nlevel = 'error'\n", "config.toml")
    assert load(None, {}).config.log.level == "error"


def test_mdp_config_names_the_file_unless_the_option_does() -> None:
    """MDP_CONFIG stands for --config, which wins."""
    write("[wds]\nport = 1\n", "config.toml")
    first, second = write("[wds]\nport = 2\n", "a.toml"), write("[wds]\nport = 3\n", "b.toml")
    assert load(None, {"MDP_CONFIG": first}).config.wds.port == 2
    assert load(second, {"MDP_CONFIG": first}).config.wds.port == 3


def test_the_line_is_left_out_where_it_is_not_certain() -> None:
    """A key in an inline table has a source, but no invented line."""
    loaded = load(write("wds = {port = 7}\n"), {})
    assert loaded.sources["wds.port"] == "test.toml"


@pytest.mark.parametrize(("text", "expected"), [("true", True), ("1", True), ("False", False), ("0", False)])
def test_booleans_of_the_environment(text: str, expected: bool) -> None:
    """true, false, 1 and 0 in any case."""
    assert load(None, {"MDP_MASSIVE_SECURE": text}).config.massive.secure is expected


def test_lists_of_the_environment_are_json() -> None:
    """A list replaces the one before, it does not add to it."""
    config = load(None, {"MDP_MASSIVE_SUBSCRIPTIONS": '["T.AAPL", "A.*"]'}).config
    assert config.massive.subscriptions == ["T.AAPL", "A.*"]


def test_every_key_has_a_variable_and_an_option() -> None:
    """The names are mechanical, so that nobody has to look them up."""
    assert VARIABLES["MDP_WDS_CLIENT_BUFFER_BYTES"] == "wds.client_buffer_bytes"
    assert len(VARIABLES) == len(KEYS)
    assert flag_of("wds.client_buffer_bytes") == "--wds-client-buffer-bytes"


def test_kubernetes_service_variables_stop_no_start() -> None:
    """What Kubernetes injects for a service named mdp-wds is ignored; a clash with a setting is told."""
    loaded = load(
        None,
        {
            "MDP_WDS_PORT": "tcp://10.0.0.7:4202",
            "MDP_WDS_PORT_4202_TCP": "tcp://10.0.0.7:4202",
            "MDP_WDS_PORT_4202_TCP_ADDR": "10.0.0.7",
            "MDP_WDS_SERVICE_HOST": "10.0.0.7",
            "MDP_WDS_SERVICE_PORT_HTTP": "4202",
            "MDP_SERVICE_HOST": "10.0.0.8",
        },
    )
    assert loaded.config == Config()
    assert len(loaded.warnings) == 1
    assert "MDP_WDS_PORT" in loaded.warnings[0]


def test_variables_of_tests_and_of_others_are_ignored() -> None:
    """MDPTEST_..., MDP_API_KEY (of `mdp watch`) and foreign variables are no settings."""
    loaded = load(None, {"MDPTEST_DATA": "/x", "MDP_API_KEY": "k", "PATH": "/bin", "MDPX": "1"})
    assert loaded.config == Config()


# --- the provider's key ---


def test_the_provider_key_is_looked_for_in_order() -> None:
    """massive.api_key, then MASSIVE_API_KEY, then POLYGON_API_KEY, then the file."""
    key_file = write("from-file\n", "key")
    environ = {
        "MDP_MASSIVE_API_KEY": "from-setting",
        "MASSIVE_API_KEY": "from-massive",
        "POLYGON_API_KEY": "from-polygon",
        "MDP_MASSIVE_API_KEY_FILE": key_file,
    }
    for name, expected in [
        ("MDP_MASSIVE_API_KEY", "from-setting"),
        ("MASSIVE_API_KEY", "from-massive"),
        ("POLYGON_API_KEY", "from-polygon"),
        ("MDP_MASSIVE_API_KEY_FILE", "from-file"),
    ]:
        loaded = load(None, environ)
        assert loaded.config.massive.api_key == expected
        assert loaded.sources["massive.api_key"] == (key_file if expected == "from-file" else name)
        del environ[name]


def test_a_key_file_is_not_opened_when_the_key_is_known() -> None:
    """A missing key file is no reason to refuse a start that does not need it."""
    environ = {"MASSIVE_API_KEY": "k", "MDP_MASSIVE_API_KEY_FILE": "missing"}
    assert load(None, environ).config.massive.api_key == "k"


@pytest.mark.parametrize("content", [None, b"", b"\n", b"two\nlines", b"\xff\xfe", b"x" * 5_000])
def test_an_unusable_key_file_is_refused_without_its_content(content: bytes | None) -> None:
    """Missing, empty, several lines, not text, far too long: one line, and never the content."""
    if content is not None:
        Path("key").write_bytes(content)
    message = refusal("[massive]\napi_key_file = 'key'\n")
    assert "massive.api_key" in message
    assert "allowed: a" in message
    assert "two" not in message
    assert "xxx" not in message


def test_a_run_on_the_real_market_needs_a_key() -> None:
    """Missing key: refused with the ways to give one; not asked for where it is not needed."""
    loaded = load(None, {})
    with pytest.raises(
        ConfigError, match=r"massive\.api_key: found nothing; allowed: .*MASSIVE_API_KEY.*--demo"
    ):
        check_for_run(loaded, needs_provider_key=True)
    check_for_run(loaded, needs_provider_key=False)
    check_for_run(load(None, {"POLYGON_API_KEY": "k"}), needs_provider_key=True)


# --- refusals ---


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            "[wds]\nprot = 1\n",
            ["test.toml:2", '"wds.prot"', "did you mean wds.port?", "allowed in [wds]: host"],
        ),
        ("[massive]\nport = 1\n", ["test.toml:2", "did you mean wds.port?"]),
        ("port = 1\n", ["test.toml:1", '"port"', "did you mean wds.port?"]),
        ("\n[wsd]\nport = 1\n", ["test.toml:2", '"wsd"', "did you mean wds?", "allowed: massive, mdq"]),
        ("wds = 5\n", ["test.toml:1: wds: found 5", "a table"]),
        ("[wds]\nport =\n", ["test.toml:2", "not TOML"]),
        ("[wds]\nport = 1\nport = 2\n", ["test.toml", "not TOML"]),
        ("[wds]\nport = '4202'\n", ["test.toml:2: wds.port", '"4202" (a text)', "0 to 65535"]),
        ("[wds]\nport = true\n", ["true (a boolean)"]),
        ("[wds]\nport = 1.0\n", ["1.0 (a number)"]),
        ("[wds]\nport = 2026-01-01\n", ["a date or time"]),
        ("[massive]\nsecure = 1\n", ["massive.secure: found 1 (a whole number); allowed: true or false"]),
        ("[massive]\nsubscriptions = 'T.*'\n", ['"T.*" (a text)', "TOPIC.SYMBOL"]),
        ("[massive]\nsubscriptions = [1]\n", ["[1] (a list)"]),
        ("[massive]\napi_key_file = 'a\\u0007'\n", []),
    ],
)
def test_a_wrong_file_is_refused_naming_place_found_and_allowed(text: str, parts: list[str]) -> None:
    """Unknown names, wrong types and syntax errors say where, what, and what would be right."""
    message = refusal(text)
    assert "allowed" in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MDP_WDS_PORT", "x"),
        ("MDP_WDS_PORT", ""),
        ("MDP_WDS_PORT", "9" * 5_000),
        ("MDP_MASSIVE_SECURE", "yes"),
        ("MDP_MASSIVE_STALL_SECONDS", "soon"),
        ("MDP_MASSIVE_SUBSCRIPTIONS", "T.*,Q.*"),
        ("MDP_MASSIVE_SUBSCRIPTIONS", '{"a": 1}'),
        ("MDP_MASSIVE_SUBSCRIPTIONS", "[" * 100_000),
        ("MDP_LOG_LEVEL", "\udcff"),
    ],
)
def test_a_wrong_variable_is_refused_by_name(name: str, value: str) -> None:
    """The variable is named, and a long value does not fill the screen."""
    message = refusal(environ={name: value})
    assert message.startswith(f"{name}: {VARIABLES[name]}: found ")
    assert len(message) < 400


def test_an_unknown_variable_names_the_nearest() -> None:
    """A typing error in the environment is as visible as one in the file."""
    assert 'unknown variable "MDP_WDS_PROT"; did you mean MDP_WDS_PORT?' in refusal(
        environ={"MDP_WDS_PROT": "1"}
    )
    assert "allowed: MDP_<SECTION>_<KEY>" in refusal(environ={"MDP_X": "1"})


def test_an_unknown_flag_is_refused() -> None:
    """A program that passes flags of its own making hears of it."""
    assert "did you mean wds.port?" in refusal(flags={"wds.prt": 1})


@pytest.mark.parametrize("content", [None, b"\xff\xfe[wds]", b"x" * (1 << 20) + b"x"])
def test_an_unreadable_file_is_refused(content: bytes | None, tmp_path: Path) -> None:
    """Missing, not UTF-8, absurdly large."""
    path = tmp_path / "c.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"^{re.escape(str(path))}: found .*; allowed: "):
        load(str(path), {})


def test_a_folder_is_no_configuration_file(tmp_path: Path) -> None:
    """A path that cannot be read is named with the system's reason."""
    with pytest.raises(ConfigError, match="found Is a directory"):
        load(str(tmp_path), {})


JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def accepted_or_refused(path: str | None, environ: dict[str, str], flags: dict[str, object]) -> None:
    """Whatever is given, there is a configuration or one line; nothing else ever comes out."""
    message = ""
    try:
        assert set(load(path, environ, flags).sources) == set(KEYS)
    except ConfigError as refused:
        message = str(refused)
    assert message.isprintable()
    assert len(message) < 1_000


@given(st.sampled_from(sorted(KEYS)), JSON_LIKE)
def test_any_value_of_any_kind_is_accepted_or_refused_in_one_line(key: str, value: object) -> None:
    """Also values that no file could hold."""
    accepted_or_refused(None, {}, {key: value})


@given(st.sampled_from(sorted(VARIABLES)), st.text(max_size=50))
def test_any_text_in_a_variable_is_accepted_or_refused_in_one_line(name: str, text: str) -> None:
    """Letters of any script, line breaks, digits that only look like some."""
    accepted_or_refused(None, {name: text}, {})


TOKENS = ["[wds]", "[massive]", "port", "host", "=", "5", "'x'", '"""', "[[a]]", "{", "}", "#", "\n", "é"]
TOML_LIKE = st.lists(st.sampled_from(TOKENS), max_size=20).map(" ".join)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=50) | TOML_LIKE)
def test_any_file_is_accepted_or_refused_in_one_line(tmp_path: Path, text: str) -> None:
    """Random text, and text that is nearly TOML."""
    path = tmp_path / "any.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    accepted_or_refused(str(path), {}, {})


def test_a_strange_path_does_not_break_the_line() -> None:
    """Even where the file's name holds a line break."""
    for content in ("[wds]\nprot = 1\n", "[wds\n"):
        path = write(content, "a\nb.toml")
        with pytest.raises(ConfigError) as caught:
            load(path, {})
        assert str(caught.value).isprintable()


def test_no_setting_looks_like_a_variable_of_kubernetes() -> None:
    """A setting whose variable was ignored would be a setting that silently does nothing."""
    assert not [name for name in VARIABLES if _KUBERNETES.fullmatch(name)]
    assert not OTHER_VARIABLES & set(VARIABLES)


# --- secrets ---


@pytest.mark.parametrize("key", sorted(SECRET_KEYS))
def test_a_refused_secret_is_not_shown(key: str) -> None:
    """Neither as the wrong value nor as the wrong type."""
    for bad in (f"{SECRET} with spaces", [f"{SECRET}", 5], {"a": SECRET}):
        with pytest.raises(ConfigError) as caught:
            load(None, {}, {key: bad})
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize("url", ["http://u:{}@h", "redis://u:{}@[h", "redis://h?password={}", "x:{}@y"])
@pytest.mark.parametrize("key", sorted(URL_KEYS))
def test_a_refused_url_does_not_show_its_password(key: str, url: str) -> None:
    """Also where the URL is too broken to be taken apart."""
    with pytest.raises(ConfigError) as caught:
        load(None, {}, {key: url.format(SECRET)})
    assert SECRET not in str(caught.value)
