"""Keys and origins: who may connect."""

from __future__ import annotations

import hmac

import pytest

from mdp.wds import auth
from mdp.wds.auth import KeyRing, hosts_of, origin_allowed

OWN = {"http://127.0.0.1:4202", "http://localhost:4202"}


def test_each_key_is_accepted_and_nothing_else() -> None:
    """Whole keys only: no prefix, no case folding, not the empty one."""
    ring = KeyRing(["alpha", "beta"])
    assert ring.accepts("alpha")
    assert ring.accepts("beta")
    assert not any(ring.accepts(key) for key in ("", "alph", "alphaa", "ALPHA", "gamma", "é", "\ud800"))


def test_an_empty_key_in_the_configuration_opens_nothing() -> None:
    """A forgotten empty string must not become a password."""
    assert not KeyRing([""]).accepts("")


def test_all_keys_are_compared_whichever_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """No early exit: the time says neither which key fitted nor that one did."""
    compared: list[int] = []

    def compare(first: bytes, second: bytes) -> bool:
        compared.append(len(first))
        return first == second

    monkeypatch.setattr(hmac, "compare_digest", compare)
    ring = KeyRing(["a", "bb", "ccc"])
    for key in ("a", "ccc", "nothing at all"):
        compared.clear()
        ring.accepts(key)
        assert compared == [32, 32, 32]  # digests: their lengths say nothing of the keys'


def test_a_ring_does_not_show_its_keys() -> None:
    """Not even to whoever dumps the object."""
    ring = KeyRing(["hunter2"])
    assert "hunter2" not in repr(vars(ring))


@pytest.mark.parametrize("origin", [None, "http://127.0.0.1:4202", "http://localhost:4202"])
def test_programs_and_our_own_pages_may_connect(origin: str | None) -> None:
    """An absent origin is a program; ours are ours under each loopback name."""
    assert origin_allowed(origin, OWN, [], "127.0.0.1")


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "null",
        "http://evil.example",
        "http://evil.example:4202",  # DNS rebinding: our port, their name
        "http://127.0.0.1",
        "https://127.0.0.1:4202",  # anybody on the way can make an http page of a host that speaks https
        "http://127.0.0.1:4203",
        "http://127.0.0.1.evil.example:4202",
        "http://127.0.0.1:4202@evil.example",
        "http://user@127.0.0.1:4202",
        "http://127.0.0.1:4202/path",
        "http://127.0.0.1:99999",
        "http://[::1",
        "ftp://127.0.0.1:4202",
        "file://",
    ],
)
def test_other_origins_may_not(origin: str) -> None:
    """Neither other hosts and ports nor anything that is no origin."""
    assert not origin_allowed(origin, OWN, [], "127.0.0.1")


def test_configured_origins_may_connect() -> None:
    """As they are written, but for case and a slash at the end."""
    allowed = ["https://Trade.example/"]
    assert origin_allowed("https://trade.example", [], allowed, "10.0.0.1")
    assert not origin_allowed("http://trade.example", [], allowed, "10.0.0.1")
    assert not origin_allowed("https://trade.example:444", [], allowed, "10.0.0.1")


def test_a_star_stands_for_the_address_the_connection_came_in_at() -> None:
    """Listening everywhere, a page is ours if it was loaded from the same address of this machine."""
    own = {"http://*:8000"}
    assert origin_allowed("http://10.0.0.1:8000", own, [], "10.0.0.1")
    assert not origin_allowed("http://10.0.0.2:8000", own, [], "10.0.0.1")
    assert not origin_allowed("http://evil.example:8000", own, [], "10.0.0.1")
    assert origin_allowed("http://localhost:8000", own, [], "127.0.0.1")
    assert not origin_allowed("http://localhost:8000", own, [], "10.0.0.1")
    assert not origin_allowed("http://10.0.0.1:8000", own, [], "")


def test_a_default_port_may_be_left_out() -> None:
    """Browsers leave out port 80."""
    assert origin_allowed("http://localhost", {"http://localhost:80"}, [], "127.0.0.1")


def test_hosts_of_loopback_know_each_other() -> None:
    """A loopback address goes by all its names, another by its own only."""
    assert hosts_of("127.0.0.1") == hosts_of("localhost") == {"localhost", "127.0.0.1", "::1"}
    assert hosts_of("market.example") == {"market.example"}
    assert hosts_of("0.0.0.0", "10.0.0.1") == {"10.0.0.1"}
    assert hosts_of("::", "::ffff:127.0.0.1") == {"localhost", "127.0.0.1", "::1"}
    assert auth.ANY_HOST == "*"
