"""The configuration: structs, the four sources, and every refusal in one line."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import rich.pretty
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdp.config import (
    MASK,
    SECRET_KEYS,
    CacheConfig,
    Config,
    ConfigError,
    MassiveConfig,
    masked_url,
    secrets_of,
)
from mdp.config_load import (
    _KUBERNETES,
    KEYS,
    OTHER_VARIABLES,
    SECTIONS,
    VARIABLES,
    Loaded,
    check_for_run,
    flag_of,
    load,
    value_of,
)
from mdp.config_rules import RULES, is_loopback

ROOT = Path(__file__).parent.parent
SECRET = "s3cret-S3CRET"


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test starts where no config.toml is."""
    monkeypatch.chdir(tmp_path)


def write(text: str, name: str = "test.toml") -> str:
    """A configuration file in the current folder; returns its path."""
    Path(name).write_text(text, encoding="utf-8")
    return name


def refusal(
    text: str = "", environ: dict[str, str] | None = None, flags: dict[str, object] | None = None
) -> str:
    """The message that a configuration is refused with, checked to be one line."""
    with pytest.raises(ConfigError) as caught:
        load(write(text), environ or {}, flags or {})
    message = str(caught.value)
    assert message.isprintable(), "a refusal is one line without control characters"
    return message


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


BAD_VALUES: list[tuple[str, Any]] = [
    *[(key, bad) for key in ("wds.port", "scp.port", "metrics.port", "admin.port") for bad in (-1, 65_536)],
    *[
        (key, bad)
        for key in KEYS
        if key.endswith("_seconds")
        for bad in (0, -1.0, float("nan"), float("inf"), 86_401)
    ],
    *[
        (key, bad)
        for key in ("massive.max_frame_bytes", "massive.ring_bytes", "mdq.max_events")
        for bad in (0, -5)
    ],
    *[(key, 0) for key in ("mdq.partitions", "processor.max_failures", "processor.max_symbols")],
    *[(f"wds.{key}", 0) for key in ("tick_ms", "client_buffer_bytes", "max_message_bytes", "max_clients")],
    ("wds.max_subscriptions", 0),
    *[
        (key, bad)
        for key in KEYS
        if key.endswith(".host")
        for bad in ("", "a b", "1.2.3", "http://x", "-x", "x/y")
    ],
    *[
        ("massive.feed", bad)
        for bad in (
            "",
            "realtime",
            "localhost",
            "localhost:",
            ":80",
            "h:0",
            "h:65536",
            "a:b:1",
            "h:٣",
            "ws://h:1",
        )
    ],
    ("massive.market", "stock"),
    *[
        ("massive.rest_url", bad)
        for bad in ("", "api.massive.com", "ftp://x", "http://", "http://u:p@x", "http://x?a=1")
    ],
    *[
        ("massive.subscriptions", bad)
        for bad in ([], ["T"], ["T."], [".AAPL"], ["t.*"], ["T.A*"], ["T.*,Q.*"], ["T.*", "T.*"], ["T. A"])
    ],
    *[
        ("halts.rss_url", bad)
        for bad in (
            "nasdaqtrader.com",
            "ftp://x/rss",
            "http://u:p@x/rss?feed=a",
            "http://?a=1",
            "http://x/#a",
        )
    ],
    *[("halts.poll_seconds", bad) for bad in (0, 0.5, float("nan"), 86_401)],
    *[("halts.source", bad) for bad in ("", "a b", "a:")],
    ("mdq.backend", "kafka"),
    ("mdq.backend", "redis"),
    ("cache.backend", "redis"),
    *[
        ("cache.url", bad)
        for bad in ("", "127.0.0.1:6379", "http://x", "redis://", "redis://x:99999", "unix://")
    ],
    *[
        (key, bad)
        for key in ("processor.analyzers", "processor.scanners")
        for bad in ([""], ["a", "a"], ["a b"], ["a:"])
    ],
    ("wds.api_keys", [""]),
    ("wds.api_keys", ["a b"]),
    *[("wds.allowed_origins", [bad]) for bad in ("*", "trader.example", "https://a.example/", "null")],
    *[("wds.unlimited_addresses", [bad]) for bad in ("", "everywhere", "10.0.0.0/33")],
    *[("wds.actions_per_second", bad) for bad in (0, -1, float("nan"), float("inf"))],
    *[
        ("wds.jwks_url", bad)
        for bad in ("login.example", "http://login.example/k", "ftp://x/k", "https://u:p@x/")
    ],
    ("wds.max_clients_per_address", -1),
    ("wds.action_burst", 0),
    ("admin.token", "a\tb"),
    ("massive.api_key", "a key"),
    ("log.level", "loud"),
    ("log.format", "xml"),
    ("cache.snapshot_path", "a\nb"),
    ("cache.history_path", "a\nb"),
    *[("cache.history_days", bad) for bad in (0, 256)],
]


@pytest.mark.parametrize(("key", "bad"), BAD_VALUES)
def test_an_impossible_value_is_refused(key: str, bad: Any) -> None:
    """Each limit of each setting holds, and the refusal names flag, key and what is allowed."""
    with pytest.raises(ConfigError) as caught:
        load(None, {}, {key: bad})
    message = str(caught.value)
    assert message.startswith(f"{flag_of(key)}: {key}: found ")
    assert "; allowed: " in message
    assert message.isprintable()


GOOD_VALUES: list[tuple[str, Any]] = [
    ("wds.port", 0),
    ("wds.port", 65_535),
    *[
        ("massive.feed", good)
        for good in ("Delayed", "127.0.0.1:9", "localhost:65535", "[::1]:80", "a-b.example:1")
    ],
    ("massive.subscriptions", ["AM.BRK.A", "T.X:BTC-USD", "NOI.*"]),
    ("massive.rest_url", "http://127.0.0.1:8080/base"),
    *[
        ("halts.rss_url", good)
        for good in ("", "https://www.nasdaqtrader.com/rss.aspx?feed=tradehalts", "http://127.0.0.1:9/a")
    ],
    ("halts.source", "my.package:Halts"),
    ("halts.poll_seconds", 1),
    ("processor.analyzers", []),
    ("processor.analyzers", ["my.package:Thing", "raw_feeds"]),
    *[("cache.url", good) for good in ("rediss://u:p@h:1/2", "unix:///run/redis.sock", "redis://[::1]:6379")],
    ("cache.snapshot_path", ""),
    ("cache.history_path", ""),
    ("cache.history_days", 1),
    *[("wds.host", good) for good in ("::1", "localhost", "127.0.0.2")],
    ("wds.allowed_origins", ["https://a.example", "http://localhost:3000"]),
    *[("wds.unlimited_addresses", good) for good in ([], ["10.0.0.7", "10.0.0.0/8", "2001:db8::/32"])],
    *[("wds.jwks_url", good) for good in ("", "https://login.example/k.json", "http://127.0.0.1:9/k")],
    ("wds.max_clients_per_key", 0),
    ("log.level", "debug"),
    ("log.format", "console"),
    ("massive.stall_seconds", 0.001),
]


@pytest.mark.parametrize(("key", "good"), GOOD_VALUES)
def test_what_should_work_is_accepted_as_it_is(key: str, good: Any) -> None:
    """The limits let everything sensible pass."""
    assert value_of(load(None, {}, {key: good}).config, key) == good


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


# --- settings that do not fit together ---


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[wds]\nhost = '0.0.0.0'\n", "test.toml:2: wds.host"),
        ("[wds]\nhost = 'example.com'\n", "wds.allow_anonymous = true"),
        ("[scp]\nhost = '::'\n", "scp.allow_anonymous = true"),
        ("[admin]\nhost = '10.0.0.1'\n", "admin.token"),
        ("[wds]\nauth_enabled = true\nkeys_path = ''\n", "test.toml:2: wds.auth_enabled"),
        ("[wds]\njwks_url = 'https://x/k'\njwt_secret_file = 's'\n", "test.toml:2: wds.jwks_url"),
        ("[wds]\ntls_cert = 'cert.pem'\n", "test.toml:2: wds.tls_cert"),
        ("[wds]\ntls_key = 'key.pem'\n", "test.toml:2: wds.tls_key"),
        ("[massive]\nring_bytes = 1024\n", "max_frame_bytes (16777216)"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(text: str, part: str) -> None:
    """Nothing listens where others can connect without authentication or an explicit word."""
    message = refusal(text)
    assert part in message
    assert "; allowed: " in message


@pytest.mark.parametrize(
    "text",
    [
        "[wds]\nhost = '0.0.0.0'\nallow_anonymous = true\n",
        "[wds]\nhost = '0.0.0.0'\nauth_enabled = true\napi_keys = ['k']\n",
        "[wds]\nauth_enabled = true\n",  # keys may be made later
        "[wds]\nauth_enabled = true\nkeys_path = ''\njwks_url = 'https://x/k'\n",
        "[wds]\ntls_cert = 'cert.pem'\ntls_key = 'key.pem'\n",
        "[scp]\nhost = '0.0.0.0'\nallow_anonymous = true\n",
        "[admin]\nhost = '0.0.0.0'\ntoken = 't'\n",
        "[metrics]\nhost = '0.0.0.0'\n",
    ],
)
def test_open_addresses_are_possible_when_meant(text: str) -> None:
    """Authentication or the explicit word opens the address."""
    load(write(text), {})


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("LOCALHOST", True), ("0.0.0.0", False),
     ("::", False), ("10.0.0.1", False), ("localhost.example", False), ("", False)],
)  # fmt: skip
def test_loopback_is_what_only_this_machine_reaches(host: str, expected: bool) -> None:
    """An unknown name counts as reachable by others."""
    assert is_loopback(host) is expected


def test_two_servers_on_one_port_are_refused_at_the_start() -> None:
    """Same port on the same or on all addresses; 0 and other addresses are fine."""
    text = "[wds]\nport = 8000\n"
    with pytest.raises(ConfigError, match=r"scp\.port: found 8000, which is also wds\.port"):
        check_for_run(load(write(text), {}), needs_provider_key=False)
    apart = text + "host = '127.0.0.2'\n"
    check_for_run(load(write(apart), {}), needs_provider_key=False)
    free = {"wds.port": 0, "scp.port": 0, "metrics.port": 0, "admin.port": 0}
    check_for_run(load(None, {}, free), needs_provider_key=False)


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
    assert sorted(secrets_of(secretive().config)) == [f"{SECRET}-{number}" for number in (1, 2, 3, 4)]
    assert secrets_of(Config()) == []


@pytest.mark.parametrize("key", sorted(SECRET_KEYS))
def test_a_refused_secret_is_not_shown(key: str) -> None:
    """Neither as the wrong value nor as the wrong type."""
    for bad in (f"{SECRET} with spaces", [f"{SECRET}", 5], {"a": SECRET}):
        with pytest.raises(ConfigError) as caught:
            load(None, {}, {key: bad})
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize("url", ["http://u:{}@h", "redis://u:{}@[h", "redis://h?password={}", "x:{}@y"])
def test_a_refused_url_does_not_show_its_password(url: str) -> None:
    """Also where the URL is too broken to be taken apart."""
    with pytest.raises(ConfigError) as caught:
        load(None, {}, {"cache.url": url.format(SECRET)})
    assert SECRET not in str(caught.value)


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


def test_every_key_has_a_rule_or_needs_none() -> None:
    """A new setting without a limit is a decision, not an oversight."""
    free = {"massive.api_key_file", "cache.snapshot_path", "cache.history_path", "wds.keys_path"}
    free |= {"wds.jwt_secret_file", "wds.jwt_public_key_file", "wds.tls_cert", "wds.tls_key"}
    free |= {"wds.jwt_issuer", "wds.jwt_audience"}
    unruled = {key for key, kind in KEYS.items() if key not in RULES and kind is not bool}
    assert unruled == free
    assert set(RULES) <= set(KEYS)


def test_the_defaults_pass_their_own_rules() -> None:
    """What the program starts with is what it accepts."""
    for key, rule in RULES.items():
        assert rule.passes(value_of(Config(), key)), key
