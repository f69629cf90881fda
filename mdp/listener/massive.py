"""MDL for Massive.com: keeps one connection of the official client alive and puts its frames in the ring."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import msgspec
import structlog

from mdp.config import MassiveConfig
from mdp.config_rules import RULES
from mdp.stage import Health

from .attempt import CLIENT_YIELDS, Attempt, FrameSink
from .backoff import Backoff
from .gaps import GapLedger
from .market_status import MarketView
from .outcome import Next, Outcome, of_status, one_line
from .recorder import Recorder
from .ring import RawRing
from .states import FeedState, ListenerCounters, StateChange, StateMachine
from .subscriptions import SubscriptionBook
from .watchdog import Market, Watchdog

log = structlog.get_logger(__name__)

CLOSED_RETRY_SECONDS = 60.0
STOP_SECONDS = 1.4  # bounds the wait for a connection that does not want to close
STATUS_LOG_NS = 1_000_000_000
MAX_STATUS_KINDS = 32  # label values that a peer can make us count


class MassiveListener:
    """The listener stage.

    Connects, authenticates and subscribes through the official client, one client per attempt, and goes
    on for ever: only a refused key or an operator ends it. HTTP 401/403 on the upgrade does not: the key
    is not part of the upgrade, so such an answer comes from something in front of the feed and may pass.

    Args:
        config: `[massive]`; the listener keeps a copy, `configure` changes that.
        ring: Where frames go with their arrival time.
        market_status: Whether the market is open, and the provider's time.
        clock: Monotonic nanoseconds; the ring must use the same.
        wall_ms: Epoch milliseconds, for what people read.
        rng: Jitter of the back-off.
        sleep: Waits between attempts and between looks of the watchdog.
        client_yields: Whether the official client gives the loop back at each frame (Python 3.11).
        takeover_seconds: Waits after the first answers that another connection uses the key, before the cool
            down: who takes over from another process comes while its connection is still being closed.
    """

    name = "listener"

    def __init__(
        self,
        config: MassiveConfig,
        ring: RawRing,
        *,
        market_status: MarketView,
        clock: Callable[[], int] = time.monotonic_ns,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        rng: random.Random | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        client_yields: bool = CLIENT_YIELDS,
        takeover_seconds: Sequence[float] = (),
    ) -> None:
        self._takeover_seconds = tuple(takeover_seconds)
        self._refusals = 0  # answers that another connection uses the key, since a stable one
        self._config = msgspec.structs.replace(config, subscriptions=list(config.subscriptions))
        self._market = market_status
        self._clock = clock
        self._sleep = sleep
        self._client_yields = client_yields
        self._sink = FrameSink(ring, clock=clock)
        self._machine = StateMachine(wall_ms=wall_ms)
        self._backoff = Backoff(cap_seconds=config.backoff_max_seconds, rng=rng or random.Random())
        self._book = SubscriptionBook(config.subscriptions)
        self._attempt: Attempt | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._control = asyncio.Lock()  # operators one after the other
        self._last_failure = ""  # why the last attempt ended, for people; empty once live
        self._told_status_ns = -STATUS_LOG_NS
        self._stopped = False  # the stage, not only the feed
        self.gaps = GapLedger(wall_ms=wall_ms, market_ms=market_status.server_now_ms)

    @property
    def state(self) -> FeedState:
        """What the feed is doing."""
        return self._machine.state

    @property
    def state_since(self) -> int:
        """Since when, in epoch milliseconds of the wall clock."""
        return self._machine.since_ms

    @property
    def detail(self) -> str:
        """Why, in one line without secrets."""
        return self._machine.detail

    @property
    def counters(self) -> ListenerCounters:
        """What was counted since the process began."""
        return self._sink.counters

    @property
    def on_change(self) -> list[Callable[[StateChange], None]]:
        """Callbacks for changes of state; append to it. They run in the loop and must be quick."""
        return self._machine.on_change

    @property
    def subscriptions(self) -> SubscriptionBook:
        """What is subscribed and what the provider said to it."""
        return self._book

    @property
    def recorder(self) -> Recorder | None:
        """Where frames are recorded, if anywhere. Whoever sets it also starts and stops it."""
        return self._sink.recorder

    @recorder.setter
    def recorder(self, recorder: Recorder | None) -> None:
        self._sink.recorder = recorder

    async def start(self) -> None:
        """Begin to connect; returns at once."""
        self._stopped = False
        await self.start_feed()

    async def stop(self) -> None:
        """Close the connection and end, within 1.5 s. Safe to call twice, or before `start`."""
        self._stopped = True  # an operator's command that is under way begins nothing any more
        await self._halt("stopped")

    def health(self) -> Health:
        """Good while authenticated data arrives."""
        return Health(self.state is FeedState.LIVE, f"{self.state.value}: {self.detail}")

    def status(self) -> dict[str, Any]:
        """All an operator wants to see, as plain JSON values without secrets."""
        config, last_ns = self._config, self.counters.last_frame_ns
        return {
            "state": self.state.value,
            "state_since_ms": self.state_since,
            "detail": self.detail,
            "feed": config.feed,
            "market": config.market,
            "subscriptions": self._book.as_json(),
            "consecutive_failures": self._backoff.failures,
            "counters": msgspec.to_builtins(self.counters),
            "last_frame_age_ms": (self._clock() - last_ns) // 1_000_000 if last_ns else None,
            "gaps": self.gaps.total,
        }

    async def start_feed(self) -> None:
        """Connect and stay connected. Does nothing where the feed runs already."""
        async with self._control:
            self._begin()

    async def stop_feed(self, why: str = "stopped by an operator", *, reason: str = "operator") -> None:
        """Disconnect until `start_feed`. What is missed meanwhile is a gap, with that word as its reason."""
        async with self._control:
            await self._halt(why, reason)

    async def restart_feed(self) -> None:
        """Disconnect and connect again at once, also out of `failed` or a long wait."""
        async with self._control:
            await self._halt("restarted by an operator")
            self._begin()

    async def configure(
        self,
        feed: str | None = None,
        market: str | None = None,
        subscriptions: Iterable[str] | None = None,
    ) -> None:
        """Change what is connected to, at run time; None leaves as it is.

        New subscriptions are asked for on the live connection; a new feed or market reconnects.

        Raises:
            ValueError: One line: a value is not allowed; nothing was changed.
        """
        async with self._control:
            wanted = self._config.subscriptions if subscriptions is None else list(subscriptions)
            changed = msgspec.structs.replace(
                self._config,
                feed=self._config.feed if feed is None else feed,
                market=self._config.market if market is None else market,
                subscriptions=wanted,
            )
            for key in ("feed", "market", "subscriptions"):
                _check(key, getattr(changed, key))
            moved = (changed.feed, changed.market) != (self._config.feed, self._config.market)
            self._config = changed
            added, removed = self._book.change(wanted)
            log.info(
                "feed_configured", feed=changed.feed, market=changed.market, added=added, removed=removed
            )
            if self._supervisor is None:
                return
            if moved:
                await self._halt("reconnecting to another feed")
                self._begin()
            elif (added or removed) and self._attempt is not None:
                self._attempt.resubscribe(self._book.wanted)
                self._book.asked(self._clock(), fresh=False)

    def on_status(self, status: str, message: str) -> None:
        """A status event found in a frame after authentication (called by the decode stage)."""
        statuses = self.counters.statuses
        if status in statuses or len(statuses) < MAX_STATUS_KINDS:
            statuses[status] = statuses.get(status, 0) + 1
        if status == "success":
            self._book.on_success(message)
            return
        text = one_line(message, (self._config.api_key,))
        outcome = of_status(status, text)
        if outcome is not None:
            if self._attempt is not None:
                self._attempt.end(outcome)
        elif status == "error" and "not authorized" in message.lower():
            self._report_degraded(self._book.on_refusal(message, self._clock()))
        elif status not in ("connected", "auth_success"):
            now = self._clock()
            if now - self._told_status_ns >= STATUS_LOG_NS:  # a provider that repeats itself fills no disk
                self._told_status_ns = now
                log.warning("feed_status", status=one_line(status), message=text)

    def _begin(self) -> None:
        if self._stopped or (self._supervisor is not None and not self._supervisor.done()):
            return
        if not self._config.api_key:
            self._enter(FeedState.FAILED, "no API key: set massive.api_key or MASSIVE_API_KEY")
            return
        self._backoff.reset()
        self._refusals = 0
        self._last_failure = ""
        self._supervisor = asyncio.create_task(self._run(), name="listener")

    async def _halt(self, why: str, reason: str = "operator") -> None:
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            if self.state is FeedState.LIVE:
                self._open_gap(reason, why)
            supervisor.cancel()
            await asyncio.wait({supervisor}, timeout=STOP_SECONDS)
        self._enter(FeedState.IDLE, why)

    async def _run(self) -> None:
        watchdog = asyncio.create_task(self._watch(), name="listener-watchdog")
        try:
            while True:
                outcome = await self._try_once()
                if outcome.then is Next.GIVE_UP:
                    self._enter(FeedState.FAILED, outcome.detail)
                    return
                await self._wait(outcome)
        except asyncio.CancelledError:
            raise
        except Exception as exc:  # a mistake of ours must be seen, not look like a quiet market
            log.exception("listener_crashed")
            self._enter(FeedState.FAILED, f"internal error: {one_line(exc, (self._config.api_key,))}")
        finally:
            watchdog.cancel()
            await asyncio.wait({watchdog}, timeout=0.2)

    async def _try_once(self) -> Outcome:
        """One connection, from dialling to its end."""
        config, counters = self._config, self.counters
        after = f"; last attempt: {self._last_failure}" if self._last_failure else ""
        self._enter(FeedState.CONNECTING, f"connecting to {config.feed}, {config.market}{after}")
        counters.attempts += 1
        self.gaps.note_attempt()
        attempt = self._attempt = Attempt(
            config,
            self._book.wanted,
            self._sink,
            on_open=self._on_open,
            on_live=self._on_live,
            client_yields=self._client_yields,
        )
        try:
            outcome = await attempt.run()
        finally:
            self._attempt = None
        counters.disconnects[outcome.reason] = counters.disconnects.get(outcome.reason, 0) + 1
        log.log(
            logging.ERROR if outcome.then is Next.GIVE_UP else logging.WARNING,
            "feed_disconnected",
            reason=outcome.reason,
            detail=outcome.detail,
            data_seconds=round(attempt.data_seconds, 3),
        )
        self._last_failure = outcome.detail
        self._open_gap(outcome.reason, outcome.detail)
        if attempt.data_seconds >= config.stable_seconds:
            self._backoff.reset()
            self._refusals = 0
        return outcome

    async def _wait(self, outcome: Outcome) -> None:
        """Wait as long as the outcome, the failures so far and the market ask for."""
        delay = self._backoff.next_delay()
        if outcome.then is Next.COOL_DOWN:
            early, self._refusals = self._takeover_seconds[self._refusals :], self._refusals + 1
            seconds = early[0] if early else self._config.cooldown_seconds
            self._enter(FeedState.COOLING_DOWN, f"{outcome.detail}; next attempt in {seconds:g} s")
            await self._sleep(seconds)
            return
        if self._market.now(self._config.market) is Market.CLOSED:
            seconds = max(delay, CLOSED_RETRY_SECONDS)
            self._enter(
                FeedState.CONNECTING,
                f"{outcome.detail}; the market is closed, next attempt in {seconds:.0f} s or when it opens",
            )
            await self._sleep_until_open(seconds)
            return
        self._enter(FeedState.CONNECTING, f"{outcome.detail}; next attempt in {delay:.1f} s")
        await self._sleep(delay)

    async def _sleep_until_open(self, seconds: float) -> None:
        waits = {
            asyncio.ensure_future(self._sleep(seconds)),
            asyncio.ensure_future(self._market.wait_until_open(self._config.market)),
        }
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _watch(self) -> None:
        """Restart a connection that is open and silent; settle which subscriptions were refused."""
        config = self._config
        period = max(0.01, min(1.0, config.stall_seconds / 4))
        watchdog = Watchdog(stall_seconds=config.stall_seconds, delayed=config.feed == "Delayed")
        while True:
            await self._sleep(period)
            if self.state is FeedState.LIVE and self._attempt is not None:
                try:
                    self._look(watchdog)
                except Exception:  # a connection without a watchdog would be worse than a line a second
                    log.exception("feed_watchdog_failed")

    def _look(self, watchdog: Watchdog) -> None:
        now = self._clock()
        refused, unanswered = self._book.settle(now)
        self._report_degraded(refused)
        if unanswered:
            log.warning("feed_subscription_unanswered", subscriptions=unanswered)
        if self._sink.ring.holding:
            return  # it is us who are silent
        last_ns = self.counters.last_frame_ns
        if watchdog.silent_too_long(
            now,
            last_ns,
            self._market.now(self._config.market),
            self._book.served,
            open_for_ns=self._market.open_for_ns(),
        ):
            self._restart_stalled((now - last_ns) / 1e9)

    def _restart_stalled(self, silent_seconds: float) -> None:
        detail = f"open, but no data for {silent_seconds:.1f} s over all subscriptions"
        self.counters.stalls += 1
        self._open_gap("stalled", detail)
        self._enter(FeedState.STALLED, detail)
        if self._attempt is not None:
            self._attempt.end(Outcome("stalled", detail))

    def _on_open(self) -> None:
        self._enter(FeedState.AUTHENTICATING, "connected, authenticating")

    def _on_live(self) -> None:
        self.counters.connects += 1
        self._last_failure = ""
        self._book.asked(self._clock(), fresh=True)
        self._enter(FeedState.LIVE, f"receiving {self._config.market} from {self._config.feed}")
        ended = self.gaps.close()
        if ended is not None:
            log.warning(
                "feed_gap",
                reason=ended.reason,
                start_ms=ended.start_ms,
                end_ms=ended.end_ms,
                number=ended.number,
            )

    def _open_gap(self, reason: str, detail: str) -> None:
        last_ns = self.counters.last_frame_ns
        silent_ms = (self._clock() - last_ns) // 1_000_000 if last_ns else 0
        self.gaps.open(reason, detail=detail, silent_ms=silent_ms)

    def _report_degraded(self, pairs: list[str]) -> None:
        if pairs:
            log.warning(
                "feed_subscription_degraded",
                subscriptions=pairs,
                reason="not authorized: the key's plan does not include it; the others go on",
            )

    def _enter(self, state: FeedState, detail: str) -> None:
        before = self._machine.state
        self._machine.to(state, detail)
        if state is not before:
            self.gaps.note_state(state.value)
            log.log(
                logging.ERROR if state is FeedState.FAILED else logging.INFO,
                "feed_state",
                state=state.value,
                detail=detail,
            )


def _check(key: str, value: Any) -> None:
    rule = RULES[f"massive.{key}"]
    try:
        passes = rule.passes(value)
    except (TypeError, AttributeError):  # not even the right type
        passes = False
    if not passes:
        raise ValueError(f"massive.{key}: {one_line(repr(value))} is not allowed; allowed: {rule.allowed}")
