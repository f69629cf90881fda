"""Who may use the control API: rules on headers alone."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import make_mocked_request

from mdp.admin.guard import Guard, Refused
from mdp.config import AdminConfig


def status_of(config: AdminConfig, method: str = "GET", **headers: str) -> int:
    """200 where the guard lets a request pass, else the status it refuses it with."""
    named = {"Host": "127.0.0.1:4201"} | {name.replace("_", "-"): value for name, value in headers.items()}
    named = {name: value for name, value in named.items() if value}
    try:
        Guard(config).check(make_mocked_request(method, "/api/v1/status", headers=named))
    except Refused as refused:
        return refused.status
    return 200


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:4201",
        "127.0.0.1",
        "localhost:9999",
        "LOCALHOST",
        "[::1]:4201",
        "127.8.9.1",
        "10.0.0.5:4201",
    ],
)
def test_this_machine_is_let_in(host: str) -> None:
    """Any loopback name, at any port (a tunnel changes it), and the configured address."""
    assert status_of(AdminConfig(host="10.0.0.5"), Host=host) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:4201",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "",
        "192.168.1.1",
        "[::1",
        "a b",
    ],
)
def test_a_name_that_was_made_to_point_here_is_refused(host: str) -> None:
    """DNS rebinding: the page's own name is in Host."""
    assert status_of(AdminConfig(), Host=host) == 403


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://localhost:8000",
        "http://127.0.0.1:42010",
        "http://127.0.0.1",
        "null",
        "http://127.0.0.1:4201.evil.example",
    ],
)
@pytest.mark.parametrize("token", ["", "secret"])
def test_pages_of_other_sites_are_refused(origin: str, token: str) -> None:
    """Another site, another port of this machine, a sandboxed frame: none of them is ours."""
    config = AdminConfig(token=token)
    assert status_of(config, Origin=origin, Authorization=f"Bearer {token}") == 403


def test_our_own_origin_and_none_are_let_in() -> None:
    """A program sends no Origin; a page served from this address sends its own."""
    assert status_of(AdminConfig()) == 200
    assert status_of(AdminConfig(), Origin="http://127.0.0.1:4201") == 200


@pytest.mark.parametrize(("site", "status"), [("cross-site", 403), ("same-site", 403), ("same-origin", 200)])
def test_what_the_browser_says_of_the_page_counts(site: str, status: int) -> None:
    """An image or link of another page carries no Origin, but says where it comes from."""
    assert status_of(AdminConfig(), Sec_Fetch_Site=site) == status


@pytest.mark.parametrize(
    "kind",
    ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonp"],
)
def test_a_change_must_be_json(kind: str) -> None:
    """What a form can send, and what has no type at all, is refused; also with a token."""
    assert status_of(AdminConfig(), "POST", Content_Type=kind) == 415
    config = AdminConfig(token="secret")
    assert status_of(config, "POST", Content_Type=kind, Authorization="Bearer secret") == 415


def test_a_change_in_json_is_let_in() -> None:
    """A charset beside the type does no harm."""
    assert status_of(AdminConfig(), "POST", Content_Type="application/json; charset=utf-8") == 200


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ("Bearer secret", 200),
        ("bearer  secret", 200),
        ("Bearer Secret", 401),
        ("Bearer secret2", 401),
        ("Bearer secre", 401),
        ("Bearer", 401),
        ("Basic secret", 401),
        ("secret", 401),
        ("Bearer s\u00e9cret", 401),
        ("", 401),
    ],
)
def test_the_token_must_be_exactly_right(given: str, status: int) -> None:
    """Anything but the token after the word Bearer is 401."""
    assert status_of(AdminConfig(token="secret"), Authorization=given) == status


def test_with_a_token_any_host_name_will_do() -> None:
    """A machine is reached by names it does not know; the token is what proves the right."""
    config = AdminConfig(host="0.0.0.0", token="secret")
    assert status_of(config, Host="mdp.example", Authorization="Bearer secret") == 200


def test_a_refusal_never_holds_the_token() -> None:
    """Neither the right one nor the one that was tried."""
    request = make_mocked_request("GET", "/", headers={"Authorization": "Bearer tried-it"})
    with pytest.raises(Refused) as caught:
        Guard(AdminConfig(token="right-one")).check(request)
    assert "tried-it" not in caught.value.reason
    assert "right-one" not in caught.value.reason
