"""What each setting may be, alone and together with others."""

from __future__ import annotations

from typing import Any

import pytest

from mdp.config import Config, ConfigError
from mdp.config_load import KEYS, check_for_run, flag_of, load, value_of
from mdp.config_rules import RULES, is_loopback
from tests.config_support import refusal, write

pytestmark = pytest.mark.usefixtures("in_empty_folder")


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
    ("cache.backend", "disk"),
    *[
        (key, bad)
        for key in ("cache.url", "cache.widget_url")
        for bad in (
            "127.0.0.1:6379",
            "http://x",
            "redis://",
            "redis://x:99999",
            "unix://",
            "redis://x/0?db=1",
        )
    ],
    ("cache.url", ""),
    *[("cache.url", bad) for bad in ("redis+sentinel://a:1,b:2", "redis+cluster://a/1", "redis://a,b")],
    *[("cache.key_prefix", bad) for bad in ("{a}", "a b", "*", "a" * 65)],
    *[("cache.timeout_seconds", bad) for bad in (1.0, 61, float("nan"))],
    ("cache.max_connections", 3),
    ("cache.sentinel_password", "a b"),
    *[("mdq.keep_seconds", bad) for bad in (9, 3_601, float("inf"))],
    *[("mdq.flush_ms", bad) for bad in (0, 1_001, float("nan"))],
    ("mdq.flush_bytes", 1_000),
    *[("processor.workers", bad) for bad in (0, 257)],
    *[("processor.partitions", bad) for bad in ("a", "1,,2", "1-", "-1", "1 2")],
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
    ("mdq.backend", "redis"),
    ("cache.backend", "redis"),
    *[
        ("cache.widget_url", good)
        for good in ("", "redis+sentinel://u:p@a:1,b/main/2", "rediss+cluster://a,[::1]:7000")
    ],
    *[("cache.key_prefix", good) for good in ("", "mdp-test:", "a/b.c_d:")],
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


def test_every_key_has_a_rule_or_needs_none() -> None:
    """A new setting without a limit is a decision, not an oversight."""
    free = {"massive.api_key_file", "cache.snapshot_path", "cache.history_path", "wds.keys_path"}
    free |= {"wds.jwt_secret_file", "wds.jwt_public_key_file", "wds.tls_cert", "wds.tls_key"}
    free |= {"wds.jwt_issuer", "wds.jwt_audience", "cache.tls_ca"}
    unruled = {key for key, kind in KEYS.items() if key not in RULES and kind is not bool}
    assert unruled == free
    assert set(RULES) <= set(KEYS)


def test_the_defaults_pass_their_own_rules() -> None:
    """What the program starts with is what it accepts."""
    for key, rule in RULES.items():
        assert rule.passes(value_of(Config(), key)), key


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
