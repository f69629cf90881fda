"""The JavaScript client in a real browser, against a real data service."""

from __future__ import annotations

import json
import random
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from mdp import feeds
from mdp.cache.memory import MemoryBus, MemoryCache
from mdp.config import WdsConfig
from mdp.feeds import FAMILIES
from mdp.wds.views import Shown, _change, apply_delta
from tests.required import require_program
from tests.scp.browser import BROWSERS
from tests.scp.stack import Stack, serving

pytestmark = require_program(*BROWSERS)

# A tab of the page's origin that uses the module by itself; what comes is kept under its feed's pattern.
START = """
import("/static/mdp-client.js").then(({ connect }) => {
  window.got = {}; window.states = []; window.warnings = []; window.ends = {};
  window.client = connect(URL, {
    ...OPTIONS,
    onState: (state, reason) => states.push([state, reason]),
    onWarning: (text) => warnings.push(text),
  });
  window.follow = (feed, options = {}) => {
    got[feed] = [];
    ends[feed] = client.subscribe(
      feed, { onError: (reason) => got[feed].push(reason), ...options }, (update) => got[feed].push(update),
    );
  };
  return true;
})
"""


class Tab(Stack):
    """A tab that has the module loaded, and nothing else."""

    async def start(self, options: str = "{}") -> None:
        """Load the module and connect."""
        # The page at this address is a JSON text: same origin and policy, but nothing of our page in it.
        await self.page.open(f"http://127.0.0.1:{self.plane.port}/config.json")
        url = json.dumps(f"ws://127.0.0.1:{self.service.port}/ws")
        assert await self.page.evaluate(START.replace("URL", url).replace("OPTIONS", options))

    async def follow(self, feed: str, **options: Any) -> None:
        """Subscribe."""
        await self.page.evaluate(f"follow({json.dumps(feed)}, {json.dumps(options)})")

    async def got(self, feed: str, count: int) -> list[Any]:
        """The updates of a subscription, once there are so many."""
        await self.page.until(f"got[{json.dumps(feed)}].length >= {count}")
        updates: list[Any] = await self.page.evaluate(f"got[{json.dumps(feed)}]")
        return updates


def stack(profile: Path, config: WdsConfig | None = None) -> AbstractAsyncContextManager[Tab]:
    """Everything on free ports; nothing loaded yet."""
    return serving(Tab, profile, config)


def random_board(pick: random.Random, ranked: bool) -> list[dict[str, Any]]:
    """Some rows in some order, each symbol once."""
    symbols = pick.sample("ABCDEFGH", pick.randrange(0, 8))
    rows = [{"symbol": s, "close": pick.randrange(3), "open": pick.randrange(3)} for s in symbols]
    return [{"rank": number, **row} for number, row in enumerate(rows, 1)] if ranked else rows


async def test_deltas_are_applied_as_the_service_means_them(tmp_path: Path) -> None:
    """2,000 changes of boards, and a value: the same result as the service's own rule, and as what is now."""
    pick = random.Random(5)
    cases: list[list[Any]] = []
    while len(cases) < 2_000:
        ranked = pick.random() < 0.5
        before, now = random_board(pick, ranked), random_board(pick, ranked)
        shown = [Shown("f", FAMILIES[0], 1, 1, 1, {r["symbol"]: r for r in rows}, board=True)
                 for rows in (before, now)]  # fmt: skip
        delta = _change(*shown)
        if isinstance(delta, dict):
            assert apply_delta(before, delta) == now
            cases.append([before, delta, now])
    async with stack(tmp_path / "profile") as env:
        await env.start()
        wrong = await env.page.evaluate(
            "import('/static/mdp-client.js').then(({ applyDelta }) => "
            f"{json.dumps(cases)}.filter(([before, delta, now]) => "
            "JSON.stringify(applyDelta(before, delta).map((row) => Object.entries(row).sort())) !== "
            "JSON.stringify(now.map((row) => Object.entries(row).sort()))).slice(0, 3))"
        )
        assert wrong == []
        assert await env.page.evaluate(
            "import('/static/mdp-client.js').then(({ applyDelta }) => applyDelta({ a: 1, b: 2 }, { b: 3 }))"
        ) == {"a": 1, "b": 3}


async def test_a_board_a_value_and_a_wildcard_on_one_connection(tmp_path: Path) -> None:
    """Whole values with the publisher's numbers, kept right by deltas; options reach the service."""
    async with stack(tmp_path / "profile") as env:
        rows = [{"rank": 1, "symbol": "A", "close": 1, "open": 2}, {"rank": 2, "symbol": "B", "close": 3}]
        env.publish(feeds.TOP_GAINERS, "", rows)
        await env.start()
        await env.follow("scanners:top_gainers", limit=1, fields=["close"])
        await env.follow("quote:A")
        await env.follow("daily_range:*")
        first = (await env.got("scanners:top_gainers", 1))[0]
        assert first["value"] == [{"rank": 1, "symbol": "A", "close": 1}]
        assert (first["epoch"], first["seq"], first["kind"], first["gap"]) == (1, 1, "value", False)
        assert (await env.got("quote:A", 1))[0]["value"] is None
        for close in (1, 2):
            env.publish(feeds.QUOTE, "A", {"symbol": "A", "close": close, "open": 1})
            env.publish(feeds.DAILY_RANGE, "X:Y", {"symbol": "X:Y", "high": close, "low": 0})
            await env.got("quote:A", close + 1)
            await env.got("daily_range:*", close)
        env.publish(feeds.TOP_GAINERS, "", [{"rank": 1, "symbol": "C", "close": 9, "open": 2}])
        assert (await env.got("scanners:top_gainers", 2))[1]["value"] == [
            {"rank": 1, "symbol": "C", "close": 9}
        ]
        assert (await env.got("quote:A", 3))[2]["value"] == {"symbol": "A", "close": 2, "open": 1}
        wild = (await env.got("daily_range:*", 2))[1]
        assert (wild["feed"], wild["value"]) == ("daily_range:X:Y", {"symbol": "X:Y", "high": 2, "low": 0})
        assert env.service.counters.clients == 1


async def test_missed_events_follow_after_an_outage(tmp_path: Path) -> None:
    """Each once, in order; a board goes on with a whole value."""
    async with stack(tmp_path / "profile") as env:
        env.publish(feeds.HALTS, "", {"n": 0})
        await env.start()
        await env.follow("halts")
        await env.follow("scanners:top_gainers")
        assert [(u["kind"], u["value"]) for u in await env.got("halts", 1)] == [("list", [{"n": 0}])]
        env.publish(feeds.HALTS, "", {"n": 1})
        await env.got("halts", 2)
        env.config.port = env.service.port
        await env.service.stop()
        await env.page.until("states.at(-1)[0] === 'reconnecting'")
        for number in (2, 3):
            env.publish(feeds.HALTS, "", {"n": number})
        env.publish(feeds.TOP_GAINERS, "", [{"rank": 1, "symbol": "C"}])
        env.service = env.new_service()
        await env.service.start()
        got = (await env.got("halts", 4))[1:]
        assert [(u["kind"], u["value"]["n"], u["gap"]) for u in got] == [
            ("event", number, False) for number in (1, 2, 3)
        ]
        await env.page.until("got['scanners:top_gainers'].at(-1).value?.[0]?.symbol === 'C'")
        states = await env.page.evaluate("states.map(([state]) => state)")
        assert states[0] == states[-1] == "live"


async def test_another_life_of_the_publisher_is_a_gap(tmp_path: Path) -> None:
    """The list comes anew and says so."""
    async with stack(tmp_path / "profile") as env:
        await env.start()
        await env.follow("halts")
        await env.got("halts", 1)
        env.publish(feeds.HALTS, "", {"n": 1})
        await env.got("halts", 2)
        env.config.port = env.service.port
        await env.service.stop()
        env.bus = MemoryBus(epoch=2)
        env.cache = MemoryCache(env.bus)
        env.service = env.new_service()
        await env.service.start()
        again = (await env.got("halts", 3))[2]
        assert (again["kind"], again["value"], again["gap"]) == ("list", [], True)


async def test_a_refused_feed_does_not_harm_the_others(tmp_path: Path) -> None:
    """Though asked for in the same message; an ended subscription brings nothing more."""
    async with stack(tmp_path / "profile") as env:
        await env.start()
        await env.page.evaluate("['quote:A', 'nothing:x', 'quote:B'].forEach((feed) => follow(feed)); true")
        (reason,) = await env.got("nothing:x", 1)
        assert "nothing:x was refused" in reason
        await env.got("quote:A", 1)
        await env.got("quote:B", 1)
        await env.page.evaluate("ends['quote:B'](); true")
        before = len(await env.got("quote:A", 1))
        count = len(await env.got("quote:B", 1))
        env.publish(feeds.QUOTE, "B", {"symbol": "B"})
        env.publish(feeds.QUOTE, "A", {"symbol": "A"})
        await env.got("quote:A", before + 1)
        assert len(await env.got("quote:B", 1)) == count
        assert await env.page.evaluate("client.close(), got['quote:A'].length") == before + 1


async def test_a_refused_key_is_told_and_not_tried_again(tmp_path: Path) -> None:
    """Until there is another one."""
    async with stack(tmp_path / "profile", WdsConfig(port=0, auth_enabled=True, api_keys=["hunter2"])) as env:
        await env.start("{ key: () => window.key ?? 'wrong' }")
        await env.page.until("states.length === 1")
        assert await env.page.evaluate("states[0][0]") == "unauthorized"
        await env.page.evaluate("window.key = 'hunter2', client.reconnect(), true")
        await env.follow("quote:A")
        await env.got("quote:A", 1)
        assert await env.page.evaluate("states.map(([state]) => state)") == ["unauthorized", "live"]


async def test_the_module_knows_which_feeds_are_events(tmp_path: Path) -> None:
    """Those of the contract: messages do not say it of all feeds."""
    kinds = {
        family.feed(filling): family.kind == feeds.EVENT
        for family in FAMILIES
        for filling in (
            {"symbol": ("A", "X:Y", "BRK/A"), "name": ("mine", "top_gainers2")}.get(family.hole, ("",))
        )
    }
    async with stack(tmp_path / "profile") as env:
        await env.start()
        told = await env.page.evaluate(
            "import('/static/mdp-client.js').then(({ isEvent }) => "
            f"Object.fromEntries({json.dumps(list(kinds))}.map((feed) => [feed, isEvent(feed)])))"
        )
    assert told == kinds
