"""The provider's table of trade conditions: fetched at the start, renewed daily, never trusted blindly.

`GET /v3/reference/conditions?asset_class=stocks&data_type=trade&limit=1000`. What cannot be read is
counted with its reason and left to the table that is shipped; an answer without a usable row changes
nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog

from mdp.cache.rest import RestClient, RestError
from mdp.observability.metrics import Metrics
from mdp.stage import Health
from mdp.trade_rules import PROVIDER, SHIPPED_TABLE, Rule, RuleTable, completed

log = structlog.get_logger(__name__)

PATH = "/v3/reference/conditions"
_QUERY = {"asset_class": "stocks", "data_type": "trade", "limit": "1000"}
RENEW_SECONDS = 86_400.0
RETRY_SECONDS = 600.0  # after an answer that could not be had or used
_MAX_NUMBER = 10_000
_MAX_ROWS = 10_000

_RULE_NAMES = ("updates_high_low", "updates_open_close", "updates_volume")


class Conditions:
    """A stage: keeps the rules of trade conditions up to date. Nothing waits for it.

    Args:
        rest: The provider's REST API.
        current: The rules in force, perhaps restored from a snapshot.
        use: Called with new ones.
        wall: The wall clock, seconds since the epoch.
        sleep: Injected by tests.

    Attributes:
        rejected: Rows and answers that could not be used, by reason.
        fetched: Answers that were used.
    """

    name = "conditions"

    def __init__(
        self,
        rest: RestClient,
        current: Callable[[], RuleTable],
        use: Callable[[RuleTable], object],
        *,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._rest, self._current, self._use = rest, current, use
        self._wall, self._sleep = wall, sleep
        self._task: asyncio.Task[None] | None = None
        self.rejected: dict[str, int] = {}
        self.fetched = 0

    async def start(self) -> None:
        """Begin to ask; returns at once."""
        rules = self._current()
        log.info("trade_rules", source=rules.source, dated=rules.dated, conditions=len(rules.rules))
        self._task = asyncio.create_task(self._run(), name=self.name)

    async def stop(self) -> None:
        """Ask no more. Safe to call twice, or before start."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def health(self) -> Health:
        """Always ok: the shipped table serves where the provider's cannot be had."""
        rules = self._current()
        return Health(True, f"rules of {rules.dated} ({rules.source})")

    def register(self, metrics: Metrics) -> None:
        """Show where the rules in force come from, and what was rejected."""
        metrics.gauges(
            "mdp_trade_rules",
            "Number of conditions in the rules in force, by where they come from and when they were taken.",
            ("source", "dated"),
            lambda: {(self._current().source, self._current().dated): float(len(self._current().rules))},
        )
        metrics.counters(
            "mdp_trade_rules_rejected_total",
            "Answers and rows of the conditions endpoint that could not be used, by reason.",
            ("reason",),
            lambda: {(reason,): float(count) for reason, count in self.rejected.items()},
        )

    async def refresh(self) -> bool:
        """Ask once; whether the answer is in force now."""
        rules: list[Rule] = []
        try:
            async for body in self._rest.pages(PATH, _QUERY):
                rules += self._read(body)
                if len(rules) > _MAX_ROWS:
                    break
        except RestError as exc:
            self._reject("no_answer")
            log.warning("trade_rules_not_fetched", reason=str(exc), **self._in_force())
            return False
        # "No print counts" would blind every feed; more likely somebody renamed a field.
        if not any(rule.volume and rule.high_low and rule.last for rule in rules):
            self._reject("no_usable_row")
            log.warning("trade_rules_not_usable", rows=len(rules), **self._in_force())
            return False
        self.fetched += 1
        self._use(completed(rules, datetime.fromtimestamp(self._wall(), UTC).isoformat(timespec="seconds")))
        log.info("trade_rules", conditions=len(rules), **self._in_force())
        return True

    def _in_force(self) -> dict[str, str]:
        rules = self._current()
        return {"source": rules.source, "dated": rules.dated}

    async def _run(self) -> None:
        pause = self._fresh_seconds()
        while True:
            if pause > 0:
                await self._sleep(pause)
            try:
                done = await self.refresh()
            except Exception as exc:  # whatever it was, the rules in force go on
                self._reject("failure")
                log.error("trade_rules_failed", exc_info=exc)
                done = False
            pause = RENEW_SECONDS if done else RETRY_SECONDS

    def _fresh_seconds(self) -> float:
        """For how long the rules in force are fresh: those of a restart today need not be asked for."""
        rules = self._current()
        if rules.source != PROVIDER:
            return 0.0
        try:
            age = self._wall() - datetime.fromisoformat(rules.dated).timestamp()
        except (ValueError, OverflowError):
            return 0.0
        return RENEW_SECONDS - age if 0 <= age < RENEW_SECONDS else 0.0

    def _read(self, body: bytes) -> list[Rule]:
        try:
            rows = msgspec.json.decode(body).get("results")
        except (msgspec.DecodeError, AttributeError, ValueError, RecursionError):
            self._reject("not_an_answer")
            return []
        if not isinstance(rows, list):
            self._reject("no_results")
            return []
        found: list[Rule] = []
        for row in rows[:_MAX_ROWS]:
            rule = _rule(row)
            if isinstance(rule, Rule):
                found.append(rule)
            elif rule:
                self._reject(rule)
        return found

    def _reject(self, reason: str) -> None:
        self.rejected[reason] = self.rejected.get(reason, 0) + 1


def _rule(row: Any) -> Rule | str:
    """The rule of a row, else the reason why it is none; empty where there is nothing wrong with it."""
    if not isinstance(row, dict):
        return "not_an_object"
    number, name, update = row.get("id"), row.get("name"), row.get("update_rules")
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= _MAX_NUMBER:
        return "bad_number"
    kinds = row.get("data_types")
    if row.get("asset_class", "stocks") != "stocks" or (isinstance(kinds, list) and "trade" not in kinds):
        return "other_kind"
    name = name[:100] if isinstance(name, str) else ""
    if update is None:
        # It forbids nothing, as an indicator of a security's status; unless the shipped table knows better.
        return "" if number in SHIPPED_TABLE.rules else Rule(number, name)
    rules = update.get("consolidated") if isinstance(update, dict) else None
    if not isinstance(rules, dict):
        return "bad_rules"
    high_low, last, volume = (rules.get(key) for key in _RULE_NAMES)
    if not (isinstance(high_low, bool) and isinstance(last, bool) and isinstance(volume, bool)):
        return "bad_rules"
    return Rule(number, name, high_low, last, volume)
