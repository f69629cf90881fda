"""`mdp explain`: what it asks, what it prints, and how it fails."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest
from aiohttp import web
from click.testing import CliRunner
from pytest_aiohttp.plugin import AiohttpServer
from rich.console import Console

from mdp.cli import main
from mdp.commands import explain
from mdp.commands.admin_api import AdminError
from mdp.sessions import NEW_YORK

TOKEN = "t0ken-T0KEN"
NOON = int(datetime(2024, 3, 5, 12, tzinfo=NEW_YORK).timestamp()) * 1000


def answer(**more: Any) -> dict[str, Any]:
    """What the admin API says of a symbol."""
    close = {"value": 12.5, "source": "wire A.c", "as_of": NOON}
    previous = {"value": 9.75, "source": "REST grouped daily bars of 2024-03-04, as traded",
                "as_of": NOON - 72_000_000, "fetched_at": NOON - 20_000_000}  # fmt: skip
    return {
        "symbol": "AAA", "trading_day": "2024-03-05", "session": "regular", "market_time": NOON + 1_500,
        "fields": {
            "close": close | {"rule": "last price of the newest bar", "kind": "wire", "inputs": {}},
            "pct_change": {
                "value": 28.205128205128204, "rule": "(close - prev_day_close) / prev_day_close, in percent",
                "kind": "computed", "inputs": {"close": close, "prev_day_close": previous},
                "source": "computed from the inputs", "as_of": NOON,
            },
            "pending": {"value": ["free_float"], "rule": "names", "kind": "reference", "inputs": {},
                        "source": "state", "as_of": None},
        },
        "daily_range": {}, "halt": {},
        "trade_stats": {"vwap": {"value": None, "rule": "r", "kind": "kept", "inputs": {}, "source": "wire T",
                                 "as_of": None}},
        "trade_rules": {"source": "shipped", "dated": "2026-09-27"},
        "reference": {
            "trading_day": "2024-03-05", "previous_session": "2024-03-04", "restored": True,
            "split_ratio": 0.1,
            "sources": {
                "float": {"state": "absent", "detail": "403", "endpoint": "GET /f", "fetched_at": None}
            },
        },
        "trust": {
            "stale": True, "lost_at": NOON, "pending": ["free_float"], "feed_state": "live",
            "gaps": [{"number": 3, "reason": "closed", "market_start_ms": NOON, "market_end_ms": None}],
        },
        **more,
    }  # fmt: skip


def printed(shown: Any) -> str:
    """As a terminal of 150 columns has it, without colours."""
    console = Console(width=150, record=True, file=None, force_terminal=False)
    with console.capture() as capture:
        console.print(shown)
    return capture.get()


async def test_it_asks_for_the_symbol_with_the_token(aiohttp_server: AiohttpServer) -> None:
    """A slash of a symbol is none of the path."""
    asked: list[tuple[str, str]] = []

    async def handle(request: web.Request) -> web.Response:
        asked.append((request.raw_path, request.headers.get("Authorization", "")))
        return web.json_response({"symbol": "ABC/WS"})

    application = web.Application()
    application.router.add_get("/{path:.*}", handle)
    server = await aiohttp_server(application)
    url = f"http://127.0.0.1:{server.port}/"
    assert await explain.fetch(url, TOKEN, "ABC/WS") == {"symbol": "ABC/WS"}
    await explain.fetch(url, "", "AAA")
    assert asked == [("/api/v1/explain/ABC%2FWS", f"Bearer {TOKEN}"), ("/api/v1/explain/AAA", "")]


@pytest.mark.parametrize(("status", "word"), [(404, "check its spelling"), (401, "admin.token")])
async def test_a_refusal_is_told_in_one_line(aiohttp_server: AiohttpServer, status: int, word: str) -> None:
    """The reason of the API, and what to do; never the token."""

    async def handle(_request: web.Request) -> web.Response:
        return web.json_response({"error": "check its spelling"}, status=status)

    application = web.Application()
    application.router.add_get("/{path:.*}", handle)
    server = await aiohttp_server(application)
    with pytest.raises(AdminError, match=word) as caught:
        await explain.fetch(f"http://127.0.0.1:{server.port}", TOKEN, "AAA")
    assert "\n" not in str(caught.value)
    assert TOKEN not in str(caught.value)


async def test_another_owner_is_told_with_how_to_ask_it(aiohttp_server: AiohttpServer) -> None:
    """Its id, host and process, and the command for that host; whatever the answer holds, it is text."""
    said = {"error": "e", "partition": 3, "owner": "rocket-42-0a\x1b", "host": "rocket", "process": 42}

    async def handle(_request: web.Request) -> web.Response:
        return web.json_response(said, status=404)

    application = web.Application()
    application.router.add_get("/{path:.*}", handle)
    server = await aiohttp_server(application)
    url = f"http://127.0.0.1:{server.port}"
    with pytest.raises(explain.ElsewhereError) as caught:
        await explain.fetch(url, TOKEN, "AAA")
    lines = str(caught.value).splitlines()
    assert lines[0] == f"AAA is of partition 3, and {url} is not the processor that owns it."
    assert lines[1] == "  owner  rocket-42-0a? (process 42 on rocket)"
    assert lines[2].startswith("  ask    on rocket: mdp explain AAA --url http://127.0.0.1:PORT")
    said |= {"owner": "p1", "host": "p1", "process": None}
    with pytest.raises(AdminError, match=r"owner  p1 \(p1\)"):
        await explain.fetch(url, TOKEN, "AAA")


def test_the_overview_has_every_number_with_what_it_comes_from() -> None:
    """Inputs of what is computed, the source of the rest, the time; then reference values and trust."""
    text = printed(explain.overview(answer()))
    for part in (
        "AAA  trading day 2024-03-05, regular, market time 12:00:01.500 New York",
        "close 12.5 · prev_day_close 9.75",
        "28.2051",
        "wire A.c",
        "trade_stats.vwap",
        "Rules of trade conditions  shipped, of 2026-09-27",
        "from the snapshot file, adjusted by a split: 0.1 shares for one",
        "float: absent (403), GET /f",
        "stale: newer data may be missing; data lost at 12:00:00",
        "not answered yet: free_float",
        "gap 3: closed, 12:00:00 to now",
    ):
        assert part in text
    assert "Halts" not in text, "a feed that has nothing has no table"
    kept = answer()
    kept["reference"]["kept_in"] = "Redis"
    assert "from Redis, adjusted by a split" in printed(explain.overview(kept))


def test_one_field_is_shown_with_its_rule_and_all_digits() -> None:
    """And each input with its source and times."""
    text = printed(explain.detail(answer(), "pct_change"))
    for part in (
        "28.205128205128204",
        "(close - prev_day_close) / prev_day_close, in percent",
        "REST grouped daily bars of 2024-03-04",
        "2024-03-04 16:00:00, fetched 2024-03-05 06:26:40",
    ):
        assert part in text
    assert "Inputs" not in printed(explain.detail(answer(), "close"))


def test_a_symbol_without_anything_says_so() -> None:
    """Reference values alone, or not even those."""
    bare = answer(fields={}, trade_stats={}, trade_rules=None, reference={"trading_day": None}, trust={})
    text = printed(explain.overview(bare))
    assert "Reference values: none" in text
    assert "no bar today" in text
    with pytest.raises(explain.NoFieldError, match="no bar and no trade"):
        explain.one_field(bare, "close")


def test_a_field_that_is_none_is_refused_with_those_that_are() -> None:
    """Those of trades and halts have the feed's name in front."""
    with pytest.raises(explain.NoFieldError, match=r'found "vwap".*pct_change.*trade_stats\.vwap'):
        explain.one_field(answer(), "vwap")
    assert explain.one_field(answer(), "trade_stats.vwap")["source"] == "wire T"


def test_an_answer_cannot_steer_the_terminal() -> None:
    """Control characters of whatever came over the wire are shown as question marks."""
    nasty = answer(symbol="A\x1b[2J", session="\x07")
    nasty["fields"]["close"]["source"] = "\x1b]0;title\x07"
    nasty["fields"]["close"]["value"] = "\x1b[31m"
    text = printed(explain.overview(nasty)) + printed(explain.detail(nasty, "close"))
    assert "\x1b" not in text
    assert "\x07" not in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"), (True, "true"), (0, "0"), (1_234_567, "1,234,567"), (0.12345678, "0.123457"),
        (188_197_821.0, "188,197,821"), ([], "none"), (["a", "b"], "a, b"), (-12.5, "-12.5"),
    ],
)  # fmt: skip
def test_values_are_short(value: Any, text: str) -> None:
    """As a trader reads them."""
    assert explain.as_value(value) == text


def test_times_are_new_york_and_name_another_day() -> None:
    """Nothing is a dash."""
    assert explain.as_time(NOON, "2024-03-05") == "12:00:00"
    assert explain.as_time(NOON + 7, "2024-03-05") == "12:00:00.007"
    assert explain.as_time(NOON, "2024-03-06") == "2024-03-05 12:00:00"
    assert explain.as_time(None) == explain.as_time(0) == "-"


class TestCommand:
    """The command itself, in a pipe."""

    @pytest.fixture(autouse=True)
    def _answer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[str, str, str]] = []

        async def fetch(*asked: str) -> dict[str, Any]:
            self.asked.append(asked)  # type: ignore[arg-type]
            if asked[-1] == "NOPE":
                raise AdminError("nothing is known of 'NOPE'")
            return answer()

        monkeypatch.setattr(explain, "fetch", fetch)

    def test_a_pipe_gets_json(self) -> None:
        """The whole answer, or one field; the address and token as given."""
        run = CliRunner().invoke(
            main, ["explain", "AAA", "--url", "http://x:1"], env={"MDP_ADMIN_TOKEN": TOKEN}
        )
        assert run.exit_code == 0
        assert json.loads(run.stdout) == answer()
        assert self.asked == [("http://x:1", TOKEN, "AAA")]
        run = CliRunner().invoke(main, ["explain", "AAA", "pct_change", "--url", "http://x:1"])
        assert json.loads(run.stdout)["value"] == 28.205128205128204

    def test_the_configuration_knows_the_address(self) -> None:
        """Unless the port is free to choose: then it must be given."""
        run = CliRunner().invoke(main, ["explain", "AAA"], env={"MDP_ADMIN_PORT": "4999"})
        assert run.exit_code == 0
        assert self.asked == [("http://127.0.0.1:4999", "", "AAA")]
        run = CliRunner().invoke(main, ["explain", "AAA"], env={"MDP_ADMIN_PORT": "0"})
        assert run.exit_code == 2
        assert "--url" in run.stderr

    @pytest.mark.parametrize(
        ("words", "code", "reason"),
        [
            (["NOPE", "--url", "http://x:1"], 1, "NOPE"),
            (["AAA", "pct_chang", "--url", "http://x:1"], 2, "pct_change"),
            (["AAA", "--url", "ws://x:1"], 2, "http://127.0.0.1:4201"),
        ],
    )
    def test_what_cannot_be_done_is_one_line(self, words: list[str], code: int, reason: str) -> None:
        """1 where it was tried, 2 where what was given is wrong."""
        run = CliRunner().invoke(main, ["explain", *words])
        assert run.exit_code == code
        assert reason in run.stderr
        assert run.stderr.count("\n") == 1
