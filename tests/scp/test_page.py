"""The page in a real browser, with a real data service behind it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from mdp import feeds
from mdp.config import WdsConfig
from tests.required import require_program
from tests.scp.browser import BROWSERS, Page
from tests.scp.fake_market import BASE_MS, FakeMarket
from tests.scp.stack import Stack, serving

pytestmark = require_program(*BROWSERS)

ROWS = "[...document.querySelectorAll('.board[data-feed=\"{}\"] tbody tr')]"
GAINERS = ROWS.format("scanners:top_gainers")
CELLS = f"{GAINERS}.map((row) => [...row.cells].map((cell) => cell.textContent))"
STATE = "document.getElementById('connection').dataset.state"
HALTS_HEIGHT = "document.querySelector('#halts').closest('section').offsetHeight"


class Visit(Stack):
    """A market, and a tab that shows the page."""

    def __init__(self, page: Page, config: WdsConfig) -> None:
        super().__init__(page, config)
        self.market = FakeMarket(self.bus, self.cache)

    async def open(self, **size: int) -> None:
        """Load the page."""
        await self.page.open(f"http://127.0.0.1:{self.plane.port}/", **size)

    def publish_board(self, rows: list[Any]) -> None:
        """The gainers as they are now."""
        self.publish(feeds.TOP_GAINERS, "", rows)


def stack(profile: Path, config: WdsConfig | None = None) -> AbstractAsyncContextManager[Visit]:
    """Everything on free ports; nothing loaded yet."""
    return serving(Visit, profile, config)


def row(symbol: str, **fields: Any) -> dict[str, Any]:
    """A row of a board with round figures."""
    return {
        "symbol": symbol, "close": 12.5, "pct_change": 1.0, "pct_change_since_open": 42.0,
        "accumulated_volume": 1_234_567, "relative_volume": 3.44, "free_float": 0, **fields,
    }  # fmt: skip


async def test_the_page_shows_the_market_at_once_and_without_complaint(tmp_path: Path) -> None:
    """What the cache has is there before anything is published; the console stays silent."""
    async with stack(tmp_path / "profile") as env:
        for _ in range(6):
            env.market.step()
        await env.open()
        await env.page.until(f"{STATE} === 'live'")
        for family in (feeds.TOP_GAINERS, feeds.TOP_GAPPERS, feeds.TOP_VOLUME):
            await env.page.until(f"{ROWS.format(family.name)}.length === 25")
            shown = await env.page.evaluate(
                f"{ROWS.format(family.name)}.map((row) => row.cells[1].textContent)"
            )
            assert shown == [entry["symbol"] for entry in env.market.board(family)[:25]]
        await env.page.until("document.querySelectorAll('#alerts li').length === 9")
        await env.page.until("document.querySelectorAll('#halts li').length === 2")
        assert await env.page.evaluate(HALTS_HEIGHT) > 0
        status = await env.page.evaluate(
            "['session', 'feed-state', 'lag', 'events', 'symbols', 'new-highs', 'new-lows', 'market-time']"
            ".map((id) => document.getElementById(id).textContent)"
        )
        assert status == ["regular", "live", "84 ms", "41.2K", "11,022", "31", "12", "09:45:06"]
        env.market.step()
        await env.page.until("document.querySelectorAll('#alerts li').length === 11")
        await env.page.screenshot(tmp_path / "page.png")
        assert (tmp_path / "page.png").stat().st_size > 50_000
        assert env.page.complaints == []


async def test_rows_change_in_place(tmp_path: Path) -> None:
    """A symbol keeps its row through moves and changes, figures read as traders write them."""
    async with stack(tmp_path / "profile") as env:
        await env.open()
        await env.page.until(f"{STATE} === 'live'")
        env.publish_board([row("AAA"), row("BBB", pct_change_since_open=-1.5), row("CCC")])
        await env.page.until(f"{GAINERS}.length === 3")
        assert await env.page.evaluate(CELLS) == [
            ["1", "AAA", "12.50", "+42.00%", "1.23M", "3.4×", "–"],
            ["2", "BBB", "12.50", "−1.50%", "1.23M", "3.4×", "–"],
            ["3", "CCC", "12.50", "+42.00%", "1.23M", "3.4×", "–"],
        ]
        await env.page.evaluate(f"{GAINERS}.forEach((row) => {{ row.mark = row.cells[1].textContent; }})")
        env.publish_board([row("CCC", close=0.5), row("DDD"), row("AAA")])
        await env.page.until(f"{GAINERS}[0].cells[1].textContent === 'CCC'")
        assert await env.page.evaluate(f"{GAINERS}.map((row) => row.mark ?? null)") == ["CCC", None, "AAA"]
        cells = await env.page.evaluate(CELLS)
        assert [line[1] for line in cells] == ["CCC", "DDD", "AAA"]
        assert cells[0][2] == "0.5000"
        flashing = "document.getAnimations().map((flash) => flash.effect.target.textContent)"
        assert await env.page.evaluate(flashing) == ["0.5000"]  # changed, not moved or new
        env.publish_board([])
        await env.page.until(f"{GAINERS}.length === 0")
        assert env.page.complaints == []


async def test_a_halt_and_its_end_read_as_what_they_are(tmp_path: Path) -> None:
    """Times are the halt's and the resumption's own; why, until when, how long and how often beside them."""
    async with stack(tmp_path / "profile") as env:
        await env.open()
        await env.page.until(f"{STATE} === 'live'")
        halt = {
            "event": "halted", "symbol": "HLT", "status": "halted", "reason": "news pending",
            "halts_today": 1, "halt_timestamp": BASE_MS, "resume_expected_timestamp": None,
            "timestamp": BASE_MS + 900,
        }  # fmt: skip
        env.bus.publish(feeds.HALTS, "", halt)
        end = {
            **halt, "event": "resumed", "status": "trading", "resume_timestamp": BASE_MS + 301_000,
            "halted_ms": 301_000, "timestamp": BASE_MS + 301_000,
        }  # fmt: skip
        env.bus.publish(feeds.HALTS, "", end)
        again = {
            **halt, "halt_timestamp": BASE_MS + 360_000, "timestamp": BASE_MS + 360_000, "halts_today": 2,
            "reason": "volatility trading pause", "resume_expected_timestamp": BASE_MS + 660_000,
        }  # fmt: skip
        env.bus.publish(feeds.HALTS, "", again)
        await env.page.until("document.querySelectorAll('#halts li').length === 3")
        lines = await env.page.evaluate(
            "[...document.querySelectorAll('#halts li')].map("
            "(line) => [line.className, ...[...line.children].map((part) => part.textContent)])"
        )
        assert lines == [
            [
                "down",
                "09:51:00",
                "HLT",
                "■ halted",
                "volatility trading pause · until 09:56:00 · halt 2 today",
            ],
            ["up", "09:50:01", "HLT", "▶ resumed", "news pending · after 5:01"],
            ["down", "09:45:00", "HLT", "■ halted", "news pending"],
        ]
        assert env.page.complaints == []


async def test_payloads_with_holes_or_markup_do_no_harm(tmp_path: Path) -> None:
    """Missing fields show as a dash, texts are texts, no halts show no panel, and the page goes on."""
    async with stack(tmp_path / "profile") as env:
        await env.open()
        await env.page.until(f"{STATE} === 'live'")
        assert await env.page.evaluate(HALTS_HEIGHT) == 0
        evil = "<img src=x onerror=alert(1)>"
        env.bus.publish(feeds.MARKET_STATUS, "", {"session": evil})
        env.bus.publish(feeds.HOD_ALERT, "", {"direction": "high", "symbol": evil, "note": evil})
        env.bus.publish(feeds.HALTS, "", {"symbol": "HLT", "timestamp": None})
        env.publish_board([{"symbol": evil}, {"symbol": "AAA", "close": "x", "relative_volume": None}])
        await env.page.until(f"{GAINERS}.length === 2")
        await env.page.until("document.querySelectorAll('#halts li, #alerts li').length === 2")
        assert await env.page.evaluate(CELLS) == [
            ["1", evil, "–", "–", "–", "–", "–"],
            ["2", "AAA", "–", "–", "–", "–", "–"],
        ]
        assert await env.page.evaluate("document.images.length") == 0
        assert await env.page.evaluate("document.getElementById('events').textContent") == "–"
        assert env.page.complaints == []


async def test_the_page_comes_back_after_an_outage(tmp_path: Path) -> None:
    """It says that it reconnects and why, keeps showing what it has, and is live again by itself."""
    async with stack(tmp_path / "profile") as env:
        env.publish_board([row("AAA")])
        await env.open()
        await env.page.until(f"{STATE} === 'live' && {GAINERS}.length === 1")
        env.config.port = env.service.port
        await env.service.stop()
        await env.page.until(f"{STATE} === 'reconnecting'")
        assert "reconnecting · " in await env.page.evaluate(
            "document.getElementById('connection-text').textContent"
        )
        assert await env.page.evaluate(f"{GAINERS}.length") == 1
        env.publish_board([row("BBB")])
        env.service = env.new_service()
        await env.service.start()
        await env.page.until(f"{STATE} === 'live'")
        await env.page.until(f"{GAINERS}[0].cells[1].textContent === 'BBB'")


async def test_a_key_is_asked_for_where_one_is_needed(tmp_path: Path) -> None:
    """A wrong one is told, the right one opens; it is nowhere in what is served."""
    config = WdsConfig(port=0, auth_enabled=True, api_keys=["hunter2"])
    submit = (
        "document.getElementById('key').value = '{}';"
        "document.getElementById('key-form').requestSubmit(); true"
    )
    async with stack(tmp_path / "profile", config) as env:
        env.publish_board([row("AAA")])
        await env.open()
        await env.page.until("!document.getElementById('key-form').hidden")
        assert await env.page.evaluate(STATE) == "unauthorized"
        await env.page.evaluate(submit.format("wrong"))
        await env.page.until("document.getElementById('key-error').textContent.includes('not accepted')")
        await env.page.evaluate(submit.format("hunter2"))
        await env.page.until(f"{STATE} === 'live' && {GAINERS}.length === 1")
        assert await env.page.evaluate("document.getElementById('key-form').hidden")


@pytest.mark.parametrize("width", [360, 420, 900, 1440])
async def test_the_page_fits_its_window(tmp_path: Path, width: int) -> None:
    """Boards are side by side where there is room, else stacked; the page never scrolls sideways."""
    async with stack(tmp_path / "profile") as env:
        env.market.step()
        await env.open(width=width)
        await env.page.until(f"{STATE} === 'live' && {GAINERS}.length === 25")
        assert await env.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        tops = await env.page.evaluate(
            "new Set([...document.querySelectorAll('.board')].map((b) => b.getBoundingClientRect().top)).size"
        )
        assert tops == (1 if width > 1_150 else 3)


FORMATS: dict[str, list[tuple[Any, str]]] = {
    "compact": [
        (0, "0"), (7.25, "7.3"), (999, "999"), (1_000, "1.00K"), (12_345, "12.3K"), (999_999, "1.00M"),
        (1_234_567, "1.23M"), (45_600_000, "45.6M"), (123_456_789, "123M"), (2.5e9, "2.50B"), (3e12, "3.00T"),
        (-1_234_567, "-1.23M"), (None, "–"), ("7", "–"),
    ],
    "price": [(12.5, "12.50"), (0.1234, "0.1234"), (1234.5, "1234.50"), (0, "0.0000"), (None, "–")],
    "percent": [
        (4.2, "+4.20%"), (-0.5, "−0.50%"), (0, "0.00%"), (-0.001, "0.00%"), (123.45, "+123.5%"),
        (5_000, "+5000%"), (None, "–"),
    ],
    "times": [(3.44, "3.4×"), (0, "–"), (150, "150×"), (2_000, "2.00K×"), (None, "–")],
    "known": [(0, "–"), (5_000_000, "5.00M")],
    "time": [(1_788_875_100_000, "09:45:00"), (1_788_875_100.5, "09:45:00"), (0, "–"), (None, "–")],
    "lag": [(84.2, "84 ms"), (-5, "0 ms"), (1_234, "1.2 s"), (120_000, "2 min"), (None, "–")],
    "words": [("after_hours", "after hours"), ("", "–"), (None, "–")],
    "count": [(11_022, "11,022"), (None, "–")],
}  # fmt: skip


async def test_numbers_read_as_traders_write_them(tmp_path: Path) -> None:
    """The page's formatting, value by value, in the browser."""
    async with stack(tmp_path / "profile") as env:
        await env.open()
        for name, cases in FORMATS.items():
            import_ = f"import('/static/format.js').then((f) => {[list(case) for case in cases]!r}"
            script = import_.replace("None", "null") + f".map(([value]) => f.{name}(value)))"
            assert await env.page.evaluate(script) == [text for _, text in cases], name
