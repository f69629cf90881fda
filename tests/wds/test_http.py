"""HTTP over a real socket: the documented requests, values, who may ask, how often, and from where."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from mdp import feeds
from mdp.cache.memory import MemoryBus
from mdp.config import WdsConfig
from mdp.wds.http import HttpApi, _Rates, accepts
from mdp.wds.keys import KeyFile, new_key, utc_now
from mdp.wds.query import ERRORS, Problem
from tests.required import require_program
from tests.wds.doubles import Running, running
from tests.wds.signers import SECRET, hs256

DOCUMENT = Path(__file__).parents[2] / "docs" / "http.md"
EPOCH = 1_773_153_000_000
BOARD = [
    {"rank": 1, "symbol": "AAA", "pct_change": 12.5, "close": 3.0},
    {"rank": 2, "symbol": "BBB", "pct_change": 2.0, "close": 4.0},
]


@pytest.fixture
def guarded(tmp_path: Path) -> WdsConfig:
    """Authentication on; `make_key` adds keys."""
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "secret").chmod(0o600)
    return WdsConfig(
        auth_enabled=True,
        keys_path=str(tmp_path / "keys.json"),
        jwt_secret_file=str(tmp_path / "secret"),
        unlimited_addresses=[],
    )


def make_key(config: WdsConfig, *patterns: str) -> dict[str, str]:
    """Headers with a new key that permits some feeds."""
    key, entry = new_key("test", list(patterns), None, utc_now())
    KeyFile(config.keys_path).add(entry)
    return bearer(key)


def bearer(secret: str) -> dict[str, str]:
    """Headers with a key or token."""
    return {"Authorization": f"Bearer {secret}"}


@contextlib.asynccontextmanager
async def stocked(config: WdsConfig | None = None, **options: Any) -> AsyncIterator[Running]:
    """A service with a quote, a board and two alerts."""
    async with running(config, MemoryBus(epoch=EPOCH), **options) as env:
        env.cache.set(feeds.QUOTE, "AAPL", {"symbol": "AAPL", "close": 231.5})
        env.cache.set(feeds.TOP_GAINERS, "", BOARD)
        for symbol in ("AAA", "BBB"):
            env.cache.push(feeds.ALERTS, "", {"symbol": symbol})
            env.bus.publish(feeds.ALERTS, "", {"symbol": symbol})
        yield env


async def exchange(
    env: Running, path: str, method: str = "GET", **options: Any
) -> tuple[aiohttp.ClientResponse, bytes]:
    """An answer and its body."""
    url = f"http://127.0.0.1:{env.service.port}{path}"
    async with asyncio.timeout(60), env.session.request(method, url, **options) as answer:
        return answer, await answer.read()


async def ask(env: Running, path: str, method: str = "GET", **options: Any) -> aiohttp.ClientResponse:
    """An answer, read to its end."""
    return (await exchange(env, path, method, **options))[0]


async def data(env: Running, path: str, **options: Any) -> Any:
    """The data of a feed's value."""
    answer = await ask(env, f"/api/v1/feeds/{path}", **options)
    assert answer.status == 200, await answer.text()
    return (await answer.json())["data"]


async def refusal(env: Running, path: str, method: str = "GET", **options: Any) -> tuple[int, str]:
    """Status and code of a refusal."""
    answer = await ask(env, path, method, **options)
    problem = await answer.json()
    assert (problem["status"], set(problem)) == ("error", {"status", "code", "message"})
    assert problem["code"] in ERRORS
    return answer.status, problem["code"]


# The documentation


def commands() -> list[tuple[str, str]]:
    """The documented commands, each with what it prints."""
    blocks = re.findall(r"```console\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    parts = [part for block in blocks for part in re.split(r"^\$ ", block, flags=re.MULTILINE) if part]
    return [(part.partition("\n")[0], part.partition("\n")[2].strip()) for part in parts]


def steady(text: str) -> str:
    """Without the time of day."""
    return re.sub(r'"ts":\d+', '"ts":0', text.strip())


@require_program("curl")
async def test_the_documented_commands_print_what_is_documented(guarded: WdsConfig) -> None:
    """All of them, by the shell."""
    key = make_key(guarded, "**")["Authorization"].removeprefix("Bearer ")
    assert len(commands()) >= 8
    async with stocked(guarded) as env:
        address = f"http://127.0.0.1:{env.service.port}"
        for command, expected in commands():
            shell = await asyncio.create_subprocess_exec(
                "sh", "-c", command, stdout=asyncio.subprocess.PIPE,
                env={**os.environ, "KEY": key, "MDP": address, "no_proxy": "*"},
            )  # fmt: skip
            printed, _ = await asyncio.wait_for(shell.communicate(), 20)
            assert steady(printed.decode()) == steady(expected), command


def test_every_status_is_documented() -> None:
    """But for those that say that something failed here, or that the client is too old."""
    text = DOCUMENT.read_text()
    assert {code for code in ERRORS if str(Problem(code).status.value) not in text} <= {
        "failed",
        "http_version",
    }


# Values


async def test_options_choose_rows_before_the_limit() -> None:
    """The first row that fits may be the last of the board; rows keep symbol and rank."""
    async with stocked() as env:
        path = "scanners:top_gainers"
        assert await data(env, path) == BOARD
        assert await data(env, path, params={"limit": "1"}) == BOARD[:1]
        chosen = await data(env, path, params={"limit": "1", "where": "pct_change<10", "fields": "close"})
        assert chosen == [{"rank": 2, "symbol": "BBB", "close": 4.0}]
        assert await data(env, path, params=[("where", "close>=3"), ("where", "symbol!=AAA")]) == BOARD[1:]


async def test_a_value_that_fails_a_comparison_is_null() -> None:
    """As in a stream."""
    async with stocked() as env:
        assert await data(env, "quote:AAPL", params={"where": "close>200"}) == {
            "symbol": "AAPL", "close": 231.5,
        }  # fmt: skip
        assert await data(env, "quote:AAPL", params={"where": "close>300"}) is None
        assert await data(env, "quote:NONE") is None


async def test_events_of_one_symbol_stay_several() -> None:
    """A list of events is no board: two of a symbol are two."""
    async with stocked() as env:
        env.cache.push(feeds.ALERTS, "", {"symbol": "AAA", "n": 2})
        found = await data(env, "alerts", params={"where": "symbol=AAA"})
        assert found == [{"symbol": "AAA", "n": 2}, {"symbol": "AAA"}]
        assert await data(env, "alerts", params={"where": "symbol=AAA", "limit": "1"}) == found[:1]


async def test_long_lists_are_chosen_from_in_steps() -> None:
    """Rows behind the first step are found, and the limit holds over all steps."""
    async with stocked() as env:
        env.cache.set(feeds.TTA_ALL, "", [{"symbol": f"S{n}", "n": n} for n in range(1_203)])
        found = await data(env, "tta:all_symbols:widget", params={"where": "n>=498", "limit": "600"})
        assert [row["n"] for row in found] == list(range(498, 1_098))


@pytest.mark.parametrize("path", ["quote:BRK%2FA", "quote:BRK/A", "quote%3ABRK%2FA"])
async def test_a_symbol_may_hold_a_slash(path: str) -> None:
    """Encoded or not."""
    async with stocked() as env:
        env.cache.set(feeds.QUOTE, "BRK/A", 7)
        url = URL(f"http://127.0.0.1:{env.service.port}/api/v1/feeds/{path}", encoded=True)
        async with env.session.get(url) as answer:
            assert (await answer.json())["data"] == 7


async def test_an_etag_holds_as_long_as_the_value() -> None:
    """Also where the value changes without a publication, as of what nobody subscribes to."""
    async with stocked() as env:
        path = "/api/v1/feeds/quote:AAPL"
        tag = (await ask(env, path)).headers["ETag"]
        same, body = await exchange(env, path, headers={"If-None-Match": f'"other", {tag}'})
        assert (same.status, same.headers["ETag"], body) == (304, tag, b"")
        env.cache.set(feeds.QUOTE, "AAPL", {"symbol": "AAPL", "close": 232.0})
        other = await ask(env, path, headers={"If-None-Match": tag})
        assert other.status == 200
        assert other.headers["ETag"] != tag


async def test_a_head_is_a_get_without_a_body() -> None:
    """The same headers, and no stream is begun."""
    async with stocked() as env:
        path = "/api/v1/feeds/quote:AAPL"
        get = await ask(env, path)
        head, body = await exchange(env, path, "HEAD")
        assert (head.status, body) == (200, b"")
        assert head.headers["Content-Length"] == get.headers["Content-Length"]
        stream = await ask(env, "/api/v1/stream?feeds=alerts", "HEAD")
        assert (stream.status, stream.content_type) == (200, "text/event-stream")
        assert (env.service.counters.clients, env.service.counters.subscriptions) == (0, 0)


async def test_a_cache_that_fails_is_our_refusal_without_its_words() -> None:
    """Messages of back ends name hosts."""
    async with stocked() as env:

        def fail(symbol: str) -> Any:
            raise OSError("redis://:secret@host")

        env.cache.provide(feeds.TRADE_STATS, fail)
        answer = await ask(env, "/api/v1/feeds/trade_stats:A")
        assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
        assert "secret" not in await answer.text()


# Refusals


@pytest.mark.parametrize(
    ("path", "method", "expected"),
    [
        ("/api/v1/feeds/mdp:internal", "GET", (404, "unknown_feed")),
        ("/api/v1/feeds/quote:*", "GET", (400, "wildcard_in_get")),
        ("/api/v1/feeds/", "GET", (404, "not_found")),
        ("/api/v1/nothing", "GET", (404, "not_found")),
        ("/", "GET", (404, "not_found")),
        ("/api/v1/feeds/halts", "POST", (405, "method_not_allowed")),
        ("/api/v1/feeds/halts", "DELETE", (405, "method_not_allowed")),
        ("/api/v1/feeds/halts?Api_Key=x", "GET", (400, "key_in_url")),
        ("/api/v1/stream?feeds=halts&token=x", "GET", (400, "key_in_url")),
        ("/api/v1/feeds/halts?limt=1", "GET", (400, "unknown_parameter")),
        ("/api/v1/feeds/halts?limit=1&limit=2", "GET", (400, "bad_option")),
        ("/api/v1/stream", "GET", (400, "bad_feeds")),
        ("/api/v1/stream?feeds=quote:A,nothing", "GET", (404, "unknown_feed")),
    ],
)
async def test_refusals_say_what_is_wrong(path: str, method: str, expected: tuple[int, str]) -> None:
    """By status and code, as JSON."""
    async with stocked() as env:
        assert await refusal(env, path, method) == expected


async def test_what_is_accepted_decides() -> None:
    """JSON for values, events for streams, and whoever names nothing takes all."""
    async with stocked() as env:
        for path, wrong in (("feeds/halts", "text/html"), ("stream?feeds=halts", "application/json")):
            found = await refusal(env, f"/api/v1/{path}", headers={"Accept": wrong})
            assert found == (406, "not_acceptable")


@pytest.mark.parametrize(
    ("header", "taken"),
    [
        ("application/json", True),
        ("text/html, */*;q=0.1", True),
        ("Application/*", True),
        ("application/json;q=0, */*", False),
        ("*/*;q=0.000", False),
        ("text/html", False),
        (";;q=,", False),
    ],
)
def test_the_closest_entry_of_accept_decides(header: str, taken: bool) -> None:
    """RFC 9110: what is named exactly counts before what a wildcard says."""
    assert accepts(header, "application/json") is taken


# Who asks


async def test_a_key_or_a_token_opens_what_it_permits(guarded: WdsConfig) -> None:
    """In the header only, and no further."""
    key, token = make_key(guarded, "quote:*"), bearer(hs256(feeds=["quote:AAPL"]))
    async with stocked(guarded, clock=lambda: 1_800_000_000.0) as env:
        path = "/api/v1/feeds/quote:AAPL"
        assert (await ask(env, path, headers=key)).status == 200
        assert (await ask(env, path, headers=token)).status == 200
        assert await refusal(env, "/api/v1/feeds/quote:MSFT", headers=token) == (403, "forbidden")
        assert await refusal(env, "/api/v1/stream?feeds=quote:A,alerts", headers=key) == (403, "forbidden")
        assert env.service.counters.clients == 0


@pytest.mark.parametrize("path", ["/api/v1/feeds/quote:AAPL", "/api/v1/stream?feeds=alerts"])
async def test_without_a_right_key_there_is_nothing(guarded: WdsConfig, path: str) -> None:
    """Missing, of another scheme, or wrong, which in the end makes the address wait."""
    async with stocked(guarded) as env:
        for headers in ({}, {"Authorization": "Basic YTpi"}, {"Authorization": "Bearer "}):
            assert await refusal(env, path, headers=headers) == (401, "unauthorized")
        assert (await ask(env, path)).headers["WWW-Authenticate"].startswith("Bearer")
        for _ in range(5):
            assert await refusal(env, path, headers=bearer("guess")) == (401, "unauthorized")
        slowed = await ask(env, path, headers=bearer("guess"))
        assert (slowed.status, slowed.headers["Retry-After"]) == (429, "1")


async def test_the_document_needs_no_key(guarded: WdsConfig) -> None:
    """Or nobody could read how to send one."""
    async with stocked(guarded) as env:
        answer = await ask(env, "/api/v1/openapi.json")
        assert (await answer.json())["openapi"].startswith("3.1")


async def test_who_asks_too_often_has_to_wait() -> None:
    """By address where there is no key."""
    config = WdsConfig(actions_per_second=0.001, action_burst=2, unlimited_addresses=[])
    async with stocked(config) as env:
        path = "/api/v1/feeds/quote:AAPL"
        assert [(await ask(env, path)).status for _ in range(3)] == [200, 200, 429]
        assert await refusal(env, "/api/v1/stream?feeds=alerts") == (429, "slow_down")


def test_rates_are_kept_apart_and_bounded() -> None:
    """One caller's haste is nobody else's; who asked longest ago is forgotten first."""
    now = 0.0
    rates = _Rates(WdsConfig(actions_per_second=1, action_burst=1), lambda: now)
    assert [rates.take("key:a", "10.0.0.1") for _ in range(2)] == [True, False]
    assert rates.take("key:b", "10.0.0.1")
    assert all(rates.take("", "127.0.0.1") for _ in range(5))
    for number in range(5_000):
        rates.take("", f"10.1.{number // 256}.{number % 256}")
    assert len(rates._meters) == 4_096
    now = 1.0
    assert rates.take("key:a", "10.0.0.1")


# Pages


async def test_pages_of_allowed_origins_may_read(guarded: WdsConfig) -> None:
    """Others get nothing, not even the refusal's words."""
    guarded.allowed_origins = ["https://page.example"]
    key = make_key(guarded, "**")
    async with stocked(guarded) as env:
        path = "/api/v1/feeds/quote:AAPL"
        ours = await ask(env, path, headers={"Origin": "https://page.example", **key})
        assert ours.status == 200
        assert ours.headers["Access-Control-Allow-Origin"] == "https://page.example"
        assert "Access-Control-Allow-Credentials" not in ours.headers
        theirs = await ask(env, path, headers={"Origin": "https://other.example", **key})
        assert theirs.status == 403
        assert "Access-Control-Allow-Origin" not in theirs.headers


async def test_a_browser_may_ask_before_it_sends_a_key(guarded: WdsConfig) -> None:
    """A preflight carries no key."""
    guarded.allowed_origins = ["https://page.example"]
    async with stocked(guarded) as env:
        answer = await ask(env, "/api/v1/stream", "OPTIONS", headers={"Origin": "https://page.example"})
        assert answer.status == 204
        assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]
        assert await refusal(env, "/api/v1/stream", "OPTIONS", headers={"Origin": "null"}) == (403, "origin")


async def test_a_fault_of_ours_is_told_without_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service lives."""

    def fail(*_: Any) -> None:
        raise RuntimeError("secret")

    async with stocked() as env:
        monkeypatch.setattr(HttpApi, "_take_turn", fail)
        answer = await ask(env, "/api/v1/feeds/quote:AAPL")
        assert (answer.status, "secret" in await answer.text()) == (500, False)
        assert (await ask(env, "/api/v1/openapi.json")).status == 200
