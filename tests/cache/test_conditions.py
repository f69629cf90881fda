"""The conditions endpoint: what is taken, what is refused, and when it is asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from mdp.cache.conditions import RENEW_SECONDS, RETRY_SECONDS, Conditions
from mdp.cache.rest import RestClient
from mdp.observability.metrics import Metrics
from mdp.simulator.conditions import condition_rows
from mdp.trade_rules import SHIPPED_TABLE, RuleTable, completed
from tests.cache.provider import Answer, Provider, serving

PATH = "/v3/reference/conditions"
NOW = 1_900_000_000.0  # 2030-03-17T17:46:40+00:00
DATED = "2030-03-17T17:46:40+00:00"


def row(
    number: Any, high_low: Any = True, last: Any = True, volume: Any = True, **more: Any
) -> dict[str, Any]:
    """A row of the endpoint."""
    rules = {"updates_high_low": high_low, "updates_open_close": last, "updates_volume": volume}
    return {
        "id": number,
        "name": f"No. {number}",
        "asset_class": "stocks",
        "data_types": ["trade"],
        "update_rules": {"consolidated": rules, "market_center": {}},
        **more,
    }


def body(*rows: Any, **more: Any) -> bytes:
    """An answer."""
    return json.dumps({"status": "OK", "results": list(rows), **more}).encode()


class Rules:
    """The rules in force."""

    def __init__(self) -> None:
        self.now: RuleTable = SHIPPED_TABLE

    def use(self, rules: RuleTable) -> None:
        self.now = rules


async def refreshed(answer: Answer | list[Answer]) -> tuple[bool, Rules, Conditions, Provider]:
    """Ask once."""
    rules = Rules()
    async with serving(Provider()) as provider:
        provider.answers[PATH] = answer
        rest = RestClient(provider.url, "key", tries=1)
        conditions = Conditions(rest, lambda: rules.now, rules.use, wall=lambda: NOW)
        done = await conditions.refresh()
        await rest.close()
    return done, rules, conditions, provider


async def test_the_providers_rules_replace_the_shipped_ones() -> None:
    """With the time, and what the answer leaves out from the shipped table; one request."""
    done, rules, conditions, provider = await refreshed(body(row(14, last=False), row(99)))
    assert done
    assert (rules.now.source, rules.now.dated) == ("provider", DATED)
    assert rules.now.rules[14].last is False
    assert rules.now.rules[99].name == "No. 99"
    assert rules.now.rules[37] == SHIPPED_TABLE.rules[37]
    assert provider.asked == [f"{PATH}?asset_class=stocks&data_type=trade&limit=1000"]
    assert (conditions.fetched, conditions.rejected) == (1, {})
    assert DATED in conditions.health().detail


async def test_the_simulators_answer_gives_the_shipped_rules() -> None:
    """Two tables written down apart from each other."""
    done, rules, _, _ = await refreshed(body(*condition_rows()))
    assert done
    for number, rule in SHIPPED_TABLE.rules.items():
        got = rules.now.rules[number]
        assert (got.high_low, got.last, got.volume) == (rule.high_low, rule.last, rule.volume), number


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (body(), "no_usable_row"),
        (b"", "not_an_answer"),
        (b"<html>sorry</html>", "not_an_answer"),
        (b"[1, 2]", "not_an_answer"),
        (b"null", "not_an_answer"),
        (b'{"results": null}', "no_results"),
        (b'{"results": {"id": 1}}', "no_results"),
        (body(None, 7, "x"), "not_an_object"),
        (body(row(14, False, False, False), row(37, False, True, True)), "no_usable_row"),
        (500, "no_answer"),
        (404, "no_answer"),
    ],
)
async def test_a_useless_answer_changes_nothing(answer: Answer, reason: str) -> None:
    """Empty, garbage, refused, or one by which no print would count at all: counted, the rules stay."""
    done, rules, conditions, _ = await refreshed(answer)
    assert not done
    assert rules.now is SHIPPED_TABLE
    assert reason in conditions.rejected or "no_answer" in conditions.rejected  # a page that is no JSON
    assert conditions.fetched == 0


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (row(-1), "bad_number"),
        (row("37"), "bad_number"),
        (row(True), "bad_number"),
        (row(1e9), "bad_number"),
        (row(10**9), "bad_number"),
        (row(37, None), "bad_rules"),
        (row(37, True, "yes"), "bad_rules"),
        (row(37, True, True, 1), "bad_rules"),
        (row(37, update_rules=7), "bad_rules"),
        (row(37, update_rules={"consolidated": []}), "bad_rules"),
        (row(37, asset_class="options"), "other_kind"),
        (row(37, data_types=["bbo", "nbbo"]), "other_kind"),
    ],
)
async def test_a_bad_row_loses_itself(bad: Any, reason: str) -> None:
    """Counted; the shipped rule serves in its place, and the other rows count."""
    done, rules, conditions, _ = await refreshed(body(bad, row(14, volume=False)))
    assert done is False  # 14 alone says that no print may do everything
    done, rules, conditions, _ = await refreshed(body(bad, row(14, volume=False), row(1)))
    assert done
    assert conditions.rejected == {reason: 1}
    assert rules.now.rules[37] == SHIPPED_TABLE.rules[37]
    assert rules.now.rules[14].volume is False


async def test_a_row_without_rules_forbids_nothing_unless_we_know_better() -> None:
    """Indicators of a security's status have none."""
    without = [{key: value for key, value in row(n).items() if key != "update_rules"} for n in (60, 37)]
    _, rules, conditions, _ = await refreshed(body(*without, row(1)))
    assert rules.now.unknown([60]) == []
    assert rules.now.rules[60].high_low is True
    assert rules.now.rules[37] == SHIPPED_TABLE.rules[37]
    assert conditions.rejected == {}


async def test_all_pages_are_read() -> None:
    """A limit of 1,000 is more than there are; a provider may give fewer at once."""
    rules = Rules()
    async with serving(Provider()) as provider:
        provider.answers[PATH] = [body(row(1), next_url=f"{provider.url}{PATH}?cursor=2"), body(row(2))]
        rest = RestClient(provider.url, "key", tries=1)
        assert await Conditions(rest, lambda: rules.now, rules.use, wall=lambda: NOW).refresh()
        await rest.close()
    assert rules.now.rules[2].high_low is True
    assert provider.count(PATH) == 2


class Sleeper:
    """Notes how long one waits; the test says when it is over."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[float] = asyncio.Queue()
        self.go = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        await self.asked.put(seconds)
        await self.go.wait()
        self.go.clear()


async def staged(provider: Provider, rules: Rules, check: Callable[[Sleeper, Conditions], Any]) -> None:
    """Run the stage against a provider."""
    rest = RestClient(provider.url, "key", tries=1)
    sleeper = Sleeper()
    conditions = Conditions(rest, lambda: rules.now, rules.use, wall=lambda: NOW, sleep=sleeper)
    await conditions.start()
    try:
        await asyncio.wait_for(check(sleeper, conditions), 60)
    finally:
        await conditions.stop()
        await conditions.stop()
        await rest.close()


async def test_asked_at_the_start_and_daily_and_sooner_after_a_failure() -> None:
    """A failure leaves what is in force."""
    rules = Rules()
    async with serving(Provider()) as provider:
        provider.answers[PATH] = [body(row(1)), 503, body(row(1, last=False), row(2))]

        async def check(sleeper: Sleeper, conditions: Conditions) -> None:
            assert await sleeper.asked.get() == RENEW_SECONDS
            sleeper.go.set()
            assert await sleeper.asked.get() == RETRY_SECONDS
            assert rules.now.source == "provider"
            sleeper.go.set()
            assert await sleeper.asked.get() == RENEW_SECONDS
            assert rules.now.rules[1].last is False
            assert (conditions.fetched, conditions.rejected) == (2, {"no_answer": 1})

        await staged(provider, rules, check)


@pytest.mark.parametrize(
    ("dated", "pause"),
    [
        ("2030-03-17T16:46:40+00:00", RENEW_SECONDS - 3_600),  # an hour old
        ("2030-03-16T16:46:40+00:00", None),  # 25 hours
        ("2030-03-18T16:46:40+00:00", None),  # from the future: the clock was wrong then, or is now
        ("yesterday", None),
    ],
)
async def test_rules_of_today_are_not_asked_for_again(dated: str, pause: float | None) -> None:
    """A second start on the same day makes no request."""
    rules = Rules()
    rules.now = completed([], dated)
    async with serving(Provider()) as provider:
        provider.answers[PATH] = body(row(1))

        async def check(sleeper: Sleeper, conditions: Conditions) -> None:
            assert await sleeper.asked.get() == (pause or RENEW_SECONDS)
            assert provider.count(PATH) == (0 if pause else 1)

        await staged(provider, rules, check)


async def test_metrics_name_the_rules_in_force() -> None:
    """Source, date, number; and what was refused."""
    _, rules, conditions, _ = await refreshed(body(row(1), row(-1)))
    metrics = Metrics()
    conditions.register(metrics)
    text = metrics.render()
    shown = text.decode() if isinstance(text, bytes) else text
    assert f'mdp_trade_rules{{dated="{DATED}",source="provider"}} {float(len(rules.now.rules))}' in shown
    assert 'mdp_trade_rules_rejected_total{reason="bad_number"} 1.0' in shown
